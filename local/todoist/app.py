"""The addresses of the stand-in for Todoist, and how its replies go over the wire."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from local.todoist.faults import fault_from
from local.todoist.replies import Reply, gone
from local.todoist.requests import read_body

if TYPE_CHECKING:
    from local.todoist import LocalTodoist

Endpoint = Callable[[Request], Awaitable[Response]]
EVERY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def build_app(todoist: "LocalTodoist") -> Starlette:
    return Starlette(
        routes=[
            Route("/api/v1/sync", _sync(todoist), methods=["POST"]),
            Route("/oauth/access_token", _exchange(todoist), methods=["POST"]),
            Route("/rest/v2/{rest:path}", _gone(todoist), methods=EVERY_METHOD),
            Route("/sync/v9/{rest:path}", _gone(todoist), methods=EVERY_METHOD),
            Mount("/_control", routes=_controls(todoist)),
        ]
    )


def _sync(todoist: "LocalTodoist") -> Endpoint:
    async def sync(request: Request) -> Response:
        arguments = read_body(request.headers.get("content-type", ""), await request.body())
        return WireResponse(todoist.sync(request.url.path, _token(request), arguments), todoist.now())

    return sync


def _exchange(todoist: "LocalTodoist") -> Endpoint:
    async def exchange(request: Request) -> Response:
        arguments = read_body(request.headers.get("content-type", ""), await request.body())
        return WireResponse(todoist.exchange(request.url.path, arguments), todoist.now())

    return exchange


def _gone(todoist: "LocalTodoist") -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return WireResponse(todoist.refuse(request.url.path, _token(request), gone()), todoist.now())

    return endpoint


def _token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


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
    """Wait, but no longer than the client does: after the request, all that comes is its leaving."""
    if seconds > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(receive(), seconds)


async def _break_off(scope: Scope, receive: Receive) -> None:
    scope["state"]["break_off"]()
    await receive()


def _controls(todoist: "LocalTodoist") -> list[Route]:
    return [
        Route("/load", _control(lambda body: todoist.load(**body)), methods=["POST"]),
        Route("/advance", _control(lambda body: todoist.advance(**body)), methods=["POST"]),
        Route("/faults", _control(lambda body: _set_faults(todoist, **body)), methods=["POST"]),
        Route("/revoke", _control(lambda body: todoist.revoke(**body)), methods=["POST"]),
        Route("/authorize", _control(lambda body: {"code": todoist.authorize(**body)}), methods=["POST"]),
        Route("/forget_sync_tokens", _control(lambda b: todoist.forget_sync_tokens(**b)), methods=["POST"]),
        Route("/clock", _control(lambda body: _set_clock(todoist, **body)), methods=["POST"]),
        Route("/calls", _control(lambda body: _calls(todoist)), methods=["GET"]),
    ]


def _control(act: Callable[[dict[str, Any]], Any]) -> Endpoint:
    """A JSON object in, as arguments by name; the result as JSON out, or 400 and what was wrong."""

    async def control(request: Request) -> Response:
        try:
            result = act(json.loads(await request.body() or b"{}"))
        except (LookupError, TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({} if result is None else result)

    return control


def _set_faults(
    todoist: "LocalTodoist", faults: list[dict[str, Any]], user: str | None = None, rate: float | None = None
) -> None:
    """Faults for one user's next calls, or at a rate for everybody's."""
    if (user is None) == (rate is None):
        raise ValueError("faults are for either a user or a rate: give one of the two")
    made = [fault_from(fault) for fault in faults]
    if user is not None:
        todoist.fail(user, *made)
    elif rate is not None:
        todoist.fail_at_rate(rate, *made)


def _set_clock(todoist: "LocalTodoist", at: str) -> dict[str, str]:
    todoist.set_clock(datetime.fromisoformat(at))
    return {"at": todoist.now().isoformat()}


def _calls(todoist: "LocalTodoist") -> list[dict[str, Any]]:
    return [{**asdict(call), "at": call.at.isoformat()} for call in list(todoist.calls)]
