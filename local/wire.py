"""What a stand-in sends back, and how it goes over the wire: late, in halves, or cut off."""

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
    """One HTTP answer; `before` and `inside` are seconds of silence ahead of it and in its middle."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    before: float = 0.0
    inside: float = 0.0
    cut: Literal["unanswered", "in_body"] | None = None


class RefusedError(Exception):
    """The request gets `reply` instead of what it asked for."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.body.decode())
        self.reply = reply


def json_reply(body: Any, status: int = 200, **headers: str) -> Reply:
    """A JSON answer; a header's underscores stand for hyphens."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Reply(status, json.dumps(body).encode(), headers=named)


def text_reply(text: str, status: int, content_type: str = "text/plain; charset=utf-8") -> Reply:
    return Reply(status, text.encode(), content_type)


class WireResponse(Response):
    """A reply, with its delays and its cut connection."""

    def __init__(self, reply: Reply, now: datetime) -> None:
        headers = {**dict(reply.headers), "date": format_datetime(now.astimezone(UTC), usegmt=True)}
        # A cut before the answer has no status, and never gets as far as sending one.
        super().__init__(reply.body, reply.status or 200, headers, reply.content_type)
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = self._reply.body
        await _pause(self._reply.before, receive)
        if self._reply.cut == "unanswered":
            await _break_off(scope, receive)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        if self._reply.cut == "in_body":
            await _break_off(scope, receive)
            return
        await _pause(self._reply.inside, receive)
        await send({"type": "http.response.body", "body": body[len(body) // 2 :]})


async def _pause(seconds: float, receive: Receive) -> None:
    """Wait, but no longer than the client does."""
    if seconds > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(_until_gone(receive), seconds)


async def _break_off(scope: Scope, receive: Receive) -> None:
    scope["state"]["break_off"]()
    await _until_gone(receive)


async def _until_gone(receive: Receive) -> None:
    """The rest of a request that nobody read may come first, its end above all."""
    while (await receive())["type"] != "http.disconnect":
        pass
