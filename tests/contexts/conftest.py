"""One database per module for the tests of `contexts`, emptied before each test, which is faster than a new one."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(scope="module")
def database_url(new_database: Callable[[str], str], request: pytest.FixtureRequest) -> str:
    """A database for one module with all migrations applied."""
    return new_database(request.path.stem)
