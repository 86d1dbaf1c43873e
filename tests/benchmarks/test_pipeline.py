"""The parts of `make bench`: generated users, and nights with a known amount of work."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from world import WordVectors

from assets.definitions.task_clusters import task_clusters
from assets.definitions.task_embeddings import task_embeddings
from assets.definitions.user_contexts import user_contexts
from assets.engine.hashing import shard_of
from benchmarks.pipeline import AssetCost, MemoryMeter, Pipeline, total_count
from benchmarks.report import BenchFigures, NightCosts, read_figures, save_figures
from benchmarks.todoist import TodoistProcess, todoist_process
from benchmarks.users import N_TASKS, Crowd, add_accounts, changes_bucket
from contexts.todoist.client import Todoist
from contexts.todoist.credentials import new_key

AT = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
CROWD = Crowd(20, AT.date())


@pytest.fixture
def todoist() -> Iterator[TodoistProcess]:
    with todoist_process() as process:
        process.install(CROWD)
        yield process


@pytest.fixture
def pipeline(connection: psycopg.Connection[Any], todoist: TodoistProcess, tmp_path: Path) -> Pipeline:
    key = new_key()
    add_accounts(connection, CROWD, key)
    return Pipeline(connection, Todoist(todoist.url), WordVectors(), tmp_path / "data", 2, key)


def by_asset(costs: list[AssetCost]) -> dict[str, AssetCost]:
    return {cost.asset: cost for cost in costs}


def sync(todoist: TodoistProcess, number: int, sync_token: str = "*") -> dict[str, Any]:
    form = {"sync_token": sync_token, "resource_types": '["items", "projects", "user"]'}
    headers = {"Authorization": f"Bearer {CROWD[number].api_token}"}
    answer: dict[str, Any] = httpx.post(f"{todoist.url}/api/v1/sync", headers=headers, data=form).json()
    return answer


def test_nights_do_the_known_work(pipeline: Pipeline, todoist: TodoistProcess) -> None:
    """Rows are written only for new users, users with changed tasks, and users with a task that changes bucket."""
    first = by_asset(pipeline.run(AT, lambda _: None))
    assert first["context_store"].counts["rows_written"] == len(CROWD)
    assert first[task_embeddings.name].counts["texts_embedded"] == pytest.approx(N_TASKS * len(CROWD), rel=0.01)

    n_changed = todoist.change(0.1, night=1)
    second = by_asset(pipeline.run(AT + timedelta(minutes=1), lambda _: None))
    assert second["context_store"].counts["rows_written"] == n_changed == 2
    assert second["todoist_tasks"].counts["todoist_calls_full"] == 0

    third = pipeline.run(AT + timedelta(minutes=2), lambda _: None)
    assert total_count(third, "rows_written") == total_count(third, "texts_embedded") == 0

    later = AT + timedelta(days=1)
    n_changing = todoist.n_changing_bucket(AT, later)
    fourth = by_asset(pipeline.run(later, lambda _: None))
    assert 0 < n_changing < len(CROWD)
    assert fourth["context_store"].counts["rows_written"] == n_changing
    assert fourth[user_contexts.name].n_users_computed == n_changing
    assert fourth[task_clusters.name].n_shards_run == fourth[task_embeddings.name].n_shards_run == 0


def test_a_run_in_parts(pipeline: Pipeline, connection: psycopg.Connection[Any]) -> None:
    """A run can be taken in parts, one for each shard of each asset, and brings everything up to date."""
    assert sum(1 for _ in pipeline.run_in_parts(AT)) == pipeline.n_parts
    assert connection.execute("SELECT count(*) FROM context_store").fetchone() == (len(CROWD),)
    again = pipeline.run(AT + timedelta(minutes=1), lambda _: None)
    assert total_count(again, "rows_written") == total_count(again, "texts_embedded") == 0


def test_files_and_memory_are_measured(pipeline: Pipeline) -> None:
    """The cost of an asset includes the size of its written files and, on Linux, the memory."""
    costs = by_asset(pipeline.run(AT, lambda _: None))
    again = by_asset(pipeline.run(AT + timedelta(minutes=1), lambda _: None))
    assert costs["todoist_tasks"].written_mb > 0 == again["todoist_tasks"].written_mb
    if (resident_mb := MemoryMeter.start().resident_mb) is not None:
        assert all(cost.peak_mb and cost.resident_mb and cost.peak_mb >= cost.resident_mb for cost in costs.values())
        assert 10 < resident_mb < 10_000


@pytest.mark.parametrize(
    ("due", "zone", "changes"),
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
def test_bucket_changes(due: str, zone: str, changes: bool) -> None:
    """Tasks due today, tomorrow or in a week change bucket at the user's local midnight; other tasks do not."""
    document = {"user": {"tz_info": {"timezone": zone}}, "items": [{"due": None}, {"due": {"date": due}}]}
    assert changes_bucket(document, AT, AT + timedelta(days=1)) == changes


def test_generated_users() -> None:
    """User k is the same in crowds of any size, and has 50 tasks with unique ids and nearly always unique texts."""
    small, large = Crowd(300, AT.date()), Crowd(5000, AT.date())
    assert small[290] == large[290]
    assert small[-1] == small[299]
    same_shard = [user for user in large[:3000] if shard_of(user.user_id, 8) == 3]
    items = [item for user in same_shard for item in user.document["items"]]
    assert len(items) == N_TASKS * len(same_shard)
    assert len({item["id"] for item in items}) == len(items)
    assert len({item["content"] for item in items}) > 0.99 * len(items)


def test_parents_are_in_the_account() -> None:
    """The parent of a generated task is a task of the same user."""
    for user in CROWD:
        ids = {item["id"] for item in user.document["items"]}
        assert {item["parent_id"] for item in user.document["items"]} - {None} <= ids


def test_generated_accounts_answer_like_loaded_ones(todoist: TodoistProcess) -> None:
    """A full answer is the user's document, the next answer is empty, and the one after a change holds the change."""
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


def test_figures_by_number_of_users(tmp_path: Path) -> None:
    """The figures of each number of users are saved with the CPU per user and read again; other files are ignored."""
    cost = AssetCost("embed_tasks", "task_embeddings", 3.0, 2.0, 8, 10, 0.1, None, None, {})
    for n_users in (2000, 1000):
        night = NightCosts("first night", (cost,), 0.5, n_users, "are new")
        save_figures(
            BenchFigures(n_users, N_TASKS, 8, 4.0, None, 90.0, 0.5, (night,)), tmp_path / f"bench-{n_users}.json"
        )
    (tmp_path / "bench-requests.json").write_text("{}")
    documents = read_figures(tmp_path)
    assert [document["n_users"] for document in documents] == [1000, 2000]
    assert [document["cpu_ms_per_user"]["first night"] for document in documents] == [2.0, 1.0]
