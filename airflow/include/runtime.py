"""The runtime inside Airflow: built from its connections and the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import Connection

from assets.runtime import Runtime
from contexts.postgres.migrate import check_migrated
from contexts.settings import TODOIST_API_URL, CredentialSettings, Settings, check_settings, read_settings
from contexts.todoist.credentials import CredentialCipher


@contextmanager
def open_runtime() -> Iterator[Runtime]:
    """Yield the runtime of the connections `context_store` (Postgres) and `todoist`, and close it at the end.

    Raises SettingsError, CredentialsError, MigrationsMissing, or an error of psycopg if Postgres cannot be reached.
    """
    check_settings(Settings, CredentialSettings)
    settings, cipher = read_settings(Settings), CredentialCipher(read_settings(CredentialSettings).keys)
    connection = cast("psycopg.Connection[Any]", PostgresHook("context_store").get_conn())
    connection.autocommit = True
    with connection:
        check_migrated(connection)
        url = url_of(Connection.get("todoist"), default=TODOIST_API_URL)
        yield Runtime.connect(settings, cipher, connection, url, n_threads=1)  # every core runs a task of its own


def url_of(connection: Connection, *, default: str) -> str:
    """Return the URL of an HTTP connection, or `default` if the connection has no host.

    The scheme is that of the connection; https if it has none, and for todoist.com.
    """
    if not connection.host:
        return default
    schemes = [kind for kind in (connection.schema, connection.conn_type) if kind in ("http", "https")]
    is_todoist = connection.conn_type == "http" and not connection.schema and connection.host.endswith("todoist.com")
    scheme = "https" if is_todoist or not schemes else schemes[0]
    address = connection.host if "://" in connection.host else f"{scheme}://{connection.host}"
    return f"{address}:{connection.port}" if connection.port else address
