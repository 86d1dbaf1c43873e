"""One holder of a lock at a time, across connections."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import psycopg
import pytest

from contexts.postgres.errors import LockTimeout
from contexts.postgres.locks import locked
from contexts.postgres.sql import connect


def test_second_holder_waits(database_url: str) -> None:
    """While one connection holds a lock, a second one waits for this lock and for no other."""
    is_held, may_release = Event(), Event()
    order: list[str] = []

    def hold() -> None:
        with connect(database_url) as connection, locked(connection, "tasks/0"):
            is_held.set()
            may_release.wait(20)
            order.append("first")

    def wait() -> None:
        with connect(database_url) as connection, locked(connection, "tasks/0"):
            order.append("second")

    with ThreadPoolExecutor(2) as threads, connect(database_url) as other:
        first = threads.submit(hold)
        assert is_held.wait(20)
        second = threads.submit(wait)
        with locked(other, "tasks/1"):
            order.append("another name")
        may_release.set()
        first.result()
        second.result()
    assert order == ["another name", "first", "second"]


def test_shares_of_a_lock(database_url: str) -> None:
    """Several connections hold shares of a lock at once; one who wants it alone waits for all of them."""
    with connect(database_url) as one, connect(database_url) as two, connect(database_url) as alone:
        with locked(one, "layout", is_shared=True), locked(two, "layout", is_shared=True):
            alone.execute("SET lock_timeout = '50ms'")
            with pytest.raises(LockTimeout), locked(alone, "layout"):
                pass
        with locked(alone, "layout"):
            pass


def test_a_lock_ends_with_its_block(database_url: str) -> None:
    """A lock is released after its block, also on an error, and when its connection ends."""
    with connect(database_url) as one, connect(database_url) as other:
        with pytest.raises(ZeroDivisionError), locked(one, "tasks/0"):
            raise ZeroDivisionError
        with locked(other, "tasks/0"):
            pass
        with pytest.raises(psycopg.OperationalError), locked(one, "tasks/0"):
            one.close()
            one.execute("SELECT 1")
        with locked(other, "tasks/0"):
            pass
