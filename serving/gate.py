"""The gate before all routes: checks the token, the load and the size of the body before a route does any work."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access_log import AccessEntry, AccessLog
from serving.auth import BearerAuth
from serving.connections import AUTHENTICATED
from serving.limits import GateLimits
from serving.metrics import Metrics
from serving.problems import Problem
from serving.routes import PUBLIC, RouteTable

_CLOSE = (b"connection", b"close")
_FINISHED_METHODS = frozenset({"PUT", "PATCH", "DELETE"})
_FINISHED_ROUTES = ("/reaction", "/callback")


@dataclass
class Lane:
    """A kind of requests with limits of its own, so that a flood of one kind takes no place from another.

    admit: checks a request before a byte of its body is read; raises Problem to refuse it.
    """

    app: ASGIApp
    admit: Callable[[Scope], None]
    limits: GateLimits
    n_under_way: int = 0


class Gate:
    """ASGI middleware around the whole app, which refuses, counts and logs requests.

    A request without a token is refused before a byte of its body is read. A request beyond `max_requests` is refused
    before any other work for it. Every response is counted by route, status and reason; its id is in `X-Request-Id`
    and in the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: RouteTable,
        auth: BearerAuth,
        metrics: Metrics,
        limits: GateLimits,
        to_response: Callable[[Exception], Response],
        lanes: Mapping[str, Lane] | None = None,
    ) -> None:
        """to_response: makes the response to an exception that `app` did not handle.

        lanes: of the routes that need no token, by route; all other requests share one lane.
        """
        self._app = app
        self._routes = routes
        self._auth = auth
        self.metrics = metrics
        self._callers = Lane(app, self._check_token, limits)
        self._lanes = lanes or {}
        self._to_response = to_response
        self.access_log = AccessLog()
        self._ids = _ids(secrets.token_hex(4))
        self._is_draining = self._is_replaced = False
        metrics.watch_requests(lambda: self._callers.n_under_way, limits.max_requests)

    def drain(self, *, is_replaced: bool = False) -> None:
        """Prepare for the end of the process: `/readyz` answers 503, and each response closes its connection.

        is_replaced: other processes serve the port, so `/readyz` answers as before.
        """
        self._is_draining, self._is_replaced = True, is_replaced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started_at = time.perf_counter()
        route = self._routes.template(scope["path"])
        exchange = _Exchange(scope, send, route, next(self._ids), closes=self._is_draining)
        if scope["method"] == "HEAD":  # answered as GET, and the body is left out when it is sent
            exchange.scope = {**scope, "method": "GET"}
        try:
            await self._answer(exchange, receive)
        except asyncio.CancelledError:  # the client left, or the time for the shutdown is over
            if self._is_draining and not exchange.is_started:
                await exchange.refuse(self._to_response(_shutting_down()))
            else:
                exchange.entry.status, exchange.entry.reason = 499, "client_left"
            raise
        finally:
            entry = exchange.entry
            self.metrics.responded(entry.route, entry.status, entry.reason)
            self.access_log.add(entry, time.perf_counter() - started_at)

    async def _answer(self, exchange: _Exchange, receive: Receive) -> None:
        try:
            if exchange.entry.route in PUBLIC:
                await self._answer_public(exchange, receive)
            else:
                await self._answer_in(self._lanes.get(exchange.entry.route, self._callers), exchange, receive)
        except Exception as error:
            if not exchange.is_started:
                await exchange.refuse(self._to_response(error))

    async def _answer_public(self, exchange: _Exchange, receive: Receive) -> None:
        if self._is_draining and not self._is_replaced and exchange.entry.route == "/readyz":
            raise _shutting_down()
        if _has_body(exchange.headers):
            exchange.closes_refusal = True
            raise Problem(413, "this address takes no body", reason="body_too_large")
        await self._app(exchange.scope, receive, exchange.send)

    async def _answer_in(self, lane: Lane, exchange: _Exchange, receive: Receive) -> None:
        exchange.closes_refusal = True
        lane.admit(exchange.scope)
        limits = lane.limits
        if lane.n_under_way >= limits.max_requests:
            exchange.closes_refusal = False
            raise Problem(
                503,
                f"{limits.requests_setting}={limits.max_requests} requests are under way; try again in a second",
                {"Retry-After": "1"},
                reason="overloaded",
            )
        lane.n_under_way += 1
        try:
            if _has_body(exchange.headers):
                body = await _read_body(limits, exchange.headers, receive)
                receive = _replayed(body, receive)
            exchange.closes_refusal = False
            await self._work(lane.app, exchange, receive)
        finally:
            lane.n_under_way -= 1

    def _check_token(self, scope: Scope) -> None:
        """Raise Problem 401 unless a request has one of the service's tokens."""
        self._auth.check(_authorization(scope))
        scope.setdefault("state", {})[AUTHENTICATED] = True

    async def _work(self, app: ASGIApp, exchange: _Exchange, receive: Receive) -> None:
        """Run the app; a write is finished even if the client does not wait for the response."""
        if not exchange.is_write:
            await app(exchange.scope, receive, exchange.send)
            return
        task = asyncio.ensure_future(app(exchange.scope, receive, exchange.send))
        task.add_done_callback(_read_error)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._is_draining:
                task.cancel()
            await asyncio.wait([task])
            raise


class _Exchange:
    """One request, and the response as far as it was sent."""

    __slots__ = ("_closes", "_send", "closes_refusal", "entry", "headers", "is_started", "scope")

    def __init__(self, scope: Scope, send: Send, route: str, request_id: str, *, closes: bool) -> None:
        """closes: whether the response closes the connection."""
        client = scope.get("client")
        self.scope = scope
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.entry = AccessEntry(request_id, scope["method"], route, client[0] if client else "-")
        self.is_started = False
        self.closes_refusal = False
        self._closes = closes
        self._send = send

    @property
    def is_write(self) -> bool:
        """Whether the request is finished even if its client leaves: a reaction, a deletion or a callback."""
        return self.entry.method in _FINISHED_METHODS or self.entry.route.endswith(_FINISHED_ROUTES)

    async def send(self, message: Message) -> None:
        """Send a part of the response, with the request's id."""
        entry = self.entry
        if message["type"] == "http.response.start":
            self.is_started = True
            headers = [*message.get("headers", ()), (b"x-request-id", entry.request_id.encode())]
            if self._closes:
                headers.append(_CLOSE)
            await self._send({"type": "http.response.start", "status": message["status"], "headers": headers})
            entry.status, entry.reason = message["status"], self.scope.get("reason", "ok")
            return
        if entry.method == "HEAD":
            message = {**message, "body": b""}
        entry.n_bytes += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, response: Response) -> None:
        """Send a response instead of the app's, which has not started."""
        self._closes = self._closes or self.closes_refusal
        await response(self.scope, _no_message, self.send)


def _ids(prefix: str) -> Iterator[str]:
    """Yield the prefix with ascending numbers: such ids cost less than random ones."""
    return (f"{prefix}{number:08x}" for number in count())


def _shutting_down() -> Problem:
    return Problem(503, "this process is shutting down; send the request to another one", reason="shutting_down")


def _authorization(scope: Scope) -> str:
    """The Authorization header; empty if there is none, or several, of which a proxy may have checked any one."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    return str(values[0].decode("latin-1")) if len(values) == 1 else ""


async def _read_body(limits: GateLimits, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """The whole body; raises Problem 413 or 408."""
    too_large = Problem(
        413, f"the body is larger than {limits.body_setting}={limits.max_body_bytes}", reason="body_too_large"
    )
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limits.max_body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise asyncio.CancelledError
                body += message.get("body", b"")
                if len(body) > limits.max_body_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Problem(
            408,
            f"the body was not complete after BODY_TIMEOUT={limits.body_timeout_s:g} seconds",
            reason="body_too_slow",
        ) from None


def _has_body(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns a body that has been read already, and then the messages after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _no_message() -> Message:
    return {"type": "http.disconnect"}


def _read_error(task: asyncio.Future[None]) -> None:
    """Read the error of a write whose client left; asyncio would log it as never retrieved, with private text."""
    if not task.cancelled():
        task.exception()
