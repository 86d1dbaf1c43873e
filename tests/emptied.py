"""A database that is emptied before each test, over one connection: a new one reads the catalog again for 15 ms."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import psycopg

from contexts.postgres.sql import connect

_DELETE_ROWS = """
    DO $$ DECLARE name TEXT; BEGIN
        SET LOCAL session_replication_role = replica;  -- rows can be deleted in any order
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations'
        LOOP EXECUTE format('DELETE FROM %I', name); END LOOP;
        INSERT INTO todoist_channel DEFAULT VALUES;
    END $$
"""  # TRUNCATE makes a new file for each table and index: 30 ms of CPU


def delete_rows(connection: psycopg.Connection[Any]) -> None:
    """Leave only the rows that the tables have after the migrations; sequences go on."""
    connection.execute(_DELETE_ROWS)


class EmptiedConnection:
    """A connection to a database that has all migrations applied."""

    def __init__(self, url: str) -> None:
        self._url, self._connection = url, connect(url)

    def open(self) -> psycopg.Connection[Any]:
        """The connection as if it were new, to tables with the rows that they have after the migrations.

        It is a new one if a test has closed it, left a transaction open, or stopped the server.
        """
        try:
            with self._connection.transaction(force_rollback=True):
                pass  # so psycopg forgets its prepared statements, which it does not at the second DISCARD ALL
            self._connection.execute("DISCARD ALL")  # settings, locks, temporary tables
        except psycopg.Error:
            self._connection.close()
            self._connection = connect(self._url)
        delete_rows(self._connection)
        return self._connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
