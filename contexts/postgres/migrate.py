"""The migrations of `sql/migrations`: numbered, and each applied once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import psycopg

from contexts.postgres.sql import ROOT, queries

_LOCK_TIMEOUT_S = 30


class TablesLocked(Exception):
    """A migration could not lock a table in time; nothing was applied."""


class MigrationsMissing(Exception):
    """The database lacks migrations; the message names them and the command that applies them."""


def migrate(connection: psycopg.Connection[Any]) -> list[str]:
    """Apply the missing migrations in order of their numbers, in one transaction. Returns their names.

    Raises TablesLocked if other sessions hold a table for longer than `_LOCK_TIMEOUT_S`: queries of the service would
    otherwise wait behind the migration for as long.
    """
    sql = queries("migrations")
    with connection.transaction():
        list(sql.lock_migrations(connection))
        sql.create_migrations_table(connection)
        missing = _missing({name for (name,) in sql.applied(connection)})
        list(sql.limit_waits(connection, lock_timeout=f"{round(_LOCK_TIMEOUT_S * 1000)}ms"))
        for name in missing:
            _apply(connection, name)
            sql.add_migration(connection, name=name)
    return missing


def _apply(connection: psycopg.Connection[Any], name: str) -> None:
    try:
        connection.execute((ROOT / "migrations" / f"{name}.sql").read_text().encode())
    except psycopg.errors.LockNotAvailable:
        raise TablesLocked(
            f"migration {name} waited {_LOCK_TIMEOUT_S} s for a table that other sessions use; nothing was applied."
            " Stop the service and Airflow, and migrate again: python -m contexts migrate"
        ) from None


def check_migrated(connection: psycopg.Connection[Any]) -> None:
    """Raise MigrationsMissing unless all migrations are applied. The connection must be in autocommit mode."""
    try:
        applied = {name for (name,) in queries("migrations").applied(connection)}
    except psycopg.errors.UndefinedTable:  # not even the table of migrations exists
        applied = set()
    check_applied(applied)


def check_applied(applied: Collection[str]) -> None:
    """Raise MigrationsMissing unless the names of applied migrations include all of `sql/migrations`."""
    if missing := _missing(applied):
        raise MigrationsMissing(
            f"migrations {', '.join(missing)} are not applied. Apply them: python -m contexts migrate"
        )


def _missing(applied: Collection[str]) -> list[str]:
    """Return the names of the migrations that are not applied, in order."""
    names = sorted(path.stem for path in (ROOT / "migrations").glob("*.sql"))
    return [name for name in names if name not in applied]
