"""Advisory locks of Postgres: one writer at a time across processes and machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from contexts.postgres.sql import queries


@contextmanager
def locked(connection: psycopg.Connection[Any], name: str, *, is_shared: bool = False) -> Iterator[None]:
    """Wait for the lock `name` and hold it during the block; it is also released when the connection ends.

    is_shared: together with other holders of a share, and not beside one who holds the lock alone.
    """
    sql = queries("locks")
    lock, unlock = (sql.lock_shared, sql.unlock_shared) if is_shared else (sql.lock, sql.unlock)
    list(lock(connection, name=name))
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # the connection is gone, and the lock with it
            list(unlock(connection, name=name))
