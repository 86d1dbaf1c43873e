"""The path that most requests take, before all that a framework does for the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_JSON = (b"content-type", b"application/json")


class Shortcut:
    """Answers `POST /v1/users/{user_id}/tip` on bare ASGI, everything else by the app, and every error of both.

    A tip from a ready context takes less work than routing, validation and responses of a framework around it.
    """

    def __init__(
        self,
        app: ASGIApp,
        answer: Callable[[str, str], Awaitable[bytes]],
        refuse: Callable[[Exception], Response],
    ) -> None:
        """answer: of an Authorization header and a user; refuse: the response to what was raised."""
        self._app = app
        self._answer = answer
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user_id = _user_of(scope)
        try:
            if user_id is None:
                await self._app(scope, receive, send)
                return
            body = await self._answer(_authorization(scope), user_id)
        except Exception as error:
            await self._refuse(error)(scope, receive, send)
            return
        headers = [_JSON, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _user_of(scope: Scope) -> str | None:
    """Whom a request for a tip is for; None for any other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    parts = scope["path"].split("/")
    is_tip = len(parts) == 5 and parts[1] == "v1" and parts[2] == "users" and parts[4] == "tip" and parts[3]
    return parts[3] if is_tip else None


def _authorization(scope: Scope) -> str:
    found: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    return found.decode("latin-1")
