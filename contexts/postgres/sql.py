"""Postgres: connections, and the named statements of `sql/queries` as methods that take a connection first."""

from collections.abc import AsyncIterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import aiosql
import psycopg
from aiosql.adapters.asyncpg import AsyncPGAdapter
from psycopg.rows import dict_row
from psycopg.types.array import ListBinaryDumper

ROOT = Path(__file__).parents[2] / "sql"
"""The folder of all SQL files."""


def connect(url: str) -> psycopg.Connection[Any]:
    """Connect in autocommit mode: each statement outside a `transaction()` block is its own transaction."""
    return psycopg.connect(url, autocommit=True)


@cache
def queries(name: str, driver: Literal["psycopg", "asyncpg"] = "psycopg") -> Any:
    """Return the statements of `sql/queries/<name>.sql`; their results are rows as the driver returns them."""
    adapter: Any = _AsyncpgAdapter if driver == "asyncpg" else driver
    return aiosql.from_path(ROOT / "queries" / f"{name}.sql", adapter, mandatory_parameters=False)


class _AsyncpgAdapter(AsyncPGAdapter):
    """aiosql's adapter for asyncpg, which leaves it to a pool to acquire a connection.

    aiosql's own looks for `acquire` in a list of all names of the client, for 28 us at each statement.
    """

    async def select(self, client: Any, name: str, sql: str, values: Any, _: Any = None) -> AsyncIterator[Any]:
        for row in await client.fetch(sql, *self._ordered(name, values)):
            yield row

    async def select_one(self, client: Any, name: str, sql: str, values: Any, _: Any = None) -> Any:
        return await client.fetchrow(sql, *self._ordered(name, values))

    async def select_value(self, client: Any, name: str, sql: str, values: Any) -> Any:
        return await client.fetchval(sql, *self._ordered(name, values))

    async def insert_update_delete(self, client: Any, name: str, sql: str, values: Any) -> Any:
        return await client.execute(sql, *self._ordered(name, values))

    async def insert_update_delete_many(self, client: Any, name: str, sql: str, values: Any) -> Any:
        return await client.executemany(sql, [self._ordered(name, each) for each in values])

    def _ordered(self, name: str, values: Any) -> Any:
        return self.maybe_order_params(name, values)  # type: ignore[no-untyped-call]


def rows(
    connection: psycopg.Connection[Any], statement: Any, values: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Run a named statement and return its rows by column name."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement.sql.encode(), values).fetchall()


def execute_arrays(
    connection: psycopg.Connection[Any], statement: Any, values: Mapping[str, Any]
) -> psycopg.Cursor[Any]:
    """Run a named statement over arrays in Postgres's binary format, which is much cheaper than escaped text.

    The statement is planned at each call. A prepared plan would be the one for the first call's few values and for
    the table at that time: after the first run it would scan all rows for every shard.
    """
    cursor = connection.cursor(binary=True)
    cursor.adapters.register_dumper(list, ListBinaryDumper)
    return cursor.execute(statement.sql.encode(), values, prepare=False)
