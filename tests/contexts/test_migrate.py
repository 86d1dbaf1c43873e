"""Migrations: numbered, once, one migrator at a time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest

import contexts.migrate
from contexts.migrate import main, migrate
from contexts.sql import ROOT, connect
from local import postgres

NAMES = sorted(path.stem for path in (ROOT / "migrations").glob("*.sql"))
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
    found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {name for (name,) in found}


def test_numbers() -> None:
    """The migrations are numbered from 1 without a gap, and each says what it is about."""
    numbers = [re.fullmatch(r"(\d{4})_[a-z_]+", name)[1] for name in NAMES]
    assert numbers == [f"{n:04}" for n in range(1, len(NAMES) + 1)]
    assert not [name for name in NAMES if not (ROOT / "migrations" / f"{name}.sql").read_text().startswith("-- ")]


def test_empty_database(empty: psycopg.Connection[Any]) -> None:
    """An empty database gets all of them, in order, and the tables are there."""
    assert migrate(empty) == NAMES
    assert {"users", "todoist_accounts", "context_store", "decisions", "reactions", "materializations"} <= tables(
        empty
    )


def test_once(empty: psycopg.Connection[Any]) -> None:
    """What was applied is not applied again, and what is stored stays."""
    migrate(empty)
    empty.execute("INSERT INTO users VALUES ('ann', 'a@x.org', 'UTC')")
    assert migrate(empty) == []
    assert empty.execute("SELECT count(*) FROM users").fetchone() == (1,)


def test_two_at_a_time(url: str) -> None:
    """Of migrators that start together one applies everything and the others find nothing to do."""
    together = Barrier(4)

    def start() -> list[str]:
        with connect(url) as connection:
            together.wait(timeout=30)
            return migrate(connection)

    with ThreadPoolExecutor(4) as pool:
        done = [each.result() for each in [pool.submit(start) for _ in range(4)]]
    assert sorted(done) == [[], [], [], NAMES]


def test_the_four_columns(empty: psycopg.Connection[Any]) -> None:
    """context_store has the columns, types and the key that were agreed on."""
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


class TestNewMigrations:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder of migrations of its own, with a first one."""
        monkeypatch.setattr(contexts.migrate, "ROOT", tmp_path)
        folder = tmp_path / "migrations"
        folder.mkdir()
        (folder / "0001_one.sql").write_text("CREATE TABLE one (n INTEGER);")
        return folder

    def test_later_one(self, folder: Path, empty: psycopg.Connection[Any]) -> None:
        """A migration that comes later is applied alone."""
        assert migrate(empty) == ["0001_one"]
        (folder / "0002_two.sql").write_text("CREATE TABLE two (n INTEGER);\nCREATE INDEX ON two (n); -- 100 %s")
        assert migrate(empty) == ["0002_two"]
        assert tables(empty) == {"one", "two", "schema_migrations"}

    def test_broken_one(self, folder: Path, empty: psycopg.Connection[Any]) -> None:
        """A migration that fails leaves the database as it was, the good ones before it included."""
        (folder / "0002_two.sql").write_text("CREATE TABLE two (n INTEGER); CREATE TABLE one (n INTEGER);")
        with pytest.raises(psycopg.errors.DuplicateTable):
            migrate(empty)
        assert tables(empty) == set()
        (folder / "0002_two.sql").write_text("CREATE TABLE two (n INTEGER);")
        assert migrate(empty) == ["0001_one", "0002_two"]


def test_main(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says what it applied, and the second time that there was nothing."""
    monkeypatch.setenv("DATABASE_URL", url)
    assert (main(), capsys.readouterr().out) == (0, f"applied: {', '.join(NAMES)}\n")
    assert (main(), capsys.readouterr().out) == (0, "nothing to apply\n")


def test_without_a_database_url() -> None:
    """Without DATABASE_URL the command ends with a sentence that shows how one is written."""
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "contexts.migrate"],
        cwd=ROOT.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "postgresql://user:password@host/name" in done.stderr
    assert "Traceback" not in done.stderr
