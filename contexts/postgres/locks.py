"""Advisory locks of Postgres: one writer at a time across processes and machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from contexts.postgres.errors import LockTimeout
from contexts.postgres.sql import queries


@contextmanager
def locked(connection: psycopg.Connection[Any], name: str, *, is_shared: bool = False) -> Iterator[None]:
    """Wait for the lock `name` and hold it during the block; it is also released when the connection ends.

    is_shared: together with other holders of a share, and not beside one who holds the lock alone. Raises LockTimeout
    if Postgres ends the wait.
    """
    sql = queries("locks")
    lock, unlock = (sql.lock_shared, sql.unlock_shared) if is_shared else (sql.lock, sql.unlock)
    try:
        list(lock(connection, name=name))
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        is_lock_timeout = isinstance(error, psycopg.errors.LockNotAvailable)
        setting = "lock_timeout" if is_lock_timeout else "statement_timeout"
        raise LockTimeout(
            f"the lock '{name}' is held by another run, and {setting} ended the wait for it."
            f" Run again after that run, or raise {setting} for this role."
        ) from error
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # the connection is gone, and the lock with it
            list(unlock(connection, name=name))
