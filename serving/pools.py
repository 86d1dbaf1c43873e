"""Connection pools of the request path."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import asyncpg

log = logging.getLogger(__name__)

DATABASE_ERRORS = (
    TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip
"""The errors of statements and connections, if Postgres does not answer, cannot be reached or refuses."""

VALUE_ERRORS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""Those of them that are about the values of a statement: Postgres works, and the fault is in the program."""

_REPEAT_S = 30.0
"""Seconds between two messages about the same outage."""


class OutageLog:
    """Logs that requests fail because of the database: the first failure, then a count now and then, and the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._n_failed = 0  # since the last message
        self._logged_at: float | None = None  # None: no outage

    def failed(self, error: BaseException) -> None:
        """Count a request that failed."""
        self._n_failed += 1
        now = self._clock()
        if self._logged_at is None or now - self._logged_at >= _REPEAT_S:
            log.error("the database did not answer %d requests: %s", self._n_failed, type(error).__name__)
            self._n_failed, self._logged_at = 0, now

    def succeeded(self) -> None:
        """Log the end of an outage, if there was one; failures that alternate with successes are logged as one."""
        if self._logged_at is not None and self._clock() - self._logged_at >= _REPEAT_S:
            log.warning("the database answers again; %d more requests had failed", self._n_failed)
            self._n_failed, self._logged_at = 0, None


def create_pool(
    url: str, *, n_connections: int, timeout_s: float, server_settings: Mapping[str, str] | None = None
) -> asyncpg.Pool:
    """A pool, to be entered with `async with`; its connections keep their session state when they are returned.

    Only servers that accept writes are used: of several hosts in the URL the first such one. If the server of a
    connection becomes read-only, as after a failover, all connections are replaced.

    timeout_s: upper bound for connecting, and for each statement.
    server_settings: run-time settings of Postgres for every connection.
    """

    async def after_use(connection: _Connection) -> None:
        """Replace all connections if this one is to a read-only server.

        asyncpg's own reset is skipped: advisory locks must survive it, and no statement leaves other session state.
        """
        if connection.is_read_only:
            log.warning("the server of a connection to Postgres is read-only now: connecting again")
            await pool.expire_connections()

    pool = asyncpg.create_pool(
        url,
        min_size=1,
        max_size=n_connections,
        timeout=timeout_s,
        command_timeout=timeout_s,
        reset=after_use,
        server_settings=server_settings,
        connection_class=_Connection,
        target_session_attrs="read-write",
    )
    return pool


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that notices when its server becomes read-only."""

    _refused_write = False

    @property
    def is_read_only(self) -> bool:
        """Whether the server refused a write, or reported that it would, as Postgres does from version 14 on."""
        settings = self.get_settings()
        reported = (getattr(settings, name, "off") for name in ("default_transaction_read_only", "in_hot_standby"))
        return self._refused_write or "on" in reported

    async def execute(self, *args: Any, **options: Any) -> Any:
        with self._noticing_refusals():
            return await super().execute(*args, **options)

    async def executemany(self, *args: Any, **options: Any) -> Any:
        with self._noticing_refusals():
            return await super().executemany(*args, **options)

    async def fetch(self, *args: Any, **options: Any) -> Any:
        with self._noticing_refusals():
            return await super().fetch(*args, **options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        with self._noticing_refusals():
            return await super().fetchval(*args, **options)

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        with self._noticing_refusals():
            return await super().fetchrow(*args, **options)

    @contextmanager
    def _noticing_refusals(self) -> Iterator[None]:
        try:
            yield
        except asyncpg.ReadOnlySQLTransactionError:
            self._refused_write = True
            raise
