"""Faults at the edge of the service: clients without a token, slow, too large, too many, gone, or in its way."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from faults.row import Row, require
from faults.service import RunningService, ServiceTrial, service_trial, wait_until

_MAX_GROWTH_MIB = 40.0
_AT_ONCE_MS = 1000.0


@dataclass(frozen=True)
class Ended:
    """The end of a raw connection.

    status: of the first response, 0 without one.
    answered_after_s: until the first byte of the response.
    seconds: until the server closed it.
    """

    status: int
    seconds: float
    answered_after_s: float


class Attack:
    """Raw connections to a service, all at the same time."""

    def __init__(self, service: RunningService) -> None:
        self._port, self._token = service.port, service.service.token

    def head(self, path: str, *headers: str, method: str = "POST", with_token: bool = False) -> bytes:
        """A request line with headers, without the blank line at their end."""
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
        if with_token:
            lines.append(f"Authorization: Bearer {self._token}")
        return "".join(f"{line}\r\n" for line in lines).encode()

    async def ended(self, data: bytes, trickle: bytes = b"", limit_s: float = 20.0) -> Ended:
        """Send bytes, then a trickle of others, and wait for the end of the connection."""
        started = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(data)
        dripping = asyncio.create_task(self._drip(writer, trickle))
        received, answered_after_s = b"", 0.0
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(limit_s):
                while part := await reader.read(65_536):
                    answered_after_s = answered_after_s or time.perf_counter() - started
                    received += part
        dripping.cancel()
        writer.transport.abort()
        status = int(received.split()[1]) if received.startswith(b"HTTP/1.1 ") else 0
        return Ended(status, time.perf_counter() - started, answered_after_s)

    async def _drip(self, writer: asyncio.StreamWriter, trickle: bytes) -> None:
        with suppress(ConnectionError):
            while trickle and not writer.is_closing():
                await asyncio.sleep(0.2)
                writer.write(trickle)


async def attacked(
    service: RunningService, users: Sequence[str], n: int, data: bytes, trickle: bytes = b""
) -> tuple[list[Ended], Counter[int]]:
    """The ends of `n` hostile connections, and the statuses of tips that a caller requests meanwhile."""
    attack, tips = Attack(service), Counter[int]()
    hostile = [asyncio.create_task(attack.ended(data, trickle)) for _ in range(n)]
    for user in users:
        tips[(await asyncio.to_thread(service.tip, user)).status] += 1
    return list(await asyncio.gather(*hostile)), tips


def under_attack(
    trial: ServiceTrial, service: RunningService, n: int, data: bytes, status: int, trickle: bytes = b""
) -> str:
    """Attack, require one status for all hostile connections, answers for callers and no memory; return figures."""
    service.tip(trial.ready[0])
    before = service.memory_mib()
    ends, tips = asyncio.run(attacked(service, trial.ready[:20], n, data, trickle))
    after = service.memory_mib()
    statuses = Counter(end.status for end in ends)
    require(statuses == {status: n}, f"the hostile connections got {dict(statuses)}")
    require(tips == {200: 20}, f"meanwhile the caller got {dict(tips)}")
    require(after - before < _MAX_GROWTH_MIB, f"memory grew from {before:.0f} to {after:.0f} MiB")
    slowest = max(end.answered_after_s for end in ends)
    longest = max(end.seconds for end in ends)
    return (
        f"{n} connections: {status} within {slowest:.1f} s, closed within {longest:.1f} s;"
        f" 20 of 20 tips meanwhile; memory {before:.0f} -> {after:.0f} MiB"
    )


def bodies_without_a_token(trial: ServiceTrial) -> str:
    """Send 8 MB of announced 10 GB on each of many connections, without a token."""
    service = trial.start()
    head = Attack(service).head("/v1/decisions/1/reaction", "Content-Length: 10000000000")
    return under_attack(trial, service, 50, head + b"\r\n" + b"x" * 8_000_000, 401)


def pipelined_without_a_token(trial: ServiceTrial) -> str:
    """Send 50,000 requests ahead on each of some connections, without a token."""
    service = trial.start()
    request = Attack(service).head("/v1/users/a/tip") + b"\r\n"
    return under_attack(trial, service, 20, request * 50_000, 401)


def endless_headers(trial: ServiceTrial) -> str:
    """Send 8 MB of headers without an end on each of many connections."""
    service = trial.start()
    head = Attack(service).head("/healthz", method="GET")
    return under_attack(trial, service, 50, head + b"X-Y: z\r\n" * 1_000_000, 431)


def slow_headers(trial: ServiceTrial) -> str:
    """Send the headers one line after the other, for ever."""
    service = trial.start(headers_timeout=2)
    head = Attack(service).head("/healthz", method="GET")
    return under_attack(trial, service, 300, head, 408, trickle=b"X: y\r\n")


def slow_bodies(trial: ServiceTrial) -> str:
    """Send a body byte by byte, with a token, on as many connections as requests may be under way, but a few."""
    service = trial.start(body_timeout=2, max_requests=60)
    head = Attack(service).head("/v1/decisions/1/reaction", "Content-Length: 60000", with_token=True)
    figures = under_attack(trial, service, 50, head + b"\r\n{", 408, trickle=b" ")
    require(service.under_way() == 0, "requests are still under way")
    return figures


def all_places_taken(trial: ServiceTrial) -> str:
    """Open four times as many connections as there are places, and send nothing."""
    service = trial.start(max_connections=100, headers_timeout=60)

    async def crowd() -> Counter[int]:
        silent = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(400)]
        tips = Counter[int]()
        for user in trial.ready[:20]:
            tips[(await asyncio.to_thread(service.tip, user)).status] += 1
        for _, writer in silent:
            writer.transport.abort()
        return tips

    tips = asyncio.run(crowd())
    require(tips == {200: 20}, f"the caller got {dict(tips)}")
    n_evicted = service.counters()["connections_refused"]
    return f"400 silent connections on 100 places: 20 of 20 tips; {n_evicted:.0f} made room"


def clients_that_do_not_read(trial: ServiceTrial) -> str:
    """Request large pages and read none of them."""
    service = trial.start(write_timeout=2, keep_alive=3)
    service.tip(trial.ready[0])
    request = Attack(service).head("/openapi.json", method="GET") + b"\r\n"
    n_files, before = service.n_open_files(), service.memory_mib()

    async def stare() -> float:
        started = time.perf_counter()
        clients = [await asyncio.open_connection("127.0.0.1", service.port, limit=1024) for _ in range(60)]
        for _, writer in clients:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(100):
            for _, writer in clients:
                writer.write(request)
            await asyncio.sleep(0.01)
        await asyncio.to_thread(
            wait_until, lambda: service.n_open_files() <= n_files, "the connections are still open", 30.0
        )
        for _, writer in clients:
            writer.transport.abort()
        return time.perf_counter() - started

    seconds = asyncio.run(stare())
    after = service.memory_mib()
    require(after - before < _MAX_GROWTH_MIB, f"memory grew from {before:.0f} to {after:.0f} MiB")
    return f"60 connections: all closed within {seconds:.1f} s; memory {before:.0f} -> {after:.0f} MiB"


def more_than_max_requests(trial: ServiceTrial) -> str:
    """Let the LLM be slow, and request ten times as many tips as may be under way."""
    trial.llm.seconds = 2.0
    service = trial.start(max_requests=20)
    load = service.together(trial.cold[:200])
    refused = load.of(503)
    require(set(load.statuses) == {200, 503}, f"the statuses are {dict(load.statuses)}")
    require(len(load.of(200)) >= 20, "fewer than MAX_REQUESTS were answered")
    require(all("retry-after" in reply.headers for reply in refused), "a refusal lacks Retry-After")
    p50 = load.quantile_ms(0.5, 503)
    require(p50 < _AT_ONCE_MS, f"half of the refusals took more than {p50:.0f} ms")
    return f"{load.figures()}; refusals p50 {p50:.0f} ms"


def clients_that_leave(trial: ServiceTrial) -> str:
    """Let decisions be slow, and close the connections before the answers."""
    service = trial.start()
    trial.slow_decisions(0.02)
    request = Attack(service).head("/v1/users/{}/tip", with_token=True).decode() + "\r\n"

    async def leave() -> None:
        clients = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(100)]
        for user, (_, writer) in zip(trial.ready, clients, strict=False):
            writer.write(request.format(user).encode())
        await asyncio.sleep(0.3)
        for _, writer in clients:
            writer.transport.abort()

    asyncio.run(leave())
    wait_until(lambda: service.under_way() == 0, "requests of clients that left are still under way")
    wait_until(lambda: trial.one("SELECT count(*) FROM decisions") > 0, "the decisions under way were not logged")
    is_settled = "SELECT NOT EXISTS (SELECT FROM decisions WHERE delivered)"
    wait_until(lambda: trial.one(is_settled), "a decision that nobody got counts as delivered")
    n_logged = trial.one("SELECT count(*) FROM decisions")
    require(n_logged < 100, "no queued request was dropped")
    trial.fast_decisions()
    seconds = service.seconds_until_well(trial.ready)
    return (
        f"100 left after 0.3 s: {n_logged} decisions were logged, all marked undelivered; well after {seconds:.1f} s"
    )


def end_with_stubborn_clients(trial: ServiceTrial) -> str:
    """Terminate the process while clients are silent, slow, half done, do not read, or wait for an LLM that hangs."""
    trial.llm.seconds = 60.0
    service = trial.start(grace_period=6, drain_delay=1, headers_timeout=60, body_timeout=60, llm_timeout=60)
    attack = Attack(service)
    half = attack.head("/v1/users/a/tip")
    slow = attack.head("/v1/decisions/1/reaction", "Content-Length: 100", with_token=True) + b"\r\n{"
    page = (attack.head("/openapi.json", method="GET") + b"\r\n") * 16
    hanging = attack.head(f"/v1/users/{trial.cold[0]}/tip", with_token=True) + b"\r\n"

    async def terminate() -> tuple[int, float, int]:
        kinds = [b"", half, slow, page, hanging]
        clients = [
            (await asyncio.open_connection("127.0.0.1", service.port, limit=1024), data)
            for data in kinds
            for _ in range(20)
        ]
        for (_, writer), data in clients:
            writer.write(data)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.5)
        started = time.perf_counter()
        os.kill(service.service.pid, signal.SIGTERM)
        ready = await asyncio.to_thread(service.request, "GET", "/readyz")
        _, status = await asyncio.to_thread(os.waitpid, service.service.pid, 0)
        seconds = time.perf_counter() - started
        for (_, writer), _ in clients:
            writer.transport.abort()
        return ready.status, seconds, os.waitstatus_to_exitcode(status)

    ready, seconds, status = asyncio.run(terminate())
    require(ready == 503, f"/readyz answered {ready} after SIGTERM")
    require(status == 0, f"the exit status is {status}")
    require(seconds < 6.5, f"the process ended after {seconds:.1f} s")
    return f"100 clients in five kinds; /readyz 503 at once; ended after {seconds:.1f} of 6 s with status 0"


def end_with_a_silent_database(trial: ServiceTrial) -> str:
    """Terminate the process while Postgres does not answer."""
    service = trial.start(grace_period=5)
    service.tip(trial.ready[0])
    trial.proxy.is_silent = True

    async def terminate() -> tuple[float, int]:
        attack = Attack(service)
        request = attack.head(f"/v1/users/{trial.ready[0]}/tip", with_token=True) + b"\r\n"
        waiting = [asyncio.create_task(attack.ended(request)) for _ in range(10)]
        await asyncio.sleep(0.5)
        started = time.perf_counter()
        os.kill(service.service.pid, signal.SIGTERM)
        _, status = await asyncio.to_thread(os.waitpid, service.service.pid, 0)
        seconds = time.perf_counter() - started
        await asyncio.gather(*waiting)
        return seconds, os.waitstatus_to_exitcode(status)

    try:
        seconds, status = asyncio.run(terminate())
    finally:
        trial.proxy.heal()
    require(status == 0, f"the exit status is {status}")
    require(seconds < 5.5, f"the process ended after {seconds:.1f} s")
    return f"ended after {seconds:.1f} of 5 s with status 0"


def readiness(trial: ServiceTrial) -> str:
    """Let Postgres be silent, then read-only, then as before, and ask /readyz."""
    service = trial.start()
    require(service.request("GET", "/readyz").status == 200, "the service is not ready at first")
    trial.proxy.is_silent = True
    silent = service.request("GET", "/readyz")
    trial.proxy.heal()
    require(silent.status == 503 and silent.seconds < 3, f"{silent.status} after {silent.seconds:.1f} s of silence")
    name = trial.database_url.partition("?")[0].rpartition("/")[2]
    trial.connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    trial.proxy.cut()
    wait_until(
        lambda: b"read-only" in service.request("GET", "/readyz").body, "/readyz does not see that it is read-only"
    )
    trial.connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
    seconds = wait_until(lambda: service.request("GET", "/readyz").status == 200, "/readyz does not recover")
    return f"silent: 503 after {silent.seconds:.1f} s; read-only: named; ready again after {seconds:.1f} s"


def hostile_host(trial: ServiceTrial) -> str:
    """Request addresses with a slash at the end, with a Host of somebody else."""
    service = trial.start()
    attack = Attack(service)

    async def pages() -> list[bytes]:
        found = []
        for path in ("/v1/users/a/tip/", "/v1/users/a/context/", "/healthz/", "/docs/", "/metrics/"):
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            head = attack.head(path, "Connection: close", method="GET", with_token=True)
            writer.write(head.replace(b"Host: x", b"Host: evil.example") + b"\r\n")
            found.append(await reader.read())
            writer.close()
        return found

    answers = asyncio.run(pages())
    statuses = Counter(int(answer.split()[1]) for answer in answers)
    require(set(statuses) <= {404, 405}, f"the statuses are {dict(statuses)}")
    require(not [answer for answer in answers if b"evil" in answer], "an answer repeats the Host header")
    return f"5 addresses: {dict(statuses)}"


def _row(fault: str, promise: str, run: object, n_quick: int = 0) -> Row:
    return Row(fault, "service: edge", promise, run, open=service_trial, n_quick=n_quick)  # type: ignore[arg-type]


_NO_COST = "refused and closed; callers are answered, memory stays"

ROWS = (
    _row("bodies of 10 GB without a token", _NO_COST, bodies_without_a_token, n_quick=1),
    _row("a million requests ahead without a token", _NO_COST, pipelined_without_a_token),
    _row("headers without an end", _NO_COST, endless_headers),
    _row("headers line by line", _NO_COST, slow_headers),
    _row("bodies byte by byte", _NO_COST, slow_bodies),
    _row("all places taken by silent clients", "callers are answered", all_places_taken),
    _row("clients that do not read", "their connections end, memory stays", clients_that_do_not_read),
    _row("ten times MAX_REQUESTS", "the rest is refused at once with Retry-After", more_than_max_requests),
    _row("clients that leave", "their work is dropped, their decisions are undelivered", clients_that_leave),
    _row("SIGTERM with stubborn clients", "status 0 within the grace period", end_with_stubborn_clients),
    _row("SIGTERM with a silent Postgres", "status 0 within the grace period", end_with_a_silent_database),
    _row("a silent, then a read-only Postgres", "/readyz knows, and recovers", readiness),
    _row("a slash at the end and another Host", "no redirect, no Host in answers", hostile_host),
)
