"""Whose nights are run, by what the environment asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.cast import CastError, chosen


def sync(url: str, token: str, sync_token: str = "*") -> dict[str, Any]:
    """What Todoist answers to a user."""
    form = {"sync_token": sync_token, "resource_types": '["items"]'}
    answer = httpx.post(f"{url}/api/v1/sync", headers={"Authorization": f"Bearer {token}"}, data=form)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


@pytest.fixture
def folder(tmp_path: Path, account: Any) -> Path:
    """Two users' documents, one of whom changes before the second and the fourth night."""
    users = [
        {"user_id": "ann", "email": "ann@example.org", "api_token": "token-a", "timezone": "Europe/Berlin"},
        {"user_id": "bob", "email": None, "api_token": "token-b", "timezone": "Mars/Base", "plan": "pro"},
    ]
    (tmp_path / "users.json").write_text(json.dumps(users))
    for user in ("ann", "bob"):
        (tmp_path / user).mkdir()
        (tmp_path / user / "full.json").write_text(json.dumps(account("call the dentist", {"content": "no id"})))
    for night in (1, 3):
        delta = {"items": [{"id": f"n{night}", "content": f"news {night}"}]}
        (tmp_path / "ann" / f"night{night}.json").write_text(json.dumps(delta))
    return tmp_path


def test_documents_of_other_people(folder: Path) -> None:
    """SAMPLE_USERS loads accounts as they are, and applies the night files, one before each following night."""
    with chosen({"SAMPLE_USERS": str(folder)}) as cast:
        assert [member.user_id for member in cast.members] == ["ann", "bob"]
        assert [member.timezone for member in cast.members] == ["Europe/Berlin", "UTC"]
        assert cast.n_nights == 4
        assert len(sync(cast.todoist_url, "token-b")["items"]) == 2
        since = sync(cast.todoist_url, "token-a")["sync_token"]
        cast.change(2)
        assert [item["content"] for item in sync(cast.todoist_url, "token-a", since)["items"]] == ["news 1"]
        cast.change(3)
        cast.change(4)
        assert {item["content"] for item in sync(cast.todoist_url, "token-a", since)["items"]} == {"news 1", "news 3"}


def test_a_bad_entry_is_named_without_its_token(folder: Path) -> None:
    """An entry of users.json that lacks its id is refused by number and keys; its token is not printed."""
    (folder / "users.json").write_text(json.dumps([{"api_token": "SECRET"}]))
    with (
        pytest.raises(CastError, match=r"entry 1 of .*users\.json needs user_id") as raised,
        chosen({"SAMPLE_USERS": str(folder)}),
    ):
        pass
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("users", ["none", "0", "-3", "100000"])
def test_a_wrong_number_of_users(users: str) -> None:
    """USERS that is no number within bounds is refused with the bounds."""
    with pytest.raises(CastError, match=f"USERS={users}: a number from 1 to 5000"), chosen({"USERS": users}):
        pass


def test_sample_users_change_once(folder: Path) -> None:
    """5 % of the sample users change before the second night, nobody before the third."""
    with chosen({"USERS": "40"}) as cast:
        assert cast.n_nights == 3
        assert cast.change(2) == "2 of 40 users changed some tasks"
        assert cast.change(3) == "nothing is changed"


def test_the_readers_own_account() -> None:
    """With TODOIST_API_TOKEN there is one user, at the real API unless TODOIST_API_URL says otherwise."""
    with chosen({"TODOIST_API_TOKEN": "mine", "SAMPLE_USERS": "/nowhere"}) as cast:
        assert (cast.todoist_url, len(cast.members)) == ("https://api.todoist.com", 1)
