"""Whoever is removed leaves nothing behind, in no file and in no table."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from world import NOON, World

from assets.__main__ import main
from assets.definitions import GRAPH
from assets.doors import Doors
from assets.index import Index
from assets.night import Night, Order
from contexts.accounts import Look
from contexts.mirror import text_hash
from contexts.settings import Settings
from contexts.vault import Vault

GONE = "ann-who-leaves"
STAYS = "bob-who-stays"
WORDS = ("call the xylophone repair", "xylophone strings")
LATER = timedelta(hours=4)


@pytest.fixture
def doors(world: World) -> Doors:
    world.n_shards = 1
    settings = Settings(n_shards=world.n_shards, data_root=str(world.root))
    doors = Doors.of(settings, Vault([world.key]), world.connection, world.client.base_url)
    return Doors(**{**vars(doors), "embedder": world.embedder})


def everything(doors: Doors, now: Any, look: Look = Look.EVERYBODY) -> None:
    """All steps, each by its own plan, as Airflow runs them."""
    night = Night(doors, now, Order(look))
    for step in GRAPH.steps:
        plan, planner = night.plan(step)
        night.open(step, str(now), now, night.bill(plan, planner, GRAPH.steps[step]))
        night.close(step, str(now), now, list(night.execute(plan)))


@pytest.fixture
def lived(doors: Doors, world: World, account: Any, tmp_path: Path) -> World:
    """Two users with tasks, contexts, a context by a request, candidates, decisions, reactions and LLM calls."""
    world.add(GONE, account(*WORDS))
    world.add(STAYS, account("buy milk", "buy bread"))
    everything(doors, NOON)
    for user in (GONE, STAYS):
        _react(world.connection, user)
    world.shards.set_aside(GRAPH["user_contexts"], 0)
    everything(doors, NOON + LATER)
    for user in (GONE, STAYS):
        _live(world.connection, user)
    return world


def _live(connection: psycopg.Connection[Any], user: str) -> None:
    at = NOON + LATER
    title = WORDS[0] if user == GONE else "milk"
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


def _react(connection: psycopg.Connection[Any], user: str) -> None:
    connection.execute(
        "WITH d AS (INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind)"
        " VALUES (gen_random_uuid(), %s, %s, 'quick_win') RETURNING decision_id)"
        " INSERT INTO reactions SELECT decision_id, 'done', %s, 1 FROM d",
        [user, NOON, NOON],
    )


def traces(world: World) -> list[str]:
    """Where anything of the user who left still stands: tables, file names, rows, footers; or a hash of a text."""
    sought = (GONE, "xylophone", *map(text_hash, WORDS))  # Postgres shows bytes in hex, as the hashes are
    tables = world.connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    ).fetchall()
    found = [
        f"table {name}"
        for (name,) in tables
        for (row,) in world.connection.execute(f'SELECT t::TEXT FROM "{name}" t').fetchall()
        if any(word in row for word in sought)
    ]
    for path in world.root.rglob("*"):
        if path.is_file() and any(word in text for word in sought for text in (str(path), *_texts(path))):
            found.append(str(path.relative_to(world.root)))
    return sorted(set(found))


def _texts(path: Path) -> list[str]:
    raw = path.read_bytes()
    if not raw.startswith(b"PAR1"):
        return [repr(raw)]
    metadata = pq.read_metadata(path).metadata or {}
    packed = base64.b64decode(metadata.get(b"users", b""))
    index = Index.unpack(packed).users if packed else ()
    return [repr(raw), str(pq.read_table(path).to_pylist()), str(metadata), str(index)]


def test_the_search_finds_traces(lived: World) -> None:
    """Before anybody leaves, the search finds the user in every kind of file and table that holds users."""
    found = traces(lived)
    files = {each.split("/")[0] for each in found if "/" in each}
    assert files == {*GRAPH.assets, "context_history"}
    assert {each.removeprefix("table ") for each in found if each not in files} >= {
        *("users", "todoist_accounts", "context_store", "request_contexts"),
        *("decisions", "candidate_sets", "llm_calls", "text_vectors"),
    }


def test_forget_leaves_no_trace(
    lived: World, doors: Doors, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`forget` removes a user from every file and every table at once; the others are as they were."""
    before = {name: [row for row in lived.rows(name) if row["user_id"] != GONE] for name in GRAPH.assets}
    _point_at(lived, database_url, monkeypatch)
    assert main(["forget", GONE]) == 0
    assert "is gone" in capsys.readouterr().out
    assert traces(lived) == []
    assert {name: lived.rows(name) for name in GRAPH.assets} == before
    everything(doors, NOON + 2 * LATER)
    assert traces(lived) == []
    assert set(lived.stored()) == {STAYS}


def test_a_removed_account_leaves_no_trace_after_the_next_run(lived: World, doors: Doors) -> None:
    """After an account was removed, the next scheduled run - not only a night - takes its last trace away."""
    lived.accounts.remove(GONE)
    assert traces(lived)
    everything(doors, NOON + 2 * LATER, Look.LIKELY)
    assert traces(lived) == []
    assert set(lived.stored()) == {STAYS}


def test_forgetting_nobody_is_told(
    lived: World, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`forget` of a name that nobody has ends with 1 and says where the names are."""
    _point_at(lived, database_url, monkeypatch)
    assert main(["forget", "anna"]) == 1
    assert "no trace of a user 'anna'" in capsys.readouterr().err


def _point_at(world: World, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment name the world's doors."""
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
