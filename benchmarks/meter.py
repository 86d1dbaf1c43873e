"""CPU time of this process and of the Postgres server that it uses."""

from __future__ import annotations

import time
from typing import Any

import psutil
import psycopg


class CpuMeter:
    """Measures CPU time of this process and of a whole Postgres server, including its ended processes."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._postmaster = psutil.Process(psutil.Process(connection.info.backend_pid).ppid())

    def cpu_seconds(self) -> float:
        """The CPU seconds so far; callers take the difference of two readings."""
        return time.process_time() + self.postgres_seconds()

    def postgres_seconds(self) -> float:
        """The CPU seconds of the server alone."""
        ended = self._postmaster.cpu_times()
        running = (process.cpu_times() for process in self._postmaster.children())
        return float(
            ended.children_user + ended.children_system + sum(times.user + times.system for times in running)
        )
