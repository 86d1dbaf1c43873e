"""Postgres: connections, and the named statements of `sql/queries` as methods that take a connection first."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import aiosql
import psycopg

ROOT = Path(__file__).parent.parent / "sql"


@cache
def queries(name: str, driver: Literal["psycopg", "asyncpg"] = "psycopg") -> Any:
    """The statements of `sql/queries/<name>.sql`; results are rows as the connection's driver makes them."""
    return aiosql.from_path(ROOT / "queries" / f"{name}.sql", driver, mandatory_parameters=False)


def connect(url: str) -> psycopg.Connection[Any]:
    """A connection on which every statement is its own transaction unless it stands in a `transaction()` block."""
    return psycopg.connect(url, autocommit=True)
