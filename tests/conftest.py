"""Shared fixtures: an embedded Postgres, a local Todoist, and a pipeline over them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from emptied import EmptiedConnection
from switchable import SwitchableApp
from world import World

from contexts.postgres.migrate import migrate
from contexts.postgres.sql import connect
from contexts.todoist.client import Todoist
from local import postgres
from local.checkpoint import save_tiny_nomic
from local.server import running_server
from local.todoist import LocalTodoist

_database_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the long tests first, so that parallel workers end at about the same time."""
    slow = ("tests/local/test_live.py", "tests/local/test_cluster.py", "tests/local/test_astro.py", "tests/include/")
    items.sort(key=lambda item: not any(name in item.path.as_posix() for name in slow))


@pytest.fixture(scope="session", autouse=True)
def _cheap_files_and_clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Files are not synced to the disk, and HTTP clients trust no certificates: all servers of tests are on loopback.

    A sync takes 10 ms, and a client reads certificates for 20 ms.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("no-certificates")))
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of an embedded Postgres 18, which neither waits for the disk nor cleans up by itself."""
    with postgres.running_postgres(tmp_path_factory.mktemp("postgres") / "data") as url:
        with connect(url) as admin:
            for name in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
                admin.execute(f"ALTER SYSTEM SET {name} = off")
            admin.execute("SELECT pg_reload_conf()")
        yield url


@pytest.fixture(scope="session")
def new_database(server: str) -> Callable[[str], str]:
    """Return a function that creates a database with all migrations applied, and returns its URL."""
    with connect(postgres.create_database(server, "migrated")) as template:
        migrate(template)

    def create(name: str) -> str:
        return postgres.create_database(server, name, template="migrated")

    return create


@pytest.fixture(scope="module")
def database_url(new_database: Callable[[str], str]) -> str:
    """Return the URL of a database of the module with all migrations applied."""
    return new_database(f"test_{next(_database_numbers)}")


@pytest.fixture(scope="module")
def emptied_connection(database_url: str) -> Iterator[EmptiedConnection]:
    """Return the connection of all tests of the module, which keeps its caches of the catalog."""
    with EmptiedConnection(database_url) as emptied:
        yield emptied


@pytest.fixture
def connection(emptied_connection: EmptiedConnection) -> psycopg.Connection[Any]:
    """Return a connection to the module's database, with the rows that it has after the migrations."""
    return emptied_connection.open()


@pytest.fixture(scope="module")
def second_emptied_connection(new_database: Callable[[str], str]) -> Iterator[EmptiedConnection]:
    """Return the connection to a second database of the module."""
    with EmptiedConnection(new_database(f"second_{next(_database_numbers)}")) as emptied:
        yield emptied


@pytest.fixture(scope="session")
def tiny_nomic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model of the default model's architecture."""
    return save_tiny_nomic(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def todoist() -> LocalTodoist:
    return LocalTodoist(full_limit=10_000, incremental_limit=10_000)


@pytest.fixture(scope="session")
def todoist_server() -> Iterator[tuple[SwitchableApp, str]]:
    """Return a server for the local Todoist of each test, and its URL."""
    with running_server(app := SwitchableApp(), 0) as url:  # type: ignore[arg-type]
        yield app, url


@pytest.fixture
def world(
    connection: psycopg.Connection[Any],
    todoist: LocalTodoist,
    todoist_server: tuple[SwitchableApp, str],
    tmp_path: Path,
) -> World:
    server, url = todoist_server
    server.app = todoist.app
    return World(connection, todoist, Todoist(url, total_timeout=5, attempt_timeout=30), tmp_path / "data")


@pytest.fixture(scope="session")
def account() -> Callable[..., dict[str, Any]]:
    """Return a function that builds a full `/sync` answer from items, given as contents or as whole objects.

    The user added the items, unless they say otherwise.
    """

    def build(*items: Any, timezone: str = "UTC", lang: str = "en", **more: Any) -> dict[str, Any]:
        item_objects = [
            {"added_by_uid": "1"} | item if isinstance(item, dict) else item
            for item in (
                {"id": f"t{number}", "content": item} if isinstance(item, str) else item
                for number, item in enumerate(items)
            )
        ]
        user = {"id": "1", "lang": lang, "tz_info": {"timezone": timezone}}
        return {
            "full_sync": True,
            "sync_token": "x",
            "items": item_objects,
            "projects": [],
            "sections": [],
            "labels": [],
            "user": user,
            **more,
        }

    return build
