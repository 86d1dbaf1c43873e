"""The state after any sequence of nights equals the state after a single run from scratch."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from emptied import EmptiedConnection, delete_rows
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from world import NOON, World

from assets.engine.errors import ShardsFailed
from contexts.todoist.client import TodoistUnavailable
from local.todoist import Fault

USERS = ("ann", "bob", "cem")
TEXTS = (
    "buy milk",
    "buy oat milk",
    "milk",
    "file the tax return",
    "tax papers",
    "call the dentist",
    "dentist bill",
    "",
)
DATES = (None, "2026-11-20", "2026-11-23", "2026-11-24", "2026-11-29T09:00:00", "2026-12-05T22:30:00Z")

_folders = count()

put_task = st.tuples(
    st.just("put"), st.sampled_from(USERS), st.integers(0, 5), st.sampled_from(TEXTS), st.sampled_from(DATES)
)
end_task = st.tuples(
    st.sampled_from(["complete", "delete"]), st.sampled_from(USERS), st.integers(0, 5), st.none(), st.none()
)
change_project = st.tuples(
    st.sampled_from(["rename", "drop_project"]),
    st.sampled_from(USERS),
    st.integers(0, 1),
    st.sampled_from(TEXTS),
    st.none(),
)
cause_trouble = st.tuples(
    st.sampled_from(["erase", "fail", "crash"]), st.sampled_from(USERS), st.just(0), st.none(), st.none()
)
one_night = st.lists(st.one_of(put_task, put_task, end_task, change_project, cause_trouble), max_size=6)


@pytest.fixture
def fresh(second_emptied_connection: EmptiedConnection, world: World, tmp_path: Path) -> World:
    """A second world over the same Todoist, for the run from scratch."""
    return World(second_emptied_connection.open(), world.todoist, world.client, tmp_path / "fresh")


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(nights=st.lists(one_night, min_size=1, max_size=4))
def test_nights_equal_a_run_from_scratch(
    world: World, fresh: World, account: Any, nights: list[list[tuple[Any, ...]]]
) -> None:
    """Nights with edits, deletions, full syncs, failures and crashes result in the rows of a run from scratch."""
    for empty in (world, fresh):
        _wipe(empty)
    for user in USERS:
        world.add(user, account("buy milk", "call the dentist", timezone="Asia/Tokyo"), "Asia/Tokyo")
    now = NOON
    for number, actions in enumerate(nights, 1):
        now = NOON + timedelta(hours=9 * number)
        kinds = {_apply(world, action) for action in actions}
        _run_night(world, now, is_crash="crash" in kinds)
    while not _run_night(world, now, is_crash=False):  # until no queued failure is left
        pass
    for user in USERS:
        fresh.accounts.add(
            user, email="", timezone="Asia/Tokyo", credentials=world.accounts.load([user])[0][0].credentials
        )
    fresh.night(now)
    assert _state(world) == _state(fresh)


def _wipe(world: World) -> None:
    delete_rows(world.connection)
    world.root = world.root.with_name(f"data-{next(_folders)}")


def _apply(world: World, action: tuple[Any, ...]) -> str:
    """Apply an action to a user and return its kind."""
    kind, user, number, text, date = action
    item = {"id": f"t{number}", "content": text, "project_id": f"p{number % 2}", "due": date and {"date": date}}
    if kind == "put":
        world.todoist.advance(user, {"items": [item]})
    elif kind in ("complete", "delete"):
        flag = "checked" if kind == "complete" else "is_deleted"
        world.todoist.advance(user, {"items": [{"id": f"t{number}", "content": "", flag: True}]})
    elif kind == "rename":
        world.todoist.advance(user, {"projects": [{"id": f"p{number}", "name": text}]})
    elif kind == "drop_project":
        world.todoist.advance(user, {"projects": [{"id": f"p{number}", "name": "", "is_deleted": True}]})
    elif kind == "erase":
        world.todoist.forget_sync_tokens(user)
    elif kind == "fail":
        world.todoist.fail(user, Fault.rate_limited(600))
    return str(kind)


def _run_night(world: World, now: datetime, *, is_crash: bool) -> bool:
    """Run a night and return whether all users were fetched. is_crash: it fails before the sync tokens are saved."""

    def crash(*_: object, **__: object) -> None:
        raise ConnectionError("connection lost")

    with pytest.MonkeyPatch.context() as patch:
        if is_crash:
            patch.setattr(world.accounts, "save_sync_states", crash)
        try:
            results = world.night(now)
        except (ConnectionError, TodoistUnavailable):
            return False
        except ShardsFailed as failed:
            assert {type(failure.error) for failure in failed.failures} <= {ConnectionError, TodoistUnavailable}
            return False
    return sum(result.counts["users_failed"] for result in results["todoist_tasks"]) == 0


def _state(world: World) -> dict[str, Any]:
    """Return all rows of all assets, with the members of a cluster in place of its id, which depends on the past."""
    members: dict[tuple[str, str], set[str]] = {}
    clusters = world.rows("task_clusters")
    for row in clusters:
        members.setdefault((row["user_id"], row["cluster_id"]), set()).add(row["task_id"])
    return {
        "tasks": _sorted(world.rows("todoist_tasks")),
        "vectors": _sorted(world.rows("task_embeddings")),
        "clusters": _sorted(
            {**row, "cluster_id": row["cluster_id"] and sorted(members[row["user_id"], row["cluster_id"]])}
            for row in clusters
        ),
        "contexts": {user: _without_ids(row["context_json"]) for user, row in world.stored().items()},
    }


def _without_ids(text: str) -> dict[str, Any]:
    context: dict[str, Any] = json.loads(text)
    themes = [{**theme, "id": None} for theme in context.get("themes", ())]
    return {**context, "themes": sorted(themes, key=lambda theme: json.dumps(theme, sort_keys=True))}


def _sorted(rows: Any) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["user_id"], row["task_id"] or ""))
