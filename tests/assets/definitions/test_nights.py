"""Nights over the seven assets in one process: real Postgres, real HTTP, real Parquet."""

from __future__ import annotations

import json
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from world import NOON, WordVectors, World

from assets.definitions import GRAPH
from assets.engine.errors import CheckFailed
from contexts.todoist.accounts import FetchScope
from contexts.todoist.client import TodoistUnavailable
from local.samples import changed_users, night_changes, sample_users
from local.todoist import Fault

REAL_TASKS = Path(__file__).parents[4] / "shared" / "data" / "todo_tasks.parquet"


def n_changed(results: Any) -> int:
    return sum(result.n_users_computed for result in results)


def count(results: Any, name: str) -> int:
    return sum(result.counts[name] for result in results)


def load_samples(world: World, n: int) -> list[Any]:
    users = sample_users(n, today=NOON.date())
    for user in users:
        world.add(user.user_id, user.document, user.timezone)
    return users


def test_three_nights(world: World) -> None:
    """The first night computes everything, the second only the changes of 5 % of the users, the third nothing."""
    users = load_samples(world, 40)
    first = world.night(NOON)
    n_texts = len({(row["user_id"], row["text_hash"]) for row in world.rows("task_embeddings")})
    assert count(first["todoist_tasks"], "todoist_calls_full") == 40
    assert 0 < count(first["task_embeddings"], "texts_embedded") <= n_texts
    assert n_changed(first["task_clusters"]) == n_changed(first["user_contexts"]) == 40
    assert count(first["context_store"], "rows_written") == 40

    changed = changed_users(users, share=0.05, night=2)
    for user in changed:
        document = world.todoist.document(user.user_id)
        world.todoist.advance(user.user_id, night_changes(user, document, today=NOON.date(), night=2))
    second = world.night(NOON + timedelta(minutes=10))
    assert count(second["todoist_tasks"], "todoist_calls_incremental") == 40
    assert count(second["todoist_tasks"], "todoist_calls_full") == 0
    assert n_changed(second["user_contexts"]) == len(changed)
    assert count(second["context_store"], "rows_written") == len(changed)
    assert {row["fetched_at"] for row in world.stored().values()} == {NOON + timedelta(minutes=10)}

    third = world.night(NOON + timedelta(minutes=20))
    assert {name for name, results in third.items() if results} == {"todoist_tasks", "tip_reactions"}
    assert {row["fetched_at"] for row in world.stored().values()} == {NOON + timedelta(minutes=20)}


def test_a_lost_row(world: World, account: Any) -> None:
    """A row that was deleted in Postgres is written again by the next run, beside users without a change."""
    for user in ("ann", "bob"):
        world.add(user, account("water the plants"))
    world.night(NOON)
    before = world.stored()
    world.connection.execute("DELETE FROM context_store WHERE user_id = 'bob'")
    later = NOON + timedelta(hours=1)
    assert count(world.night(later)["context_store"], "rows_written") == 1
    assert world.stored() == {user: row | {"fetched_at": later} for user, row in before.items()}


def test_one_call_per_active_user(world: World, account: Any) -> None:
    """An active user costs one Todoist call per night, an inactive one none."""
    for user in ("ann", "bob", "cem"):
        world.add(user, account("water the plants"))
    world.accounts.set_active("cem", active=False)
    for hour in range(3):
        world.night(NOON + timedelta(hours=hour))
    calls = Counter((call.user, call.full) for call in world.todoist.calls)
    assert calls == {("ann", True): 1, ("ann", False): 2, ("bob", True): 1, ("bob", False): 2}


def test_hash_is_checked_in_sql(world: World) -> None:
    """Every row's context_hash is the sha256 of its context_json, as Postgres computes it."""
    load_samples(world, 25)
    world.night()
    is_correct = "encode(sha256(convert_to(context_json, 'UTF8')), 'hex') = context_hash"
    counts = world.connection.execute(f"SELECT count(*), count(*) FILTER (WHERE {is_correct}) FROM context_store")
    assert counts.fetchone() == (25, 25)


def test_freshness_is_the_time_of_the_fetch(world: World, account: Any) -> None:
    """materialized_at is the time of the last successful fetch, even if the user did not change."""
    world.add("ann", account("call the dentist"))
    world.add("bob", account("call the plumber"))
    world.night(NOON)
    world.todoist.fail("bob", *[Fault.server_error(503)] * 3)
    later = NOON + timedelta(hours=4)
    world.night(later)
    stored = world.stored()
    assert stored["ann"]["fetched_at"] == later
    assert stored["bob"]["fetched_at"] == NOON


@pytest.mark.parametrize(
    "fault",
    [Fault.server_error(500), Fault.rate_limited(600), Fault.html_page(), Fault.null_items(), Fault.empty_object()],
    ids=lambda fault: fault.kind,
)
def test_failed_fetch_keeps_the_context(world: World, account: Any, fault: Fault) -> None:
    """A failed fetch is counted, keeps the user's tasks and context, and does not affect other users."""
    world.add("ann", account("call the dentist"))
    world.add("bob", account("call the plumber"))
    world.night(NOON)
    before = world.stored()["bob"]
    world.todoist.fail("bob", fault, fault, fault)
    world.todoist.advance("ann", {"items": [{"id": "t9", "content": "buy stamps"}]})
    night = world.night(NOON + timedelta(hours=4))
    assert count(night["todoist_tasks"], "users_failed") == 1
    assert world.stored()["bob"] == before
    assert "buy stamps" in world.stored()["ann"]["context_json"]


def test_outage_raises(world: World, account: Any) -> None:
    """The step fails with Todoist's Retry-After if no user of a shard can be fetched."""
    users = [f"user-{number}" for number in range(5)]
    for user in users:
        world.add(user, account("call the dentist"))
    world.n_shards = 1
    world.night(NOON)
    before = world.stored()
    for user in users:
        world.todoist.fail(user, Fault.rate_limited(900))
    with pytest.raises(TodoistUnavailable) as raised:
        world.night(NOON + timedelta(hours=4))
    assert raised.value.retry_after == 900
    assert world.stored() == before


def test_revoked_token_is_disconnected_after_two_days(world: World, account: Any) -> None:
    """A refused token is no failure; the account is disconnected by a refused token on another day."""
    world.add("ann", account("call the dentist"))
    world.add("bob", account("call the plumber"))
    world.night(NOON)
    world.todoist.revoke("bob")
    states = []
    for hour in (4, 8, 24):
        world.night(NOON + timedelta(hours=hour))
        states.append({user["user_id"]: user["connected"] for user in world.accounts.all()})
    assert states == [*[{"ann": True, "bob": True}] * 2, {"ann": True, "bob": False}]
    assert world.stored()["bob"]["fetched_at"] == NOON


def test_removed_user_disappears(world: World, account: Any) -> None:
    """A removed user has no row in any asset after the next night."""
    world.add("ann", account("call the dentist"))
    world.add("bob", account("call the plumber"))
    world.night(NOON)
    world.accounts.remove("bob")
    world.night(NOON + timedelta(hours=4))
    users = {asset.name: {row["user_id"] for row in world.rows(asset.name)} for asset in GRAPH}
    assert users == {asset.name: {"ann"} for asset in GRAPH} | {"tip_reactions": set(), "tip_candidates": set()}
    assert set(world.stored()) == {"ann"}


def test_crash_between_data_and_token(world: World, account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash between writing the data and saving the sync token, the next run fetches the user in full."""
    world.add("ann", account("call the dentist", "buy milk"))
    world.night(NOON)
    world.todoist.advance(
        "ann", {"items": [{"id": "t1", "content": "buy oat milk"}, {"id": "t2", "content": "rest"}]}
    )

    def crash(*_: object, **__: object) -> None:
        raise ConnectionError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(world.accounts, "save_sync_states", crash)
        with pytest.raises(ConnectionError):
            world.night(NOON + timedelta(hours=4))
    rows = world.rows("todoist_tasks")
    night = world.night(NOON + timedelta(hours=5))
    assert count(night["todoist_tasks"], "todoist_calls_full") == 1
    assert world.rows("todoist_tasks") == rows
    assert {row["content"] for row in rows} == {"call the dentist", "buy oat milk", "rest"}
    assert world.stored()["ann"]["fetched_at"] == NOON + timedelta(hours=5)


def test_restored_file_is_fetched_in_full(world: World, account: Any) -> None:
    """A file of tasks older than its sync tokens loses no change: users with other rows are fetched in full."""
    for user in ("ann", "bob"):
        world.add(user, account(f"call {user}"))
    world.n_shards = 1
    world.night(NOON)
    [file] = world.root.glob("todoist_tasks/*/data.parquet")
    backup = file.read_bytes()
    world.todoist.advance("ann", {"items": [{"id": "t1", "content": "buy oat milk"}]})
    night = world.night(NOON + timedelta(hours=4))
    assert count(night["todoist_tasks"], "todoist_calls_incremental") == 2
    file.write_bytes(backup)
    night = world.night(NOON + timedelta(hours=8))
    counts = [count(night["todoist_tasks"], f"todoist_calls_{kind}") for kind in ("full", "incremental")]
    assert counts == [1, 1]
    assert {row["content"] for row in world.rows("todoist_tasks")} == {"call ann", "call bob", "buy oat milk"}
    night = world.night(NOON + timedelta(hours=12))
    assert count(night["todoist_tasks"], "todoist_calls_full") == 0


def test_restored_rows_are_fetched_in_any_run(world: World, account: Any) -> None:
    """A run for likely users also fetches users with restored rows, so no former context is published as newer."""
    for user in ("ann", "bob"):
        world.add(user, account(f"call {user}"))
    world.n_shards = 1
    world.night(NOON)
    backup = {file: file.read_bytes() for file in world.root.glob("*/shard=*/data.parquet")}
    world.todoist.advance("bob", {"items": [{"id": "t1", "content": "buy oat milk"}]})
    world.night(NOON + timedelta(hours=1))
    for file, content in backup.items():
        file.write_bytes(content)
    at = NOON - timedelta(hours=14)  # yesterday at ten in the evening
    world.connection.execute("INSERT INTO decisions VALUES (gen_random_uuid(), 'ann', %s)", [at])
    night = world.night(NOON + timedelta(hours=10), scope=FetchScope.LIKELY)
    counts = [count(night["todoist_tasks"], f"todoist_calls_{kind}") for kind in ("full", "incremental")]
    assert counts == [1, 1]
    row = world.stored()["bob"]
    assert ("buy oat milk" in row["context_json"], row["fetched_at"]) == (True, NOON + timedelta(hours=10))
    world.night(NOON + timedelta(hours=11), scope=FetchScope.LIKELY)
    assert len(world.todoist.calls) == 6


def test_restored_rows_without_a_fetch(world: World, account: Any) -> None:
    """A user whose restored rows cannot be replaced, because Todoist is down, keeps the context of the last fetch."""
    world.add("ann", account("call the dentist"))
    world.night(NOON)
    backup = {file: file.read_bytes() for file in world.root.glob("*/shard=*/data.parquet")}
    world.todoist.advance("ann", {"items": [{"id": "t1", "content": "buy oat milk"}]})
    world.night(NOON + timedelta(hours=1))
    stored = world.stored()
    for file, content in backup.items():
        file.write_bytes(content)
    world.todoist.fail("ann", *[Fault.server_error(503)] * 3)
    world.night(NOON + timedelta(hours=2))
    assert world.stored() == stored
    world.night(NOON + timedelta(hours=3))
    row = world.stored()["ann"]
    assert ("buy oat milk" in row["context_json"], row["fetched_at"]) == (True, NOON + timedelta(hours=3))


def test_lost_shard_is_fetched_in_full(world: World, account: Any) -> None:
    """The users of a lost shard of tasks are fetched in full, even if they have sync tokens."""
    world.add("ann", account("call the dentist"))
    world.night(NOON)
    before = world.rows("todoist_tasks")
    for path in world.root.glob("todoist_tasks/*/data.parquet"):
        path.unlink()
    night = world.night(NOON + timedelta(hours=4))
    assert count(night["todoist_tasks"], "todoist_calls_full") == 1
    assert world.rows("todoist_tasks") == before


def test_awkward_items(world: World, account: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Broken items are skipped, counted and logged by id only; NUL bytes, emoji and unknown zones are accepted."""
    items = [
        {"id": "good", "content": "caf\u0000é \ud800 🎉 مرحبا", "surprise": {"nested": 1}},
        {"id": "zone", "content": "odd zone", "due": {"date": "2026-11-24T10:00:00Z", "timezone": "Mars/Base"}},
        {"id": "p9", "content": "odd priority", "priority": 9},
        {"id": "broken", "content": None},
        {"content": "canary of an item without id"},
        "not an object",
    ]
    world.add("ann", account(*items[:5], items=items, timezone="Nowhere/Land"), timezone="Europe/Berlin")
    with caplog.at_level(logging.DEBUG):
        night = world.night()
    context = json.loads(world.stored()["ann"]["context_json"])
    assert count(night["todoist_tasks"], "items_skipped") == 3
    assert context["counts"]["open"] == 3
    assert context["profile"]["timezone"] == "Europe/Berlin"
    assert "item broken skipped" in caplog.text
    assert "canary" not in caplog.text
    assert "token-of-ann" not in caplog.text


def test_empty_account_has_a_context(world: World, account: Any) -> None:
    """A user without open tasks has a context, and is not recomputed every night."""
    world.add("ann", account())
    world.night(NOON)
    assert json.loads(world.stored()["ann"]["context_json"])["counts"]["open"] == 0
    again = world.night(NOON + timedelta(hours=4))
    assert again["task_clusters"] == again["user_contexts"] == []


def test_a_large_account_stays_within_budget(world: World, account: Any) -> None:
    """The context of a user with 5,000 tasks has the most urgent tasks within the budget, and the counts of all."""
    items = [
        {
            "id": f"i{n}",
            "content": f"task {n} of many",
            "priority": 1 + n % 4,
            "due": {"date": f"2026-12-{1 + n % 28:02}"},
        }
        for n in range(4_990)
    ]
    overdue = [{"id": f"o{n}", "content": f"late {n}", "due": {"date": "2026-11-01"}} for n in range(10)]
    world.add("ann", account(*items, *overdue))
    world.night()
    text = world.stored()["ann"]["context_json"]
    context = json.loads(text)
    assert len(text.encode()) <= world.budget.n_bytes
    assert context["counts"]["open"] == 5_000
    assert {task["id"] for task in context["tasks"]["overdue"]} == {f"o{n}" for n in range(10)}


def test_midnight_changes_only_moved_tasks(world: World, account: Any) -> None:
    """A local midnight changes only contexts in which a task changes bucket."""
    tomorrow = {"id": "t0", "content": "call the dentist", "due": {"date": "2026-11-24"}}
    world.add("ann", account(tomorrow, timezone="Asia/Tokyo"))
    world.add("bob", account(tomorrow, timezone="America/New_York"))
    world.add("cem", account("someday", timezone="Asia/Tokyo"))
    world.night(NOON)
    night = world.night(datetime(2026, 11, 23, 15, 0, tzinfo=UTC))  # midnight in Tokyo
    assert n_changed(night["user_contexts"]) == 1
    assert "today" in json.loads(world.stored()["ann"]["context_json"])["tasks"]
    assert "this_week" in json.loads(world.stored()["bob"]["context_json"])["tasks"]


def test_a_different_model_recomputes_everything(world: World, account: Any) -> None:
    """A different model recomputes the vectors of all tasks, and themes and contexts from them."""
    world.add("ann", account("call the dentist", "call the doctor", "buy milk"))
    world.night(NOON)
    world.embedder = WordVectors("other-vectors", dim=48)
    night = world.night(NOON + timedelta(hours=1))
    assert {row["model"] for row in world.rows("task_embeddings")} == {world.embedder.version}
    assert {len(row["embedding"]) for row in world.rows("task_embeddings")} == {48}
    assert [result.reason for result in night["task_embeddings"]] == ["model"]
    assert n_changed(night["task_clusters"]) == 1


def test_a_text_is_embedded_once_per_shard(world: World, account: Any) -> None:
    """A text is embedded once per shard for all users, and not again for a new task with the same text."""
    world.n_shards = 1
    world.add("ann", account("buy milk", "buy milk", "call mum"))
    world.add("bob", account("buy milk"))
    world.night(NOON)
    assert sorted(world.embedder.texts) == ["buy milk", "call mum"]
    world.todoist.advance("bob", {"items": [{"id": "t7", "content": "call mum"}]})
    world.night(NOON + timedelta(hours=1))
    assert sorted(world.embedder.texts) == ["buy milk", "call mum"]


def test_a_new_due_date_needs_no_embedding(world: World, account: Any) -> None:
    """A new due date changes the context, but the task is neither embedded nor clustered again."""
    world.add("ann", account("call the dentist"))
    world.night(NOON)
    item = {"id": "t0", "content": "call the dentist", "added_by_uid": "1", "due": {"date": "2026-11-30"}}
    world.todoist.advance("ann", {"items": [item]})
    night = world.night(NOON + timedelta(hours=1))
    assert night["task_embeddings"] == night["task_clusters"] == []
    assert count(night["context_store"], "rows_written") == 1


def test_reactions_reach_the_context(world: World, account: Any) -> None:
    """A reaction to a tip is in the contexts of the next 90 days, counted by kind and theme."""
    world.add("ann", account("call the dentist"))
    world.night(NOON)
    world.connection.execute(
        "INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, theme)"
        " VALUES (gen_random_uuid(), 'ann', %s, 'quick_win', 'health')",
        [NOON],
    )
    world.connection.execute("INSERT INTO reactions SELECT decision_id, 'dismissed', %s FROM decisions", [NOON])
    world.night(NOON + timedelta(hours=4))
    assert json.loads(world.stored()["ann"]["context_json"])["reactions"] == {"by_kind": {}, "by_theme": {}}
    world.night(NOON + timedelta(hours=14))
    reactions = json.loads(world.stored()["ann"]["context_json"])["reactions"]
    assert reactions == {"by_kind": {"quick_win": {"dismissed": 1}}, "by_theme": {"health": {"dismissed": 1}}}
    world.night(NOON + timedelta(days=91))
    assert json.loads(world.stored()["ann"]["context_json"])["reactions"] == {"by_kind": {}, "by_theme": {}}


def test_bad_vectors_are_not_published(world: World, account: Any) -> None:
    """Vectors that are not of length 1 fail the check: neither the shard nor the vector cache keeps them."""

    class Broken(WordVectors):
        def encode(self, texts: Any, on_batch: Any = None) -> Any:
            return super().encode(texts) * 3

    world.add("ann", account("call the dentist"))
    world.night(NOON)
    before = world.rows("task_embeddings")
    world.embedder = Broken("broken")
    with pytest.raises(CheckFailed, match="task_embeddings, shard"):
        world.night(NOON + timedelta(hours=1))
    assert world.rows("task_embeddings") == before
    world.embedder = WordVectors("broken")
    world.night(NOON + timedelta(hours=2))
    assert {row["model"] for row in world.rows("task_embeddings")} == {world.embedder.version}


def test_a_newer_row_is_not_overwritten(world: World, account: Any) -> None:
    """A night does not overwrite a row that a request assembled after the night's fetch."""
    world.add("ann", account("call the dentist"))
    world.connection.execute(
        "INSERT INTO context_store VALUES ('ann', %s, '{}', 'newer')", [NOON + timedelta(minutes=5)]
    )
    world.night(NOON)
    assert world.stored()["ann"]["context_hash"] == "newer"


def test_selection_of_one_user(world: World, account: Any) -> None:
    """A run for one user computes only this user; the next run computes the others."""
    world.n_shards = 1
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
    world.night(NOON)
    for user in ("ann", "bob"):
        world.todoist.advance(user, {"items": [{"id": "t5", "content": "buy bread"}]})
    world.night(NOON + timedelta(hours=1), only_users=("ann",))
    assert [("buy bread" in row["context_json"]) for row in world.stored().values()] == [True, False]
    world.night(NOON + timedelta(hours=2))
    assert all("buy bread" in row["context_json"] for row in world.stored().values())


@pytest.mark.skipif(not REAL_TASKS.exists(), reason="the file of real to-do texts does not exist")
def test_real_texts(world: World, account: Any) -> None:
    """With real to-do texts, 25 tasks per user, every task gets a vector and every user a context."""
    table = pq.read_table(REAL_TASKS).to_pylist()
    for start in range(0, len(table), 25):
        rows = table[start : start + 25]
        items = [
            {"id": row["source_id"] + str(n), "content": row["task_text"], "description": row["description"]}
            for n, row in enumerate(rows)
        ]
        world.add(f"user-{start:04}", account(*items))
    night = world.night()
    assert len(world.rows("task_embeddings")) == len(table)
    assert count(night["context_store"], "rows_written") == len(world.stored()) == -(-len(table) // 25)
    assert count(night["todoist_tasks"], "items_skipped") == 0
