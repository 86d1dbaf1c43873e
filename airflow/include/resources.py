"""The concrete doors of the night inside Airflow: its connections and the settings become the assets' resources."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import Connection

from assets.doors import Doors
from contexts.settings import Settings, VaultSettings, read_settings
from contexts.todoist import API_URL
from contexts.vault import Vault


@contextmanager
def open_doors() -> Iterator[Doors]:
    """Connect to Postgres by the connection `context_store` and to Todoist by `todoist`; close at the end."""
    settings, vault = read_settings(Settings), Vault(read_settings(VaultSettings).keys)
    connection = cast("psycopg.Connection[Any]", PostgresHook("context_store").get_conn())
    with connection:
        url = url_of(Connection.get("todoist"), default=API_URL)
        yield Doors.of(settings, vault, connection, url, n_threads=1)  # each core has a task of its own


def url_of(found: Connection, *, default: str) -> str:
    """The address that a connection names, `default` where it names none; https where it does not say."""
    if not found.host:
        return default
    kinds = [kind for kind in (found.schema, found.conn_type) if kind in ("http", "https")]
    is_bare = found.conn_type == "http" and not found.schema and found.host.endswith("todoist.com")
    address = found.host if "://" in found.host else f"{'https' if is_bare or not kinds else kinds[0]}://{found.host}"
    return f"{address}:{found.port}" if found.port else address
