"""The embedded Postgres."""

from __future__ import annotations

from pathlib import Path

from contexts.postgres.sql import connect
from local.postgres import create_database, running_postgres


def test_folder_with_a_blank(tmp_path: Path) -> None:
    """A server with its data in a folder whose name has a blank answers, and keeps the data for the next one."""
    folder = tmp_path / "my project" / "postgres"
    with running_postgres(folder) as url, connect(create_database(url, "contexts")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    with running_postgres(folder) as url, connect(create_database(url, "contexts")) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
