"""One database a module, one server for each stand-in, and the service over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from service import House, Service, Switch, inhabited
from world import World

from contexts.migrate import migrate
from contexts.sql import connect
from contexts.todoist import Todoist
from local import postgres
from local.llm import LocalLLM
from local.server import serving
from local.todoist import LocalTodoist


@pytest.fixture(scope="module")
def database_url(server: str, request: pytest.FixtureRequest) -> str:
    """A database with every migration applied, of the module alone."""
    url = postgres.create_database(server, f"serving_{request.path.stem}")
    with connect(url) as connection:
        migrate(connection)
    return url


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to it; no test finds what another one left."""
    with connect(database_url) as opened:
        opened.execute("TRUNCATE users, context_store, policies, cluster_thresholds, materializations CASCADE")
        yield opened


@pytest.fixture(scope="session")
def todoist_server() -> Iterator[tuple[Switch, str]]:
    with serving(switch := Switch(), 0) as url:  # type: ignore[arg-type]
        yield switch, url


@pytest.fixture(scope="session")
def llm_server() -> Iterator[tuple[Switch, str]]:
    with serving(switch := Switch(), 0) as url:  # type: ignore[arg-type]
        yield switch, url


@pytest.fixture
def world(
    connection: psycopg.Connection[Any], todoist: LocalTodoist, todoist_server: tuple[Switch, str], tmp_path: Path
) -> World:
    return World(connection, todoist, Todoist(todoist_server[1], patience=5, read_timeout=2), tmp_path / "data")


@pytest.fixture
def llm(llm_server: tuple[Switch, str], monkeypatch: pytest.MonkeyPatch) -> LocalLLM:
    switch, url = llm_server
    standing_in = LocalLLM()
    switch.app = standing_in.app
    monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    return standing_in


@pytest.fixture
def house(world: World, llm: LocalLLM, database_url: str, todoist_server: tuple[Switch, str]) -> Iterator[House]:
    with inhabited(world, llm, database_url, todoist_server[0]) as house:
        yield house


@pytest.fixture
def service(house: House) -> Service:
    return house.open()
