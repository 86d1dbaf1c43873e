"""CPU seconds of this process and of a Postgres beside it."""

from __future__ import annotations

import time
from typing import Any

import psutil
import psycopg


class Meter:
    """Of this process and of a whole Postgres, those of its processes that have ended included."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._postmaster = psutil.Process(psutil.Process(connection.info.backend_pid).ppid())

    def cpu_seconds(self) -> float:
        """All so far; the difference of two counts."""
        ended = self._postmaster.cpu_times()
        running = (process.cpu_times() for process in self._postmaster.children())
        theirs = ended.children_user + ended.children_system + sum(each.user + each.system for each in running)
        return time.process_time() + float(theirs)
