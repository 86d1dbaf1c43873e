"""What `make bench` measures with: users drawn when they are asked for, and nights whose work is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from world import WordVectors

from assets.definitions import task_clusters, task_embeddings, user_contexts
from assets.versions import shard_of
from benchmarks.night import Cost, Memory, Pipeline, count_of
from benchmarks.report import Bench, Night, save, saved
from benchmarks.todoist import StandIn, standing_in
from benchmarks.users import N_TASKS, Crowd, add_accounts, changes_bucket
from contexts.todoist import Todoist
from contexts.vault import new_key

AT = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
CROWD = Crowd(20, AT.date())


@pytest.fixture
def todoist() -> Iterator[StandIn]:
    with standing_in() as started:
        started.settle(CROWD)
        yield started


@pytest.fixture
def pipeline(connection: psycopg.Connection[Any], todoist: StandIn, tmp_path: Path) -> Pipeline:
    key = new_key()
    add_accounts(connection, CROWD, key)
    return Pipeline(connection, Todoist(todoist.url), WordVectors(), tmp_path / "data", 2, key)


def by_asset(costs: list[Cost]) -> dict[str, Cost]:
    return {cost.asset: cost for cost in costs}


def sync(todoist: StandIn, number: int, sync_token: str = "*") -> dict[str, Any]:
    told = {"sync_token": sync_token, "resource_types": '["items", "projects", "user"]'}
    headers = {"Authorization": f"Bearer {CROWD[number].api_token}"}
    answer: dict[str, Any] = httpx.post(f"{todoist.url}/api/v1/sync", headers=headers, data=told).json()
    return answer


def test_nights_do_what_is_known_beforehand(pipeline: Pipeline, todoist: StandIn) -> None:
    """Rows are written for who is new, who changed tasks, and who has a task that changes bucket; for nobody else."""
    first = by_asset(pipeline.night(AT, lambda _: None))
    assert first["context_store"].counts["rows_written"] == len(CROWD)
    assert first[task_embeddings.name].counts["texts_embedded"] == pytest.approx(N_TASKS * len(CROWD), rel=0.01)

    n_changed = todoist.change(0.1, night=1)
    second = by_asset(pipeline.night(AT + timedelta(minutes=1), lambda _: None))
    assert second["context_store"].counts["rows_written"] == n_changed == 2
    assert second["todoist_tasks"].counts["todoist_calls_full"] == 0

    third = pipeline.night(AT + timedelta(minutes=2), lambda _: None)
    assert count_of(third, "rows_written") == count_of(third, "texts_embedded") == 0

    later = AT + timedelta(days=1)
    n_turning = todoist.n_turning(AT, later)
    fourth = by_asset(pipeline.night(later, lambda _: None))
    assert 0 < n_turning < len(CROWD)
    assert fourth["context_store"].counts["rows_written"] == n_turning
    assert fourth[user_contexts.name].n_users_computed == n_turning
    assert fourth[task_clusters.name].n_shards_run == fourth[task_embeddings.name].n_shards_run == 0


def test_files_and_memory_are_measured(pipeline: Pipeline) -> None:
    """An asset that wrote files says how large they are; memory is known on Linux."""
    costs = by_asset(pipeline.night(AT, lambda _: None))
    again = by_asset(pipeline.night(AT + timedelta(minutes=1), lambda _: None))
    assert costs["todoist_tasks"].written_mb > 0 == again["todoist_tasks"].written_mb
    if (found := Memory.measured().resident_mb) is not None:
        assert all(cost.peak_mb and cost.resident_mb and cost.peak_mb >= cost.resident_mb for cost in costs.values())
        assert 10 < found < 10_000


@pytest.mark.parametrize(
    ("due", "zone", "turns"),
    [
        ("2026-11-23", "UTC", True),
        ("2026-11-24", "UTC", True),
        ("2026-11-25", "UTC", False),
        ("2026-11-29", "UTC", False),
        ("2026-11-30", "UTC", True),
        ("2026-12-01", "UTC", False),
        ("2026-11-22", "UTC", False),
        ("2026-11-23T23:30:00", "Asia/Tokyo", True),
        ("2026-11-24T16:00:00Z", "Asia/Tokyo", False),
        ("2026-11-23T16:00:00.000000Z", "Asia/Tokyo", True),
    ],
)
def test_who_changes_bucket(due: str, zone: str, turns: bool) -> None:
    """Tasks due today, tomorrow or in a week move at midnight by the user's clock, others stay."""
    document = {"user": {"tz_info": {"timezone": zone}}, "items": [{"due": None}, {"due": {"date": due}}]}
    assert changes_bucket(document, AT, AT + timedelta(days=1)) == turns


def test_users_are_drawn_alike() -> None:
    """User k is the same in any crowd, has 50 tasks with ids of their own, and texts that nobody else has."""
    few, many = Crowd(300, AT.date()), Crowd(5000, AT.date())
    assert few[290] == many[290]
    assert few[-1] == few[299]
    together = [user for user in many[:3000] if shard_of(user.user_id, 8) == 3]
    items = [item for user in together for item in user.document["items"]]
    assert len(items) == N_TASKS * len(together)
    assert len({item["id"] for item in items}) == len(items)
    assert len({item["content"] for item in items}) > 0.99 * len(items)


def test_parents_are_in_the_account() -> None:
    """A drawn task's parent is one of the user's own tasks."""
    for user in CROWD:
        ids = {item["id"] for item in user.document["items"]}
        assert {item["parent_id"] for item in user.document["items"]} - {None} <= ids


def test_drawn_accounts_answer_like_loaded_ones(todoist: StandIn) -> None:
    """A full answer is the user's document, the next one empty, and after a change it holds just that."""
    user = CROWD[7]
    full = sync(todoist, 7)
    assert full["full_sync"] is True
    assert {name: full[name] for name in ("items", "projects", "user")} == {
        name: user.document[name] for name in ("items", "projects", "user")
    }
    assert sync(todoist, 7, full["sync_token"])["items"] == []
    todoist.advance(user.user_id, {"items": [user.document["items"][0] | {"content": "water the plants"}]})
    changed = sync(todoist, 7, full["sync_token"])
    assert changed["full_sync"] is False
    assert [item["content"] for item in changed["items"]] == ["water the plants"]
    assert len(sync(todoist, 7)["items"]) == N_TASKS


def test_sizes_are_kept_apart(tmp_path: Path) -> None:
    """Each number of users has a file of its own, with the CPU for each user, and other files do not count."""
    cost = Cost("embed_tasks", "task_embeddings", 3.0, 2.0, 8, 10, 0.1, None, None, {})
    for n_users in (2000, 1000):
        night = Night("first night", (cost,), 0.5, n_users, "are new")
        save(Bench(n_users, N_TASKS, 8, 4.0, None, 90.0, 0.5, (night,)), tmp_path / f"bench-{n_users}.json")
    (tmp_path / "bench-requests.json").write_text("{}")
    found = saved(tmp_path)
    assert [figures["n_users"] for figures in found] == [1000, 2000]
    assert [figures["cpu_ms_per_user"]["first night"] for figures in found] == [2.0, 1.0]
