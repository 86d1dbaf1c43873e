"""Connections to Postgres, and results of named statements."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import aiosql
import psycopg
import pytest

from contexts.postgres.sql import connect, execute_arrays, queries, rows

SQL = aiosql.from_str(
    """
-- name: pairs
-- Every pair.
SELECT * FROM unnest(:names::TEXT[], :instants::TIMESTAMPTZ[]) AS pair (name, instant);

-- name: constants
-- A row without values.
SELECT 1 AS one, '%' AS percent;

-- name: nothing
-- No row.
SELECT 1 AS one WHERE FALSE;
""",
    "psycopg",
    mandatory_parameters=False,
)
INSTANT = datetime(2026, 11, 23, tzinfo=UTC)


def test_rows_by_column_name(connection: psycopg.Connection[Any]) -> None:
    """Rows are dictionaries, in order, for a statement with or without values."""
    values = {"names": ["b", "a\\'\"{},\n"], "instants": [INSTANT, None]}
    assert rows(connection, SQL.pairs, values) == [
        {"name": "b", "instant": INSTANT},
        {"name": "a\\'\"{},\n", "instant": None},
    ]
    assert rows(connection, SQL.constants) == [{"one": 1, "percent": "%"}]
    assert rows(connection, SQL.nothing) == []


def test_arrays(connection: psycopg.Connection[Any]) -> None:
    """Arrays of any length and content arrive unchanged, and the cursor yields their rows."""
    names = [f"{n} \\'\"{{}},\n" for n in range(1000)]
    values = {"names": names, "instants": [INSTANT, *[None] * 999]}
    assert execute_arrays(connection, SQL.pairs, values).fetchall() == list(
        zip(names, values["instants"], strict=True)
    )
    assert execute_arrays(connection, SQL.pairs, {"names": [], "instants": []}).fetchall() == []


def test_statements_over_arrays_are_not_prepared(connection: psycopg.Connection[Any]) -> None:
    """However often a statement over arrays runs, Postgres keeps no plan of it."""
    for n in range(20):
        execute_arrays(connection, SQL.pairs, {"names": ["a"] * n, "instants": [None] * n})
    assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_each_statement_is_a_transaction(database_url: str) -> None:
    """A statement is visible to other connections at once, unless it is in a transaction block."""
    insert = "INSERT INTO users VALUES (%s, 'x@x.org', 'UTC')"
    with connect(database_url) as one, connect(database_url) as other:
        one.execute("TRUNCATE users CASCADE")
        one.execute(insert, ["ann"])
        assert other.execute("SELECT user_id FROM users").fetchall() == [("ann",)]
        with one.transaction():
            one.execute(insert, ["bob"])
            assert other.execute("SELECT user_id FROM users").fetchall() == [("ann",)]
        assert other.execute("SELECT count(*) FROM users").fetchone() == (2,)


@pytest.mark.parametrize(
    "name", ["accounts", "contexts", "history", "locks", "migrations", "run_log", "vector_cache"]
)
def test_queries(name: str) -> None:
    """The statements of a file are read once, and each has a comment."""
    assert queries(name) is queries(name)
    assert queries(name).available_queries
    for statement in queries(name).available_queries:
        assert getattr(queries(name), statement).__doc__
