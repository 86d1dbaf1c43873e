"""The route of tips outside the framework."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from serving.fast_path import TipFastPath


def answered(path: str, *, method: str = "POST", is_gone: bool = False) -> tuple[list[str], list[UUID]]:
    """Send a request; returns the users for whom a tip was made, and the decisions marked as undelivered."""
    users, undelivered, decision_id = list[str](), list[UUID](), uuid4()

    async def answer(user_id: str) -> tuple[bytes, UUID]:
        users.append(user_id)
        return b"{}", decision_id

    async def other(*_: Any) -> None:
        return None

    async def send(_: Any) -> None:
        if is_gone:
            raise OSError

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": method, "path": path}
    try:
        asyncio.run(TipFastPath(other, answer, undelivered.append)(scope, receive, send))
    except OSError:
        assert undelivered == [decision_id]
    return users, undelivered


@pytest.mark.parametrize("path", ["/v1/users/ann/tip", "/v1/users/ann/tip\n"], ids=["usual", "line feed at the end"])
def test_unsent(path: str) -> None:
    """A decision whose answer cannot be sent is marked, for every path that the framework takes for that of a tip."""
    users, undelivered = answered(path, is_gone=True)
    assert (users, len(undelivered)) == (["ann"], 1)


@pytest.mark.parametrize(
    ("path", "method"),
    [("/v1/users/ann/tip", "GET"), ("/v1/users//tip", "POST"), ("/v1/users/ann/tip/x", "POST"), ("/tip", "POST")],
)
def test_others(path: str, method: str) -> None:
    """All other requests are passed on."""
    assert answered(path, method=method) == ([], [])
