"""One database a module for the tests of `contexts`, emptied before each: making one for each test takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from contexts.migrate import migrate
from contexts.sql import connect
from local import postgres


@pytest.fixture(scope="module")
def database_url(server: str, request: pytest.FixtureRequest) -> str:
    """A database with every migration applied, of the module alone."""
    url = postgres.create_database(server, request.path.stem)
    with connect(url) as connection:
        migrate(connection)
    return url


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to it; no test finds what another one left."""
    with connect(database_url) as opened:
        opened.execute("TRUNCATE users, context_store, cluster_thresholds, materializations, text_vectors CASCADE")
        yield opened
