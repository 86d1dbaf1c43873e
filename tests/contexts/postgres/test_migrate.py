"""Migrations: numbered, applied once, by one migrator at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from operator import attrgetter
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import psycopg
import pytest

import contexts.postgres.migrate
from contexts.assembly.model import TaskGroups, Theme
from contexts.postgres.migrate import TablesLocked, migrate
from contexts.postgres.run_log import RunLog, StepRun
from contexts.postgres.sql import ROOT, connect
from local import postgres

NAMES = sorted(path.stem for path in (ROOT / "migrations").glob("*.sql"))
DAY = timedelta(days=1)
_numbers = count()


@pytest.fixture
def url(server: str) -> str:
    """An empty database."""
    return postgres.create_database(server, f"empty_{next(_numbers)}")


@pytest.fixture
def empty(url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(url) as connection:
        yield connection


def tables(connection: psycopg.Connection[Any]) -> set[str]:
    names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {name for (name,) in names}


def test_numbers() -> None:
    """The migrations are numbered from 1 on without a gap, and each begins with a comment."""
    numbers = [int(re.fullmatch(r"(\d{4})_[a-z_]+", name)[1]) for name in NAMES]
    assert numbers == list(range(1, len(NAMES) + 1))
    assert not [name for name in NAMES if not (ROOT / "migrations" / f"{name}.sql").read_text().startswith("-- ")]


def test_empty_database(empty: psycopg.Connection[Any]) -> None:
    """An empty database gets all migrations in order, and has their tables."""
    assert migrate(empty) == NAMES
    assert {"users", "todoist_accounts", "context_store", "decisions", "reactions", "asset_runs"} <= tables(empty)


def test_once(empty: psycopg.Connection[Any]) -> None:
    """An applied migration is not applied again, and stored rows stay."""
    migrate(empty)
    empty.execute("INSERT INTO users VALUES ('ann', 'a@x.org', 'UTC')")
    assert migrate(empty) == []
    assert empty.execute("SELECT count(*) FROM users").fetchone() == (1,)


def test_two_at_a_time(url: str) -> None:
    """Of migrators that start together one applies everything, the others nothing."""
    start_line = Barrier(4)

    def run() -> list[str]:
        with connect(url) as connection:
            start_line.wait(timeout=30)
            return migrate(connection)

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run) for _ in range(4)]
    assert sorted(run.result() for run in runs) == [[], [], [], NAMES]


def test_a_table_in_use(empty: psycopg.Connection[Any], url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that cannot lock a table in time says what to do, and leaves everything as it was."""
    migrate(empty)
    empty.execute("DELETE FROM schema_migrations WHERE name = %s", [NAMES[-1]])
    monkeypatch.setattr(contexts.postgres.migrate, "_LOCK_TIMEOUT_S", 0.05)
    with connect(url) as other, other.transaction():
        other.execute("LOCK TABLE context_store")
        with pytest.raises(
            TablesLocked, match=f"{NAMES[-1]} waited .* Stop the service and Airflow, and migrate again"
        ):
            migrate(empty)
    assert empty.execute("SELECT count(*) FROM schema_migrations").fetchone() == (len(NAMES) - 1,)


def test_the_four_columns(empty: psycopg.Connection[Any]) -> None:
    """context_store has the four agreed columns with their types, and its key."""
    migrate(empty)
    columns = empty.execute(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_name = 'context_store'"
    ).fetchall()
    assert set(columns) >= {
        ("user_id", "text", "NO"),
        ("materialized_at", "timestamp with time zone", "NO"),
        ("context_json", "text", "NO"),
        ("context_hash", "text", "NO"),
    }
    empty.execute("INSERT INTO context_store VALUES ('ann', now(), '{}', 'h')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        empty.execute("INSERT INTO context_store VALUES ('ann', now(), '{}', 'h')")


OLD_GROUPS = {
    "bare list": '[{"theme_id":"a","label":"Tax","tags":["money"],"task_ids":["t1","t2"]}]',
    "empty list": "[]",
    "object": (
        '{"themes":[{"theme_id":"a","label":"Tax","tags":["alike"],"task_ids":["t1","t2"]}],'
        '"alike":[[["t1","h1"],["t2","h2"]]]}'
    ),
    "label like a key": (
        '{"themes":[{"theme_id":"a","label":"x,\\"alike\\":","tags":["[,\\"alike\\":"],"task_ids":["t1"]}],"alike":[]}'
    ),
    "list with a label like a key": '[{"theme_id":"a","label":",\\"alike\\":[]","tags":[],"task_ids":["t1"]}]',
}
"""Values of `context_store.themes` as migration 0009 leaves them."""

TAX, PAIR = Theme("a", "Tax", ("money",), ("t1", "t2"), True), (("t1", "h1"), ("t2", "h2"))
NEW_GROUPS = {
    "bare list": TaskGroups((TAX,)),
    "empty list": TaskGroups(),
    "object": TaskGroups((replace(TAX, tags=("alike",)),), (PAIR,)),
    "label like a key": TaskGroups((Theme("a", 'x,"alike":', ('[,"alike":',), ("t1",), True),)),
    "list with a label like a key": TaskGroups((Theme("a", ',"alike":[]', (), ("t1",), True),)),
}


def insert_old_rows(connection: psycopg.Connection[Any]) -> None:
    """Insert rows into the tables that migration 0010 changes, in the form before it."""
    connection.execute("INSERT INTO users VALUES ('ann', 'a@x.org', 'UTC')")
    for user_id, groups in OLD_GROUPS.items():
        connection.execute(
            """
            INSERT INTO context_store (user_id, materialized_at, context_json, context_hash, themes, row_version)
            VALUES (%s, '2026-11-23', '{}', 'h', %s, 'v')
            """,
            [user_id, groups],
        )
    for number in range(2):
        connection.execute(
            """
            INSERT INTO ledger
            VALUES (%s, 'fetch_signals', '2026-11-23', '2026-11-24', 7, '{"todoist_calls": 9}',
                    '{"todoist_calls": 8}', '{"texts_embedded": 7}', '{"todoist_calls": 0.5}')
            """,
            [f"run-{number}"],
        )
        connection.execute(
            """
            INSERT INTO materializations
            VALUES (%s, 'fetch_signals', 'todoist_tasks', '2026-11-23', '2026-11-24', 16, 3, 100, 5, 7, 'v1', TRUE,
                    '{"items_skipped": 1}')
            """,
            [f"run-{number}"],
        )
        connection.execute(
            """
            INSERT INTO candidate_sets
            VALUES (%s, 'ann', 'h', 'llm', '2026-11-23', '2026-11-24', '2026-11-24', '{tip}', '{basis}', '{focus}',
                    '{""}', '')
            """,
            [UUID(int=number)],
        )


class TestPlainNames:
    """Migration 0010, which renames tables and columns and converts the stored groups."""

    @pytest.fixture
    def migrated(self, empty: psycopg.Connection[Any], tmp_path: Path) -> psycopg.Connection[Any]:
        """A database with rows from before the migration, after all migrations."""
        before = tmp_path / "migrations"
        before.mkdir()
        for path in (ROOT / "migrations").glob("*.sql"):
            if path.stem < "0010":
                (before / path.name).write_bytes(path.read_bytes())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contexts.postgres.migrate, "ROOT", tmp_path)
            migrate(empty)
        insert_old_rows(empty)
        assert migrate(empty) == [name for name in NAMES if name >= "0010"]
        return empty

    def test_groups(self, migrated: psycopg.Connection[Any]) -> None:
        """Groups in every old form can be read, unchanged; their themes may be worded by others."""
        rows = migrated.execute("SELECT user_id, groups_json FROM context_store").fetchall()
        assert {user_id: TaskGroups.from_json(groups) for user_id, groups in rows} == NEW_GROUPS
        kept = "context_json = '{}' AND context_hash = 'h' AND row_version = 'v' AND materialized_at = '2026-11-23'"
        assert migrated.execute(f"SELECT count(*) FROM context_store WHERE {kept}").fetchone() == (len(OLD_GROUPS),)

    def test_default(self, migrated: psycopg.Connection[Any]) -> None:
        """A new row without groups can be read."""
        migrated.execute("INSERT INTO context_store VALUES ('new', now(), '{}', 'h')")
        row = migrated.execute("SELECT groups_json FROM context_store WHERE user_id = 'new'").fetchone()
        assert row == (TaskGroups().to_json(),)

    def test_run_log(self, migrated: psycopg.Connection[Any]) -> None:
        """All runs are kept, and the log reads and replaces them."""
        run_log, monday = RunLog(migrated), datetime(2026, 11, 23, tzinfo=UTC)
        steps = sorted(run_log.step_runs_since(monday), key=attrgetter("run_id"))
        assets = sorted(run_log.asset_runs_since(monday), key=attrgetter("run_id"))
        amounts = ({"todoist_calls": 9}, {"todoist_calls": 8}, {"texts_embedded": 7}, {"todoist_calls": 0.5})
        assert steps == [StepRun(f"run-{n}", "fetch_signals", monday, monday + DAY, 7, *amounts) for n in range(2)]
        assert [(run.run_id, run.asset, run.data_version) for run in assets] == [
            ("run-0", "todoist_tasks", "v1"),
            ("run-1", "todoist_tasks", "v1"),
        ]
        assert all(run.counts == {"items_skipped": 1} for run in assets)
        run_log.finish_step_run(replace(steps[0], n_users=8))
        run_log.write_asset_run(replace(assets[0], n_rows=8))
        assert {run.run_id: run.n_users for run in run_log.step_runs_since(monday)} == {"run-0": 8, "run-1": 7}
        assert {run.run_id: run.n_rows for run in run_log.asset_runs_since(monday)} == {"run-0": 8, "run-1": 7}

    def test_candidates(self, migrated: psycopg.Connection[Any]) -> None:
        """All sets of candidates are kept with the subject hashes of their tips."""
        rows = migrated.execute("SELECT candidate_set_id, tips, subject_hashes FROM candidate_sets ORDER BY 1")
        assert rows.fetchall() == [(UUID(int=n), ["tip"], ["basis"]) for n in range(2)]

    def test_old_names(self, migrated: psycopg.Connection[Any]) -> None:
        """No table or index keeps an old name."""
        names = {name for (name,) in migrated.execute("SELECT relname FROM pg_class")}
        assert {"step_runs", "step_runs_pkey", "step_runs_by_time", "asset_runs", "asset_runs_by_time"} <= names
        assert not [name for name in names if name.startswith(("ledger", "materializations"))]


class TestNewMigrations:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder of migrations for the test, with a first one."""
        monkeypatch.setattr(contexts.postgres.migrate, "ROOT", tmp_path)
        folder = tmp_path / "migrations"
        folder.mkdir()
        (folder / "0001_one.sql").write_text("CREATE TABLE one (n INTEGER);")
        return folder

    def test_later_one(self, folder: Path, empty: psycopg.Connection[Any]) -> None:
        """A new migration is applied alone."""
        assert migrate(empty) == ["0001_one"]
        (folder / "0002_two.sql").write_text("CREATE TABLE two (n INTEGER);\nCREATE INDEX ON two (n); -- 100 %s")
        assert migrate(empty) == ["0002_two"]
        assert tables(empty) == {"one", "two", "schema_migrations"}

    def test_broken_one(self, folder: Path, empty: psycopg.Connection[Any]) -> None:
        """A migration that fails leaves the database as it was, without the migrations before it."""
        (folder / "0002_two.sql").write_text("CREATE TABLE two (n INTEGER); CREATE TABLE one (n INTEGER);")
        with pytest.raises(psycopg.errors.DuplicateTable):
            migrate(empty)
        assert tables(empty) == set()
        (folder / "0002_two.sql").write_text("CREATE TABLE two (n INTEGER);")
        assert migrate(empty) == ["0001_one", "0002_two"]
