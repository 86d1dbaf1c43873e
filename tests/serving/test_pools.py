"""Connection pools: only servers that accept writes are used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from loop import in_a_loop

from serving.pools import OutageLog, create_pool
from serving.single_flight import AdvisoryLocks

READ_ONLY = "SET default_transaction_read_only = on"
WRITE = "INSERT INTO users (user_id, email, timezone) VALUES (gen_random_uuid()::TEXT, 'x@example.org', 'UTC')"


@asynccontextmanager
async def pool_of(url: str, n_connections: int = 1) -> AsyncIterator[asyncpg.Pool]:
    """A pool of the service."""
    async with create_pool(url, n_connections=n_connections, timeout_s=5) as pool:
        yield pool


@pytest.fixture
def read_only_database(database_url: str, connection: psycopg.Connection[Any]) -> Iterator[str]:
    """A database whose new sessions are read-only."""
    name = connection.info.dbname
    connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    yield database_url
    connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


class TestReadOnly:
    @in_a_loop
    async def test_reported(self, database_url: str, connection: psycopg.Connection[Any]) -> None:
        """A session that Postgres reports to be read-only is replaced before a write fails in it."""
        async with pool_of(database_url) as pool:
            before = await pool.fetchval("SELECT pg_backend_pid()")
            await pool.execute(READ_ONLY)
            await pool.execute(WRITE)
            assert await pool.fetchval("SELECT pg_backend_pid()") != before

    @pytest.mark.parametrize("method", ["execute", "executemany", "fetch", "fetchrow", "fetchval"])
    @in_a_loop
    async def test_refused(self, method: str, database_url: str, connection: psycopg.Connection[Any]) -> None:
        """A session in which a write was refused is replaced, although Postgres does not report it as read-only."""
        async with pool_of(database_url) as pool:
            before = await pool.fetchval("SELECT pg_backend_pid()")
            async with pool.acquire() as used:
                await used.execute("BEGIN READ ONLY")
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                    await getattr(used, method)(WRITE, *([[()]] if method == "executemany" else ()))
                await used.execute("ROLLBACK")
            assert await pool.fetchval("SELECT pg_backend_pid()") != before

    @in_a_loop
    async def test_all_of_a_pool(self, database_url: str, connection: psycopg.Connection[Any]) -> None:
        """One read-only session is reason enough to replace all sessions of its pool."""
        async with pool_of(database_url, n_connections=3) as pool:
            async with pool.acquire() as one, pool.acquire() as two, pool.acquire() as three:
                before = {await each.fetchval("SELECT pg_backend_pid()") for each in (one, two, three)}
                await two.execute(READ_ONLY)
            async with pool.acquire() as one, pool.acquire() as two, pool.acquire() as three:
                after = {await each.fetchval("SELECT pg_backend_pid()") for each in (one, two, three)}
        assert len(after) == 3
        assert not before & after

    @in_a_loop
    async def test_others_stay(self, database_url: str, connection: psycopg.Connection[Any]) -> None:
        """A session in which a statement fails for another reason stays."""
        async with pool_of(database_url) as pool:
            before = await pool.fetchval("SELECT pg_backend_pid()")
            with pytest.raises(asyncpg.DivisionByZeroError):
                await pool.execute("SELECT 1 / 0")
            assert await pool.fetchval("SELECT pg_backend_pid()") == before

    @in_a_loop
    async def test_no_server(self, read_only_database: str) -> None:
        """A server that is read-only is not connected to."""
        with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
            async with pool_of(read_only_database):
                pass

    @in_a_loop
    async def test_first_that_accepts_writes(self, database_url: str) -> None:
        """Of several hosts in the URL the first that can be used is."""
        async with pool_of(database_url.replace("?host=", "?host=/nowhere,")) as pool:
            assert await pool.fetchval("SELECT 1") == 1

    @in_a_loop
    async def test_locks(self, database_url: str) -> None:
        """Locks are acquired on a server that accepts writes again."""
        async with pool_of(database_url) as pool, AdvisoryLocks.connected(database_url, timeout_s=5) as other:
            locks = AdvisoryLocks(pool)
            await pool.execute(READ_ONLY)
            async with locks.hold("ann"), other.hold("bob"):
                assert await pool.fetchval("SHOW default_transaction_read_only") == "off"


def test_outage(caplog: pytest.LogCaptureFixture) -> None:
    """An outage is logged when it begins, every half minute with the number of failures, and when it ends."""
    now = [0.0]
    outage = OutageLog(lambda: now[0])
    caplog.set_level("INFO")
    outage.succeeded()
    for second in range(40):
        now[0] = float(second)
        outage.failed(TimeoutError())
    now[0] = 100.0
    outage.succeeded()
    outage.succeeded()
    assert [record.getMessage() for record in caplog.records] == [
        "the database did not answer 1 requests: TimeoutError",
        "the database did not answer 30 requests: TimeoutError",
        "the database answers again; 9 more requests had failed",
    ]
