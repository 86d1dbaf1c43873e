"""HTTP replies of the stand-ins, sent correctly, late, or with a dropped connection."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Literal

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


@dataclass(frozen=True)
class Reply:
    """One HTTP response.

    delay_s: seconds before the headers.
    body_delay_s: seconds between the two halves of the body.
    disconnect: where the connection is dropped, if it is; the status is 0 if no headers are sent.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    body_delay_s: float = 0.0
    disconnect: Literal["before_headers", "in_body"] | None = None


class RefusedError(Exception):
    """The request is refused with `reply`."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.body.decode())
        self.reply = reply


def json_reply(body: Any, status: int = 200, **headers: str) -> Reply:
    """A JSON response; underscores in header names become hyphens."""
    renamed = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Reply(status, json.dumps(body).encode(), headers=renamed)


def text_reply(text: str, status: int, content_type: str = "text/plain; charset=utf-8") -> Reply:
    """A text response."""
    return Reply(status, text.encode(), content_type)


class FaultyResponse(Response):
    """Sends a reply with its delays and its disconnect.

    now: the time of the Date header, aware.
    """

    def __init__(self, reply: Reply, now: datetime) -> None:
        headers = {**dict(reply.headers), "date": format_datetime(now.astimezone(UTC), usegmt=True)}
        # Starlette needs a valid status, also for a reply that is never sent.
        super().__init__(reply.body, reply.status or 200, headers, reply.content_type)
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response as an ASGI application."""
        body = self._reply.body
        await _wait(self._reply.delay_s, receive)
        if self._reply.disconnect == "before_headers":
            await _disconnect(scope, receive)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        if self._reply.disconnect == "in_body":
            await _disconnect(scope, receive)
            return
        await _wait(self._reply.body_delay_s, receive)
        await send({"type": "http.response.body", "body": body[len(body) // 2 :]})


async def _wait(seconds: float, receive: Receive) -> None:
    """Wait until the time is over or the client disconnects."""
    if seconds > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(_client_disconnected(receive), seconds)


async def _disconnect(scope: Scope, receive: Receive) -> None:
    scope["state"]["disconnect"]()
    await _client_disconnected(receive)


async def _client_disconnected(receive: Receive) -> None:
    """Wait for the disconnect event, and skip unread parts of the request body."""
    while (await receive())["type"] != "http.disconnect":
        pass
