"""One database per module for the tests of `contexts`, emptied before each test, which is faster than a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from contexts.postgres.sql import connect


@pytest.fixture(scope="module")
def database_url(new_database: Callable[[str], str], request: pytest.FixtureRequest) -> str:
    """A database for one module with all migrations applied."""
    return new_database(request.path.stem)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the empty database of the module."""
    with connect(database_url) as opened:
        opened.execute(
            "TRUNCATE users, context_store, cluster_thresholds, asset_runs, step_runs, waiting_shards, text_vectors"
            " CASCADE"
        )
        yield opened
