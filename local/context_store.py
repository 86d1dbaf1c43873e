"""A Postgres on this machine with a new context store and the accounts of a scenario."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from contexts.postgres.sql import connect
from contexts.todoist.credentials import new_key
from local.airflow_api import PrintLine
from local.paths import display_path
from local.postgres import create_database, running_postgres
from local.scenario import Scenario, install


@dataclass(frozen=True)
class LocalContextStore:
    """A running Postgres with a new context store, and accounts in it for the users of a scenario.

    server_url: of the server's database `postgres`.
    database_url: of the context store.
    key: encrypts the stored API tokens.
    """

    scenario: Scenario
    server_url: str
    database_url: str
    key: str
    connection: psycopg.Connection[Any]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the service and the commands need beside the settings."""
        return {
            "DATABASE_URL": self.database_url,
            "CREDENTIALS_KEYS": self.key,
            "TODOIST_API_URL": self.scenario.todoist_url,
        }

    @property
    def airflow_environment(self) -> dict[str, str]:
        """The variables that Airflow needs beside the settings."""
        return {
            "CREDENTIALS_KEYS": self.key,
            "AIRFLOW_CONN_CONTEXT_STORE": self.database_url,
            "AIRFLOW_CONN_TODOIST": self.scenario.todoist_url,
        }


class ContextStoreInUse(Exception):
    """A different run has its files in the folder; the message names the folder."""


@contextmanager
def running_context_store(scenario: Scenario, folder: Path, print_line: PrintLine) -> Iterator[LocalContextStore]:
    """Postgres in a folder, without the data of earlier runs; stopped at the end.

    Raises ContextStoreInUse if a different run uses the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        shutil.rmtree(folder / "data", ignore_errors=True)
        print_line(f"Starting from scratch: removed the data of earlier runs in {display_path(folder)}")
        print_line(f"Users: {scenario.description}")
        print_line(f"Starting Postgres 18 in {display_path(folder / 'postgres')}")
        with running_postgres(folder / "postgres") as server_url:
            database_url, key = create_database(server_url, "contexts", replace=True), new_key()
            with connect(database_url) as connection:
                print_line(f"  migrations: {', '.join(install(connection, key, scenario))}")
                yield LocalContextStore(scenario, server_url, database_url, key, connection)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ContextStoreInUse(
                f"`make run`, `make cluster` or `make services` is already running in {display_path(folder)}."
                " End it first."
            ) from None
        yield
