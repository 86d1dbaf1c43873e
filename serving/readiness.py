"""The check of `/readyz`: the statements of a decision, on a connection of its own, which overload does not block."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from contexts.postgres.sql import queries
from serving.pools import DATABASE_ERRORS, create_pool
from serving.problems import Problem
from serving.single_flight import SingleFlight
from serving.store import Decision

log = logging.getLogger(__name__)

_SQL = queries("serving", "asyncpg")
_TIMEOUT_S = 1.0
_NOBODY = ""
"""No user has this id, so the reads cost next to nothing."""


class Readiness:
    """Whether the database answers the reads of a decision and accepts writes."""

    def __init__(self, pool: asyncpg.Pool, policy: str) -> None:
        """pool: has one connection, used for nothing else. policy: the one whose posterior decisions need."""
        self._pool = pool
        self._policy = policy
        self._checks: SingleFlight[None] = SingleFlight()
        self._reason: str | None = None

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, policy: str) -> AsyncIterator[Readiness]:
        """A check with a connection of its own."""
        async with create_pool(url, n_connections=1, timeout_s=_TIMEOUT_S) as pool:
            readiness = cls(pool, policy)
            try:
                yield readiness
            finally:
                await readiness._checks.cancel()

    async def check(self) -> None:
        """Raise Problem 503 unless decisions can be made; concurrent calls share one check of at most a second."""
        try:
            await self._check_in_time()
        except Problem as problem:
            self._report(problem.reason)
            raise
        self._report(None)

    async def _check_in_time(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._checks.join("decision", self._make_reads)
        except asyncpg.TargetServerAttributeNotMatched:
            raise _read_only() from None
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):  # of the reads
            raise _not_migrated() from None
        except DATABASE_ERRORS:
            raise database_problem() from None

    def _report(self, reason: str | None) -> None:
        """Log a change. reason: for which the service is not ready; None if it is."""
        if reason != self._reason:
            log.warning("not ready: %s", reason) if reason else log.info("ready again")
        self._reason = reason

    async def _make_reads(self) -> None:
        async with self._pool.acquire() as connection:
            await connection.fetch(_SQL.read_users.sql, False, [_NOBODY])
            if await _SQL.read_policy(connection, policy=self._policy) is None:
                detail = f"the table policies lacks {self._policy}: start the process again"
                raise Problem(503, detail, reason="no_policy")
            if await _SQL.lacks_columns(connection, table_name="decisions", names=list(Decision._fields)):
                raise _not_migrated()
            is_read_only = await _SQL.is_read_only(connection)
        if is_read_only:
            await self._pool.expire_connections()
            raise _read_only()


def database_problem() -> Problem:
    """The answer while the database does not work."""
    return Problem(
        503,
        "the database did not answer; try again in a few seconds",
        {"Retry-After": "5"},
        reason="database_unavailable",
    )


def _not_migrated() -> Problem:
    return Problem(
        503,
        "the database lacks a table or a column of decisions; apply the migrations: python -m contexts migrate",
        {"Retry-After": "5"},
        reason="database_not_migrated",
    )


def _read_only() -> Problem:
    return Problem(
        503,
        "the database is read-only, so decisions cannot be logged: check whether DATABASE_URL names the primary",
        {"Retry-After": "5"},
        reason="database_read_only",
    )
