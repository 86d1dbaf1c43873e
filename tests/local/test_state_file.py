"""The file in which a stand-in for Todoist keeps its state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.todoist import LocalTodoist, running_todoist


@contextmanager
def kept(path: Path) -> Iterator[tuple[LocalTodoist, str]]:
    """A stand-in that keeps its state in a file, and its URL."""
    todoist = LocalTodoist()
    with todoist.kept(path), running_todoist(todoist) as url:
        yield todoist, url


def sync(url: str, access_token: str, sync_token: str = "*") -> dict[str, Any]:
    form = {"sync_token": sync_token, "resource_types": '["items"]'}
    headers = {"Authorization": f"Bearer {access_token}"}
    answer: dict[str, Any] = httpx.post(f"{url}/api/v1/sync", headers=headers, data=form).raise_for_status().json()
    return answer


def exchange(url: str, **grant: str) -> dict[str, Any]:
    body: dict[str, Any] = httpx.post(f"{url}/oauth/access_token", data={"client_id": "c", **grant}).json()
    return body


def test_sync_goes_on(tmp_path: Path, account: Any) -> None:
    """A later stand-in knows users, tokens and changes, and answers an earlier sync token with what changed since."""
    with kept(tmp_path / "state") as (todoist, url):
        todoist.load("token", account("call bob", "buy milk"), user="ann")
        before = sync(url, "token")["sync_token"]
        todoist.advance("ann", {"items": [{"id": "t0", "content": "call bob", "checked": True}]})
    with kept(tmp_path / "state") as (todoist, url):
        answer = sync(url, "token", before)
        assert not answer["full_sync"]
        assert [item["id"] for item in answer["items"]] == ["t0"]
        todoist.advance("ann", {"items": [{"id": "t9", "content": "new"}]})
    with kept(tmp_path / "state") as (_, url):
        assert [item["id"] for item in sync(url, "token", answer["sync_token"])["items"]] == ["t9"]
        assert {item["id"] for item in sync(url, "token")["items"]} == {"t1", "t9"}


def test_no_token_is_issued_twice(tmp_path: Path, account: Any) -> None:
    """Sync tokens and access tokens of a later stand-in differ from all earlier ones."""
    sync_tokens, access_tokens = list[str](), list[str]()
    for _ in range(3):
        with kept(tmp_path / "state") as (todoist, url):
            if not access_tokens:
                todoist.load("token", account("call bob"), user="ann")
            sync_tokens += [sync(url, "token")["sync_token"] for _ in range(2)]
            access_tokens.append(exchange(url, code=todoist.authorize("ann"))["access_token"])
    assert len(set(sync_tokens)) == 6
    assert len(set(access_tokens)) == 3


def test_grants_go_on(tmp_path: Path, account: Any) -> None:
    """Renewed access tokens and codes are valid at a later stand-in, and revoked and used ones are not."""
    with kept(tmp_path / "state") as (todoist, url):
        todoist.load("a", account("call bob"), user="ann", refresh_token="r")
        todoist.load("b", account("call ann"), user="bob")
        renewed = exchange(url, grant_type="refresh_token", refresh_token="r")
        code = todoist.authorize("ann")
        todoist.revoke("bob")
    with kept(tmp_path / "state") as (todoist, url):
        assert sync(url, renewed["access_token"])["full_sync"]
        assert "access_token" in exchange(url, code=code)
        assert "error" in exchange(url, code=code)
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            sync(url, "b")
        assert "error" in exchange(url, grant_type="refresh_token", refresh_token="r")


def test_private_file(tmp_path: Path) -> None:
    """Only the owner can read the file: it may have a reader's own tasks."""
    with kept(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0
