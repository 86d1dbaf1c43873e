"""One writer at a time, across processes and machines: advisory locks of Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from contexts.sql import queries


@contextmanager
def locked(connection: psycopg.Connection[Any], name: str) -> Iterator[None]:
    """Hold the lock `name`, once whoever has it lets go; it ends with the connection, however that ends."""
    sql = queries("locks")
    list(sql.lock(connection, name=name))
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # the connection is gone, and the lock with it
            list(sql.unlock(connection, name=name))
