"""What tests share: a real Postgres, a local Todoist, a tiny model on disk, and a night over them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from world import World

from contexts.migrate import migrate
from contexts.sql import connect
from contexts.todoist import Todoist
from local import postgres
from local.todoist import LocalTodoist, running

_names = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: what two processes share out ends at about the same time."""
    slow = ("tests/local/test_live.py", "tests/local/test_astro.py", "tests/include/")
    items.sort(key=lambda item: not any(name in item.path.as_posix() for name in slow))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an embedded Postgres 18."""
    with postgres.running(tmp_path_factory.mktemp("postgres") / "data") as url:
        yield url


@pytest.fixture
def database_url(server: str) -> str:
    """A fresh database with every migration applied."""
    url = postgres.create_database(server, f"test_{next(_names)}")
    with connect(url) as connection:
        migrate(connection)
    return url


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(database_url) as opened:
        yield opened


@pytest.fixture
def todoist() -> LocalTodoist:
    return LocalTodoist(full_limit=10_000, incremental_limit=10_000)


@pytest.fixture
def world(connection: psycopg.Connection[Any], todoist: LocalTodoist, tmp_path: Path) -> Iterator[World]:
    with running(todoist) as url:
        yield World(connection, todoist, Todoist(url, patience=5, read_timeout=2), tmp_path / "data")


@pytest.fixture
def account() -> Callable[..., dict[str, Any]]:
    """Makes a full `/sync` answer of items given as contents or as whole objects."""

    def make(*items: Any, timezone: str = "UTC", lang: str = "en", **more: Any) -> dict[str, Any]:
        listed = [
            {"id": f"t{number}", "content": item} if isinstance(item, str) else item
            for number, item in enumerate(items)
        ]
        user = {"id": "1", "lang": lang, "tz_info": {"timezone": timezone}}
        return {
            "full_sync": True,
            "sync_token": "x",
            "items": listed,
            "projects": [],
            "sections": [],
            "labels": [],
            "user": user,
            **more,
        }

    return make
