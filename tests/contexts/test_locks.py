"""One writer at a time, wherever the writers are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import psycopg
import pytest

from contexts.locks import locked
from contexts.sql import connect


def test_whoever_comes_second_waits(database_url: str) -> None:
    """While one connection holds a name, another waits for that name and for no other."""
    is_in, may_go = Event(), Event()
    order: list[str] = []

    def hold() -> None:
        with connect(database_url) as connection, locked(connection, "tasks/0"):
            is_in.set()
            may_go.wait(20)
            order.append("first")

    def follow() -> None:
        with connect(database_url) as connection, locked(connection, "tasks/0"):
            order.append("second")

    with ThreadPoolExecutor(2) as threads, connect(database_url) as other:
        first = threads.submit(hold)
        assert is_in.wait(20)
        second = threads.submit(follow)
        with locked(other, "tasks/1"):
            order.append("another name")
        may_go.set()
        first.result()
        second.result()
    assert order == ["another name", "first", "second"]


def test_a_lock_ends_with_its_block(database_url: str) -> None:
    """A lock is free again after its block, however that ended, and when its connection is gone."""
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
