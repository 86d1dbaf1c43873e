"""A removed user leaves no trace in any file or table."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from scribe import Scribe, ask_daily
from world import NOON, World, run_step

from assets.__main__ import main
from assets.definitions import GRAPH
from assets.definitions.todoist_tasks import todoist_tasks
from assets.engine.erase import erase
from assets.engine.graph import Graph
from assets.engine.index import Index
from assets.engine.materialize import Lock
from assets.options import RunOptions
from assets.runtime import Runtime
from assets.steps import StepRunner
from contexts.settings import Settings
from contexts.todoist.accounts import FetchScope
from contexts.todoist.credentials import CredentialCipher
from contexts.todoist.mirror import text_hash

REMOVED = "ann-who-is-removed"
KEPT = "bob-who-is-kept"
WORDS = ("call the xylophone repair", "xylophone strings")
NEW_WORDS = "xylophone lessons"
LATER = timedelta(hours=4)


@pytest.fixture
def runtime(world: World) -> Runtime:
    world.n_shards = 1
    settings = Settings(n_shards=world.n_shards, data_root=str(world.root))
    runtime = Runtime.connect(settings, CredentialCipher([world.key]), world.connection, world.client.base_url)
    world.new_generator = Scribe
    return replace(runtime, embedder=world.embedder, tip_writer=world.runtime.tip_writer)


def run_all(runtime: Runtime, now: Any, scope: FetchScope = FetchScope.ALL) -> None:
    """Run all steps as Airflow does."""
    for step in GRAPH.steps:
        run_step(StepRunner(GRAPH, runtime, runtime.load_resources(), now, RunOptions(scope)), step, str(now))


@pytest.fixture
def filled_world(runtime: Runtime, world: World, account: Any, tmp_path: Path) -> World:
    """Two users with tasks, contexts, a context by a request, candidates, decisions, reactions and LLM calls."""
    world.add(REMOVED, account(*WORDS))
    world.add(KEPT, account("buy milk", "buy bread"))
    for user in (REMOVED, KEPT):
        ask_daily(world, user, NOON + timedelta(hours=1))
    run_all(runtime, NOON)
    for user in (REMOVED, KEPT):
        _add_reaction(world.connection, user)
    world.shards.set_aside(GRAPH["user_contexts"], 0)
    run_all(runtime, NOON + LATER)
    for user in (REMOVED, KEPT):
        _add_request_rows(world.connection, user)
    return world


def _add_request_rows(connection: psycopg.Connection[Any], user: str) -> None:
    """Add the rows of a request: decision, reaction, candidates, LLM call and context."""
    at = NOON + LATER
    title = WORDS[0] if user == REMOVED else "milk"
    [[decision]] = connection.execute(
        "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (gen_random_uuid(), %s, %s)"
        " RETURNING decision_id",
        [user, at],
    ).fetchall()
    connection.execute("INSERT INTO reactions VALUES (%s, 'done', %s, 1)", [decision, at])
    connection.execute(
        "INSERT INTO candidate_sets VALUES (gen_random_uuid(), %s, 'h', 'llm', %s, %s, %s, %s, %s, %s, %s, '')",
        [user, at, at, at, [title], ["b"], ["k"], [""]],
    )
    connection.execute("INSERT INTO llm_calls VALUES (%s, %s, NULL, 'm', 'answered', 1, 2, 3, 0, 1)", [at, user])
    connection.execute("INSERT INTO request_contexts VALUES (%s, %s, %s, 'h', %s)", [user, at, at, title])
    connection.execute(
        "WITH b AS (INSERT INTO llm_batches (batch_id, model, created_at, expires_at)"
        " VALUES (gen_random_uuid(), 'openai:m', %s, %s) RETURNING batch_id)"
        " INSERT INTO llm_batch_requests SELECT batch_id, %s, '0', 1, 'h', %s, %s FROM b",
        [at, at + timedelta(days=1), user, title, at],
    )


def _add_reaction(connection: psycopg.Connection[Any], user: str) -> None:
    """Add a decision with a reaction, which the next run counts in the user's context."""
    connection.execute(
        "WITH d AS (INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind)"
        " VALUES (gen_random_uuid(), %s, %s, 'quick_win') RETURNING decision_id)"
        " INSERT INTO reactions SELECT decision_id, 'done', %s, 1 FROM d",
        [user, NOON, NOON],
    )


def traces(world: World) -> list[str]:
    """Return the tables and files that still hold the removed user, or a hash of one of their texts."""
    needles = (
        REMOVED,
        "xylophone",
        *map(text_hash, (*WORDS, NEW_WORDS)),
    )  # Postgres prints bytes in hex, like the hashes
    tables = world.connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    ).fetchall()
    places = [
        f"table {name}"
        for (name,) in tables
        for (row,) in world.connection.execute(f'SELECT t::TEXT FROM "{name}" t').fetchall()
        if any(needle in row for needle in needles)
    ]
    for path in world.root.rglob("*"):
        if path.is_file() and any(needle in text for needle in needles for text in (str(path), *_texts(path))):
            places.append(str(path.relative_to(world.root)))
    return sorted(set(places))


def _texts(path: Path) -> list[str]:
    """Return the content of a file as texts; of a Parquet file also its rows, its metadata and the unpacked index."""
    raw = path.read_bytes()
    if not raw.startswith(b"PAR1"):
        return [repr(raw)]
    metadata = pq.read_metadata(path).metadata or {}
    packed_index = base64.b64decode(metadata.get(b"users", b""))
    index = Index.unpack(packed_index).users if packed_index else ()
    return [repr(raw), str(pq.read_table(path).to_pylist()), str(metadata), str(index)]


def test_the_search_finds_traces(filled_world: World) -> None:
    """Before the removal the search finds the user in every kind of file and table with data of users."""
    places = traces(filled_world)
    folders = {place.split("/")[0] for place in places if "/" in place}
    assert folders == {*GRAPH.assets, "context_history"}
    assert {place.removeprefix("table ") for place in places if place.startswith("table ")} >= {
        *("users", "todoist_accounts", "context_store", "request_contexts"),
        *("decisions", "candidate_sets", "llm_calls", "llm_batch_requests", "text_vectors"),
    }


def test_erase_leaves_no_trace(
    filled_world: World,
    runtime: Runtime,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`erase` removes a user from every file and table at once and leaves the others as they were."""
    before = {name: [row for row in filled_world.rows(name) if row["user_id"] != REMOVED] for name in GRAPH.assets}
    _point_at(filled_world, database_url, monkeypatch)
    assert main(["erase", REMOVED]) == 0
    out = capsys.readouterr().out
    assert f"erased {REMOVED}" in out
    assert f"a context of {REMOVED} in a batch until {NOON + LATER + timedelta(days=1):%Y-%m-%d %H:%M} UTC" in out
    assert traces(filled_world) == []
    assert {name: filled_world.rows(name) for name in GRAPH.assets} == before
    run_all(runtime, NOON + 2 * LATER)
    assert traces(filled_world) == []
    assert set(filled_world.stored()) == {KEPT}


class EraseAtLock:
    """The locks of a run, of which one starts an erasure beside the run: before it is taken, or while it is held."""

    def __init__(self, lock: Lock, number: int, *, is_held: bool) -> None:
        self.eraser = Thread(target=main, args=(["erase", REMOVED],))
        self._lock, self._number, self._is_held = lock, number, is_held

    @contextmanager
    def __call__(self, asset: str, shard: int) -> Iterator[None]:
        if self._number == 0 and not self._is_held:
            self.eraser.start()
        with self._lock(asset, shard):
            if self._number == 0 and self._is_held:
                self.eraser.start()
            self._number -= 1
            yield


N_LOCKS = 6
"""The locks that a night takes in its only shard: one for each asset."""


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("number", range(N_LOCKS))
def test_erase_beside_a_night(
    filled_world: World,
    runtime: Runtime,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    is_held: bool,
) -> None:
    """An erasure beside a night, at whatever lock, leaves no trace, fails no check, and the others are computed."""
    _point_at(filled_world, database_url, monkeypatch)
    filled_world.todoist.advance(REMOVED, {"items": [{"id": "new", "content": NEW_WORDS}]})
    filled_world.todoist.advance(KEPT, {"items": [{"id": "t0", "content": "buy butter"}]})
    lock = EraseAtLock(runtime.lock, number, is_held=is_held)
    run_all(replace(runtime, lock=lock), NOON + 2 * LATER)
    lock.eraser.join()
    assert traces(filled_world) == []
    run_all(runtime, NOON + 3 * LATER)
    assert traces(filled_world) == []
    [row] = filled_world.stored().values()
    assert (row["fetched_at"], "buy butter" in row["context_json"]) == (NOON + 3 * LATER, True)


def test_themes_beside_an_erasure(filled_world: World, runtime: Runtime) -> None:
    """If a user's tasks are erased and the vectors are not yet, the themes of the others are made all the same."""
    for user in (REMOVED, KEPT):
        filled_world.todoist.advance(user, {"items": [{"id": "t0", "content": "buy a xylophone"}]})
    for step in ("fetch_signals", "embed_tasks"):
        run_step(StepRunner(GRAPH, runtime, runtime.load_resources(), NOON + 2 * LATER), step, "before")
    runner = StepRunner(GRAPH, runtime, runtime.load_resources(), NOON + 2 * LATER)
    plan, _ = runner.plan("cluster_tasks")
    erase(Graph.from_assets([todoist_tasks]), runtime.shards, [REMOVED])
    assert [result.n_users_computed for result in runner.materialize(plan)] == [1]
    [row] = [row for row in filled_world.rows("task_clusters") if (row["user_id"], row["task_id"]) == (KEPT, "t0")]
    assert row["text_hash"] == text_hash("buy a xylophone")


def test_a_removed_account_leaves_no_trace_after_the_next_run(filled_world: World, runtime: Runtime) -> None:
    """After the removal of an account the next run, with any scope, erases its last trace."""
    filled_world.accounts.remove(REMOVED)
    assert traces(filled_world)
    run_all(runtime, NOON + 2 * LATER, FetchScope.LIKELY)
    assert traces(filled_world) == []
    assert set(filled_world.stored()) == {KEPT}


def test_erasing_an_unknown_user_is_an_error(
    filled_world: World, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`erase` of an unknown user exits with 1 and names the command that lists the users."""
    _point_at(filled_world, database_url, monkeypatch)
    assert main(["erase", "anna"]) == 1
    assert "no trace of a user 'anna'" in capsys.readouterr().err


def _point_at(world: World, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment to the world's runtime."""
    for name, value in {
        "DATA_ROOT": str(world.root),
        "N_SHARDS": str(world.n_shards),
        "DATABASE_URL": url,
        "CREDENTIALS_KEYS": world.key,
        "TODOIST_API_URL": world.client.base_url,
        "EMBEDDING_MODEL": "word-vectors",
        "EMBEDDING_REVISION": "1" * 40,
    }.items():
        monkeypatch.setenv(name, value)
