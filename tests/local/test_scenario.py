"""The scenario of a local run, selected by environment variables."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.scenario import ScenarioError, scenario_from_environment


def sync(url: str, token: str, sync_token: str = "*") -> dict[str, Any]:
    """Todoist's answer to a user."""
    form = {"sync_token": sync_token, "resource_types": '["items"]'}
    response = httpx.post(f"{url}/api/v1/sync", headers={"Authorization": f"Bearer {token}"}, data=form)
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


@pytest.fixture
def folder(tmp_path: Path, account: Any) -> Path:
    """The documents of two users; one of them changes before the second and the fourth night."""
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


def test_users_from_a_folder(folder: Path) -> None:
    """SAMPLE_USERS loads accounts unchanged, and applies one night file before each further night."""
    with scenario_from_environment({"SAMPLE_USERS": str(folder)}) as scenario:
        assert [user.user_id for user in scenario.users] == ["ann", "bob"]
        assert [user.timezone for user in scenario.users] == ["Europe/Berlin", "UTC"]
        assert scenario.n_nights == 4
        assert len(sync(scenario.todoist_url, "token-b")["items"]) == 2
        since = sync(scenario.todoist_url, "token-a")["sync_token"]
        scenario.change(2)
        assert [item["content"] for item in sync(scenario.todoist_url, "token-a", since)["items"]] == ["news 1"]
        scenario.change(3)
        scenario.change(4)
        assert {item["content"] for item in sync(scenario.todoist_url, "token-a", since)["items"]} == {
            "news 1",
            "news 3",
        }


def test_invalid_entry(folder: Path) -> None:
    """The error for an entry without user_id has its number and keys, but not its token."""
    (folder / "users.json").write_text(json.dumps([{"api_token": "SECRET"}]))
    with (
        pytest.raises(ScenarioError, match=r"entry 1 of .*users\.json needs user_id") as raised,
        scenario_from_environment({"SAMPLE_USERS": str(folder)}),
    ):
        pass
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("users", ["none", "0", "-3", "100000"])
def test_invalid_number_of_users(users: str) -> None:
    """The error for an invalid USERS has the allowed range."""
    with (
        pytest.raises(ScenarioError, match=f"USERS={users}: must be a number from 1 to 5000"),
        scenario_from_environment({"USERS": users}),
    ):
        pass


def test_sample_users_change_once(folder: Path) -> None:
    """5 % of the sample users change before the second night, none before the third."""
    with scenario_from_environment({"USERS": "40"}) as scenario:
        assert scenario.n_nights == 3
        assert scenario.change(2) == "2 of 40 users changed some tasks"
        assert scenario.change(3) == "no changes"


def test_example_of_sample_users() -> None:
    """The printed command has the token of the first sample user, and the form that `/sync` reads."""
    with scenario_from_environment({"USERS": "1"}) as scenario:
        assert scenario.example
        words = shlex.split(scenario.example)
        headers = dict([words[words.index("-H") + 1].split(": ")])
        form = dict(value.split("=", 1) for option, value in pairwise(words) if option == "-d")
        response = httpx.post(words[-1], headers=headers, data=form)
        assert response.raise_for_status().json()["items"]


def test_no_example_with_tokens_of_a_file(folder: Path) -> None:
    """The tokens of SAMPLE_USERS may be real, so none is printed."""
    with scenario_from_environment({"SAMPLE_USERS": str(folder)}) as scenario:
        assert scenario.example is None


def test_own_account() -> None:
    """TODOIST_API_TOKEN selects one user, at the real API unless TODOIST_API_URL is set."""
    with scenario_from_environment({"TODOIST_API_TOKEN": "mine", "SAMPLE_USERS": "/nowhere"}) as scenario:
        assert (scenario.todoist_url, len(scenario.users)) == ("https://api.todoist.com", 1)
