"""The edge of the service for tests: server, connections and gate over routes without a database, and raw clients."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec
from uuid import UUID, uuid4

import uvloop
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from serving.auth import BearerAuth
from serving.connections import ConnectionTable
from serving.fast_path import TipFastPath
from serving.gate import Gate
from serving.limits import ConnectionLimits, GateLimits, ShutdownTimes
from serving.metrics import Metrics
from serving.problems import Problem, error_responder
from serving.routes import RouteTable
from serving.server import Server

P = ParamSpec("P")

TOKEN = "token-of-the-product"
HEAD = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\n"
TIP = f"POST /v1/users/ann/tip HTTP/1.1\r\n{HEAD}\r\n"
SLOW_TIP = f"POST /v1/users/slow/tip HTTP/1.1\r\n{HEAD}\r\n"
HEALTH = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
LIMITS = ConnectionLimits(
    max_connections=100,
    max_header_bytes=4096,
    max_body_bytes=8192,
    headers_timeout_s=0.4,
    keep_alive_s=1.5,
    write_timeout_s=0.4,
)
GATE_LIMITS = GateLimits(max_requests=3, max_body_bytes=8192, body_timeout_s=0.4)


@dataclass
class Work:
    """The work of the routes: `slow` users wait until `may_finish`."""

    may_finish: asyncio.Event = field(default_factory=asyncio.Event)
    n_slow: int = 0
    n_cancelled: int = 0
    bodies: list[bytes] = field(default_factory=list)
    undelivered: list[UUID] = field(default_factory=list)

    async def tip(self, user_id: str) -> tuple[bytes, UUID]:
        if user_id == "huge":
            return b"x" * 4_000_000, uuid4()
        if user_id == "slow":
            await self._wait()
        return json.dumps({"tip": user_id}).encode(), uuid4()

    async def reaction(self, request: Request) -> Response:
        body = await request.body()
        if body in (b"slow", b"broken"):
            await self._wait()
        if body == b"broken":
            raise RuntimeError("private text")
        self.bodies.append(body)
        return PlainTextResponse("stored")

    async def parts(self, _: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"part"
            await self.may_finish.wait()
            yield b"HTTP/1.1 "  # looks like the head of another response

        return StreamingResponse(parts())

    async def _wait(self) -> None:
        self.n_slow += 1
        try:
            await self.may_finish.wait()
        except asyncio.CancelledError:
            self.n_cancelled += 1
            raise
        finally:
            self.n_slow -= 1


@dataclass
class Reply:
    """A response. status: 0 if the connection was closed instead."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> str:
        """The detail of a problem document."""
        assert self.headers["content-type"] == "application/problem+json"
        return str(json.loads(self.body)["detail"])


class RawClient:
    """A connection on which any bytes can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: str | bytes) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        """The next response."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return Reply(0, {}, b"")
        status, *lines = head.decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(status.split()[1]), headers, body)

    async def ask(self, data: str | bytes) -> Reply:
        """The response to a request."""
        await self.send(data)
        return await self.reply()

    async def is_closed(self, within_s: float = 5.0) -> bool:
        """Whether the server closes the connection in time, without more data."""
        try:
            return await asyncio.wait_for(self.reader.read(1), within_s) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def leave(self) -> None:
        """Close the connection."""
        self.writer.close()


@dataclass
class Edge:
    """A running server."""

    server: Server
    gate: Gate
    work: Work
    table: ConnectionTable
    port: int
    serving: asyncio.Task[None]
    was_ended: list[bool]

    async def client(self, data: str | bytes = b"") -> RawClient:
        """A new connection that has sent these bytes."""
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port))
        await client.send(data)
        return client

    def terminate(self) -> None:
        """Begin the shutdown, as SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)

    def counts(self, name: str, *labels: str) -> Counter[tuple[str, ...]]:
        """The samples of a metric by the values of labels."""
        counts: Counter[tuple[str, ...]] = Counter()
        for family in text_string_to_metric_families(self.gate.metrics.render().decode()):
            for sample in family.samples:
                if sample.name == name:
                    counts[tuple(sample.labels[label] for label in labels)] += int(sample.value)
        return counts

    def responses(self) -> Counter[tuple[str, ...]]:
        """The counted responses by route, status and reason."""
        return self.counts("http_responses_total", "route", "status", "reason")

    def refusals(self) -> Counter[tuple[str, ...]]:
        """The counted connections that were ended, by reason."""
        return self.counts("connections_refused_total", "reason")


@asynccontextmanager
async def running_edge(
    limits: ConnectionLimits = LIMITS,
    gate_limits: GateLimits = GATE_LIMITS,
    times: ShutdownTimes = ShutdownTimes(0.0, 3.0),  # noqa: B008
    n_background: Callable[[], int] = lambda: 0,
) -> AsyncIterator[Edge]:
    """The edge on a free port of this event loop. n_background: the number of pieces of work behind answers."""
    work, metrics, was_ended = Work(), Metrics(), []
    routes = Starlette(
        routes=[
            Route("/healthz", _text),
            Route("/readyz", _text),
            Route("/parts", work.parts),
            Route("/v1/users/{user_id}/tip", _text, methods=["POST"]),
            Route("/v1/decisions/{decision_id}/reaction", work.reaction, methods=["POST"]),
        ]
    )
    gate = Gate(
        TipFastPath(routes, work.tip, work.undelivered.append),
        RouteTable(routes.routes),
        BearerAuth([TOKEN]),
        metrics,
        gate_limits,
        error_responder({KeyError: lambda _: Problem(404, "missing")}),
    )
    table = ConnectionTable(limits, metrics.refused_connection)
    metrics.watch_connections(lambda: len(table), limits.max_connections)
    server = Server(
        gate,
        table,
        times,
        host="127.0.0.1",
        port=0,
        n_background=n_background,
        end_process=lambda: was_ended.append(True),
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Edge(server, gate, work, table, port, serving, was_ended)
    finally:
        if not serving.done():
            server.handle_exit(signal.SIGTERM, None)
            server.force_exit = True
        await serving
        server.last_resort.cancel()


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def _text(_: Request) -> Response:
    return PlainTextResponse("ok")


def in_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in the event loop that the service uses, for at most 20 seconds."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(asyncio.wait_for(test(*args, **kwargs), 20))

    return run
