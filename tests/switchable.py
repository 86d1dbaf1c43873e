"""An app that can be replaced while it is served."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class SwitchableApp:
    """An app that forwards to the stand-in of the current test, so that one server serves all tests."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)
