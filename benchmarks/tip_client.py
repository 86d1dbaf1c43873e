"""Clients that measure rounds of requests: tips over HTTP, and bare reads of rows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import uvloop

from benchmarks.meter import CpuMeter
from benchmarks.subprocesses import ModuleProcess


@dataclass(frozen=True)
class Round:
    """`n` requests at one concurrency.

    cpu_seconds: CPU time of the processes that answer.
    postgres_seconds: CPU time of Postgres.
    latencies: in seconds, sorted.
    """

    n: int
    cpu_seconds: float
    postgres_seconds: float
    seconds: float
    latencies: Sequence[float]

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per request of the processes that answer."""
        return 1e6 * self.cpu_seconds / self.n

    @property
    def postgres_us(self) -> float:
        """CPU microseconds per request of Postgres."""
        return 1e6 * self.postgres_seconds / self.n

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.n / self.seconds

    def quantile_ms(self, share: float) -> float:
        """A quantile (0 to 1) of the latencies in milliseconds."""
        return 1e3 * self.latencies[min(self.n - 1, int(share * self.n))]


class TipClient:
    """A client of a server of tips, with persistent connections."""

    def __init__(self, pid: int, port: int, token: str, users: Sequence[str], meter: CpuMeter) -> None:
        """Set the server and its users.

        pid: of the server's process, or of the parent of several. users: of whom tips are requested in turn. meter:
        of the server's Postgres.
        """
        self._process = psutil.Process(pid)
        self._port = port
        self._token = token
        self._users = users
        self._meter = meter

    def run_round(self, n: int, concurrency: int) -> Round:
        """Request `n` tips, `concurrency` at a time."""
        cpu_before, postgres_before = self._cpu_seconds(), self._meter.postgres_seconds()
        seconds, latencies = uvloop.run(self._request_all(n, concurrency))
        cpu_seconds = self._cpu_seconds() - cpu_before
        return Round(n, cpu_seconds, self._meter.postgres_seconds() - postgres_before, seconds, sorted(latencies))

    def _cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in (self._process, *self._process.children())]
        return float(sum(each.user + each.system for each in times))

    async def _request_all(self, n: int, concurrency: int) -> tuple[float, list[float]]:
        connections = [await asyncio.open_connection("127.0.0.1", self._port) for _ in range(concurrency)]
        started = time.perf_counter()
        numbers = [range(start, n, concurrency) for start in range(concurrency)]
        parts = await asyncio.gather(
            *(self._request(each, *connection) for each, connection in zip(numbers, connections, strict=True))
        )
        seconds = time.perf_counter() - started
        for _, writer in connections:
            writer.close()
        return seconds, [latency for part in parts for latency in part]

    async def _request(
        self, numbers: range, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> list[float]:
        """Request tips one after the other on one connection and return the latencies."""
        latencies = []
        for number in numbers:
            user = self._users[number % len(self._users)]
            started = time.perf_counter()
            writer.write(
                f"POST /v1/users/{user}/tip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - started)
        return latencies


class BareReads:
    """A client of `benchmarks.floor`."""

    def __init__(self, process: ModuleProcess, meter: CpuMeter) -> None:
        self._process = process
        self._meter = meter

    def run_round(self, n: int, concurrency: int) -> Round:
        """Make `n` reads, `concurrency` at a time."""
        postgres_before = self._meter.postgres_seconds()
        self._process.write_line(f"{n} {concurrency}")
        cpu_seconds, seconds, latencies = json.loads(self._process.read_line())
        return Round(n, cpu_seconds, self._meter.postgres_seconds() - postgres_before, seconds, latencies)
