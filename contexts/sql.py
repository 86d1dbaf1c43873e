"""Postgres: connections, and the named statements of `sql/queries` as methods that take a connection first."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import aiosql
import psycopg
from psycopg.types.array import ListBinaryDumper

ROOT = Path(__file__).parent.parent / "sql"


@cache
def queries(name: str, driver: Literal["psycopg", "asyncpg"] = "psycopg") -> Any:
    """The statements of `sql/queries/<name>.sql`; results are rows as the connection's driver makes them."""
    return aiosql.from_path(ROOT / "queries" / f"{name}.sql", driver, mandatory_parameters=False)


def ask(connection: psycopg.Connection[Any], statement: Any, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
    """Run a named statement over arrays, which travel in binary, as its rows do: that costs a fraction of escaping
    them.

    Each time it is planned anew. A prepared plan is one for ten values and for the table as it was: made on a first
    night it would look for every shard by a scan of all rows.
    """
    cursor = connection.cursor(binary=True)
    cursor.adapters.register_dumper(list, ListBinaryDumper)
    return cursor.execute(statement.sql.encode(), values, prepare=False)


def connect(url: str) -> psycopg.Connection[Any]:
    """A connection on which every statement is its own transaction unless it stands in a `transaction()` block."""
    return psycopg.connect(url, autocommit=True)
