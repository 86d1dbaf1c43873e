"""A Postgres on this machine with the context store of a run and the accounts of a scenario."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from contexts.postgres.migrate import migrate
from contexts.postgres.sql import connect
from local.airflow_api import PrintLine
from local.local_run import LocalRun
from local.paths import display_path
from local.postgres import create_database, running_postgres
from local.scenario import Scenario, install


@dataclass(frozen=True)
class LocalContextStore:
    """A running Postgres with a context store, and accounts in it for the users of a scenario.

    server_url: the URL of the server's database `postgres`. database_url: the URL of the context store.
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


@contextmanager
def running_context_store(scenario: Scenario, run: LocalRun, print_line: PrintLine) -> Iterator[LocalContextStore]:
    """Postgres in the folder of a run, with the context store of the run that it continues; stopped at the end."""
    print_line(f"Users: {scenario.description}")
    print_line(f"Starting Postgres 18 in {display_path(run.folder / 'postgres')}")
    with running_postgres(run.folder / "postgres") as server_url:
        database_url = create_database(server_url, "contexts", replace=not run.is_continued)
        with connect(database_url) as connection:
            applied = migrate(connection) if run.is_continued else install(connection, run.state.key, scenario)
            run.save()  # from here on there is a run that can be continued
            print_line(f"  migrations: {', '.join(applied) or 'none is new'}")
            yield LocalContextStore(scenario, server_url, database_url, run.state.key, connection)
