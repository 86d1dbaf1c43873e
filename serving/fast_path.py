"""A route for requests for a tip that bypasses the web framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_JSON = (b"content-type", b"application/json")


class TipFastPath:
    """ASGI middleware that answers `POST /v1/users/{user_id}/tip` itself, and turns errors of the app into responses.

    Choosing a tip for a ready context costs less than a framework's routing, validation and response around it.
    """

    def __init__(
        self,
        app: ASGIApp,
        answer: Callable[[str, str], Awaitable[bytes]],
        to_response: Callable[[Exception], Response],
    ) -> None:
        """answer: the JSON body for an Authorization header and a user id; to_response: for a raised error."""
        self._app = app
        self._answer = answer
        self._to_response = to_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a tip, or pass the request on."""
        user_id = _tip_user(scope)
        try:
            if user_id is None:
                await self._app(scope, receive, send)
                return
            body = await self._answer(_authorization(scope), user_id)
        except Exception as error:
            await self._to_response(error)(scope, receive, send)
            return
        headers = [_JSON, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _tip_user(scope: Scope) -> str | None:
    """The user id of a request for a tip; None for any other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    parts = scope["path"].split("/")
    is_tip = len(parts) == 5 and parts[1] == "v1" and parts[2] == "users" and parts[4] == "tip" and parts[3]
    return parts[3] if is_tip else None


def _authorization(scope: Scope) -> str:
    header: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    return header.decode("latin-1")
