"""A route for requests for a tip that bypasses the web framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from starlette.types import ASGIApp, Receive, Scope, Send

_JSON = (b"content-type", b"application/json")


class TipFastPath:
    """ASGI middleware that answers `POST /v1/users/{user_id}/tip` itself.

    Choosing a tip for a ready context costs less than a framework's routing, validation and response around it.
    """

    def __init__(
        self,
        app: ASGIApp,
        answer: Callable[[str], Awaitable[tuple[bytes, UUID]]],
        undelivered: Callable[[UUID], None],
    ) -> None:
        """answer: the JSON body for a user id, and the decision, logged before it returns.

        undelivered: called for a decision whose answer could not be sent.
        """
        self._app = app
        self._answer = answer
        self._undelivered = undelivered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a tip, or pass the request on; raises the errors of the answer."""
        user_id = _tip_user(scope)
        if user_id is None:
            await self._app(scope, receive, send)
            return
        body, decision_id = await self._answer(user_id)
        try:
            headers = [_JSON, (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        except BaseException:  # most often the cancellation of a request whose client left
            self._undelivered(decision_id)
            raise


def _tip_user(scope: Scope) -> str | None:
    """The user id of a request for a tip; None for any other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    parts = scope["path"].removesuffix("\n").split("/")  # the framework's routes match such a path, too
    is_tip = len(parts) == 5 and parts[1] == "v1" and parts[2] == "users" and parts[4] == "tip" and parts[3]
    return parts[3] if is_tip else None
