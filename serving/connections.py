"""Connections with limits on what a client costs before, between and after its requests."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.limits import ConnectionLimits
from serving.problems import MEDIA_TYPE, Problem, problem_body

_MAX_PIPELINED = 16
"""Requests of one connection that may wait for the response to an earlier one, together at most `max_body_bytes`
long."""

_MAX_FRAMING_BYTES = 65_536
"""Bytes of a chunked body that may be chunk sizes and line ends."""

_LINGER_S = 1.0
"""Time for a client to read the last response; the bytes that it sends meanwhile are discarded."""

AUTHENTICATED = "is_authenticated"
"""The key of the ASGI scope's `state` by which the gate reports a request with a token."""

_HEADERS_TOO_SLOW = Problem(
    408, "the request line and the headers were not complete after HEADERS_TIMEOUT", reason="headers_too_slow"
)
_HEADERS_TOO_LARGE = Problem(
    431, "the request line and the headers are larger than MAX_HEADER_BYTES", reason="headers_too_large"
)
_MALFORMED = Problem(400, "this is not a valid HTTP/1.1 request", reason="malformed")
_TOO_MANY_PIPELINED = Problem(
    400, "too many requests were sent before the first response", reason="too_many_pipelined"
)


class ConnectionTable:
    """All open connections of a process.

    Strangers are the connections that have not yet sent a token. If all places are taken, the stranger that has been
    waiting longest makes room for a new connection: connections without a token cannot keep out others.
    """

    def __init__(self, limits: ConnectionLimits, on_refusal: Callable[[int, str], None]) -> None:
        """on_refusal: called with the status (0 without a response) and the reason."""
        self.limits = limits
        self.on_refusal = on_refusal
        self._open: set[BoundedProtocol] = set()
        self._strangers: dict[BoundedProtocol, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: BoundedProtocol) -> bool:
        """Register a new connection; False if there is no place for it."""
        if len(self._open) >= self.limits.max_connections:
            victim = next((stranger for stranger in self._strangers if not stranger.is_answering), None)
            if victim is None:
                self.on_refusal(0, "too_many_connections")
                return False
            self.remove(victim)
            victim.cut("evicted")
        self._open.add(connection)
        self._strangers[connection] = None
        return True

    def trust(self, connection: BoundedProtocol) -> None:
        """Remember that a connection has sent a token."""
        self._strangers.pop(connection, None)

    def remove(self, connection: BoundedProtocol) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        self._strangers.pop(connection, None)

    def expire(self, now: float) -> None:
        """End the connections whose time is over. now: event loop time."""
        for connection in [each for each in self._open if each.deadline <= now]:
            connection.expire()

    def cancel_all(self) -> None:
        """Cancel all requests under way."""
        for connection in list(self._open):
            connection.cancel()

    def cut_all(self) -> None:
        """Break off all connections."""
        for connection in list(self._open):
            connection.cut("shutdown")


class _Transport:
    """A transport that sends the head of a response with its body, and lets the client read it before it closes."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.is_closing = transport.is_closing
        self.close = close
        self._write = transport.write
        self._head = b""

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them if they are the head of a response, whose body follows."""
        if not self._head and data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
            return
        self._write(self._head + data)
        self._head = b""

    def flush(self) -> None:
        """Send the head of a response that has no body."""
        if self._head:
            self.write(b"")


class BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol with limits for connections, headers, pipelined requests and time.

    Instead of timers it has a deadline, which the server checks a few times a second: a timer for each request would
    cost more. A request whose client left is cancelled.
    """

    def __init__(self, *, table: ConnectionTable, **options: Any) -> None:
        super().__init__(**options)
        self.deadline = math.inf
        self._table = table
        self._limits = table.limits
        self._answering: RequestResponseCycle | None = None
        self._task: asyncio.Task[None] | None = None
        self._n_received = 0
        """Bytes of the message that is not yet complete."""
        self._n_queued = 0
        """Bytes of the requests behind the one under way."""
        self._is_in_headers = True
        self._discards_input = False
        """Whether further input is discarded."""
        self._is_lingering = False

    @property
    def is_answering(self) -> bool:
        """Whether a request is under way."""
        return self._answering is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or break it off if there is no place."""
        super().connection_made(transport)
        self._transport = transport
        self._head_keeper = _Transport(transport, self._linger)
        self.transport = self._head_keeper  # type: ignore[assignment]
        self._wait(self._limits.headers_timeout_s)
        if not self._table.admit(self):
            self._discards_input = True
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request under way, and drop those that wait."""
        self._table.remove(self)
        self.transport = self._transport
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._answering is not None and self._task is not None:
            self._answering.disconnected = True
            self._task.cancel()

    def eof_received(self) -> None:
        """The client has left: the transport closes itself."""
        self._linger_until()

    def data_received(self, data: bytes) -> None:
        """Parse input within the bounds."""
        if self._discards_input:
            return
        if self._n_received == 0 and self._answering is None:
            self._wait(self._limits.headers_timeout_s)
        room = self._room()
        if len(data) < room:  # the usual case
            self._feed(data)
            return
        while data and not self._discards_input:
            self._feed(data[:room])
            data, room = data[room:], self._room()
            if room <= 0:
                self._end_input()

    def pause_writing(self) -> None:
        """The client does not read: it has `write_timeout_s` to continue."""
        self._wait(self._limits.write_timeout_s)
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._wait(math.inf if self.is_answering else self._limits.keep_alive_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header. Trailers of a chunked body are dropped, because they come after the checks of headers."""
        if self._is_in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind the one under way."""
        if self._is_queue_full():
            raise OverflowError  # the parser stops, and calls send_400_response
        super().on_headers_complete()
        self._is_in_headers = False
        self.flow.resume_reading()  # uvicorn pauses behind a request under way, and would not see the client leave

    def on_message_complete(self) -> None:
        """The next byte belongs to another request."""
        super().on_message_complete()
        self._n_queued = self._n_queued + self._n_received if self.pipeline else 0
        self._n_received, self._is_in_headers = 0, True

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        self._head_keeper.flush()
        answered, self._answering = self._answering, None
        if answered is not None and answered.scope["state"].get(AUTHENTICATED):
            self._table.trust(self)
        if self._is_lingering or self._transport.is_closing():
            return
        if answered is self.cycle and answered.more_body:
            self._linger()  # nobody will read the rest
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._wait(self._limits.headers_timeout_s if self._n_received else self._limits.keep_alive_s)

    def send_400_response(self, msg: str) -> None:
        """Refuse input that the parser cannot read."""
        self._refuse(_TOO_MANY_PIPELINED if self._is_queue_full() else _MALFORMED)

    def shutdown(self) -> None:
        """Close the connection as soon as no request is under way."""
        if self._answering is None:
            self._linger()
        else:
            self.cycle.keep_alive = False

    def expire(self) -> None:
        """End the connection because its time is over."""
        if self._is_lingering or self.flow.write_paused:
            self.cut("not_reading" if self.flow.write_paused else None)
        elif self._n_received:
            self._refuse(_HEADERS_TOO_SLOW)
        else:
            self._linger()

    def cancel(self) -> None:
        """Cancel the request under way; its client is told if it still reads."""
        if self.flow.write_paused:
            self.cut("not_reading")
        elif self._task is not None:
            self._task.cancel()

    def cut(self, reason: str | None) -> None:
        """Break off the connection; output that is not sent yet is lost."""
        if reason is not None:
            self._table.on_refusal(0, reason)
        self._discards_input = True
        self._transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._wait(math.inf)  # the gate bounds the body, the budget the work
        self._answering = cycle
        self._task = self.loop.create_task(cycle.run_asgi(partial(_until_cancelled, app)))
        self.tasks.add(self._task)
        self._task.add_done_callback(self.tasks.discard)

    def _unsupported_upgrade_warning(self) -> None:
        """Answer a request for another protocol as HTTP/1.1, and discard the input after it."""
        self._end_after(self.cycle)

    def _feed(self, data: bytes) -> None:
        self._n_received += len(data)
        super().data_received(data)

    def _room(self) -> int:
        """Return the number of bytes that may still be parsed of the present message."""
        if self._is_in_headers:
            return self._limits.max_header_bytes - self._n_received
        return self._limits.max_header_bytes + self._limits.max_body_bytes + _MAX_FRAMING_BYTES - self._n_received

    def _is_queue_full(self) -> bool:
        return len(self.pipeline) >= _MAX_PIPELINED or self._n_queued > self._limits.max_body_bytes

    def _end_input(self) -> None:
        """Parse no more of a message that is too large; the gate refuses the body, after it has checked the token."""
        if self._is_in_headers:
            self._refuse(_HEADERS_TOO_LARGE)
        self._discards_input = True

    def _refuse(self, problem: Problem) -> None:
        """Answer input that is no request, after the requests before it, and close the connection."""
        cycle = self._answering
        if cycle is not None and not (cycle is self.cycle and cycle.more_body):
            self._table.on_refusal(0, problem.reason)
            self._end_after(self.cycle)
            return
        if cycle is None or not cycle.response_started:
            self._table.on_refusal(problem.status, problem.reason)
            self._transport.write(_response(problem))
        if cycle is not None and self._task is not None:  # its body is broken
            cycle.disconnected = True
            self._task.cancel()
        self._linger()

    def _end_after(self, cycle: RequestResponseCycle) -> None:
        """Close the connection after the response to this request."""
        cycle.keep_alive = False
        self._discards_input = True

    def _linger(self) -> None:
        """End the sending side and discard input until the client closes.

        A connection closed with unread input is reset, and the client may lose the response.
        """
        if self._is_lingering:
            return
        self._head_keeper.flush()
        self._linger_until()
        self.pipeline.clear()
        self.flow.resume_reading()
        with suppress(OSError, RuntimeError):
            self._transport.write_eof()

    def _linger_until(self) -> None:
        self.deadline = self.loop.time() + _LINGER_S
        self._is_lingering = self._discards_input = True

    def _wait(self, seconds: float) -> None:
        """Set the deadline, unless the client has one for reading the output."""
        if not self.flow.write_paused and not self._is_lingering:
            self.deadline = self.loop.time() + seconds


async def _until_cancelled(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the app; a cancellation ends it without the traceback that uvicorn would log."""
    try:  # noqa: SIM105 - `suppress` costs more, and this is in the way of each request
        await app(scope, receive, send)
    except asyncio.CancelledError:
        pass


def _response(problem: Problem) -> bytes:
    body = problem_body(problem)
    head = b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (MEDIA_TYPE.encode(), len(body))
    return STATUS_LINE[problem.status] + head + body
