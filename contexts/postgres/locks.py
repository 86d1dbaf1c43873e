"""Advisory locks of Postgres: one writer at a time across processes and machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from contexts.postgres.sql import queries


@contextmanager
def locked(connection: psycopg.Connection[Any], name: str) -> Iterator[None]:
    """Wait for the lock `name` and hold it during the block; it is also released when the connection ends."""
    sql = queries("locks")
    list(sql.lock(connection, name=name))
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # the connection is gone, and the lock with it
            list(sql.unlock(connection, name=name))
