"""Apply the migrations of `sql/migrations` that the database lacks: `python -m contexts.migrate`."""

from __future__ import annotations

import sys

import psycopg

from contexts.settings import DatabaseSettings, SettingsError, read_settings
from contexts.sql import ROOT, connect, queries


def migrate(connection: psycopg.Connection) -> list[str]:
    """Apply what is missing, in order of the numbers, all in one transaction; gives the names applied."""
    log = queries("migrations")
    with connection.transaction():
        list(log.lock_migrations(connection))
        log.create_log(connection)
        applied = {name for (name,) in log.applied(connection)}
        missing = [path for path in sorted((ROOT / "migrations").glob("*.sql")) if path.stem not in applied]
        for path in missing:
            connection.execute(path.read_text().encode())
            log.log_migration(connection, name=path.stem)
    return [path.stem for path in missing]


def main() -> int:
    try:
        with connect(read_settings(DatabaseSettings).database_url) as connection:
            done = migrate(connection)
    except (SettingsError, psycopg.Error) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"applied: {', '.join(done)}\n" if done else "nothing to apply\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
