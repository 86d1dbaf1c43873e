"""What must be there before the first request is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from service import House

from contexts.vault import VaultError, new_key
from local import postgres
from serving.startup import NotReady


def refused(house: House, *, database_url: str | None = None, keys: Sequence[str] = (), **settings: Any) -> str:
    """Why a service over this database and with these keys does not start."""
    house.world.key = keys[0] if keys else house.world.key
    with pytest.raises((NotReady, VaultError)) as raised:
        house.open(database_url, **settings)
    return str(raised.value)


def test_all_is_there(house: House, account: Any) -> None:
    """With every table, every migration and the right key it starts, users or not."""
    house.open()
    house.world.add("ann", account("call bob"))
    house.open()


def test_empty_database(house: House, server: str) -> None:
    """A database without our tables is told with what makes them."""
    url = postgres.create_database(server, "serving_empty", anew=True)
    said = refused(house, database_url=url)
    assert said.startswith("the database lacks candidate_sets, context_store, decisions, llm_calls, policies")
    assert said.endswith("Make them: python -m contexts.migrate")


def test_missing_table(house: House) -> None:
    """A single table that is missing is named."""
    house.connection.execute("ALTER TABLE llm_calls RENAME TO gone")
    try:
        assert refused(house) == "the database lacks llm_calls. Make them: python -m contexts.migrate"
    finally:
        house.connection.execute("ALTER TABLE gone RENAME TO llm_calls")


def test_missing_migration(house: House) -> None:
    """A migration that was not applied yet is named, though all tables are there."""
    house.connection.execute("DELETE FROM schema_migrations WHERE name LIKE '0003%%' OR name LIKE '0005%%'")
    try:
        said = refused(house)
    finally:
        house.connection.execute("INSERT INTO schema_migrations VALUES ('0003_decisions'), ('0005_serving')")
    assert said == ("migrations 0003_decisions, 0005_serving are not applied. Apply them: python -m contexts.migrate")


def test_later_migration(house: House) -> None:
    """A migration of a later version, applied ahead of its deployment, keeps nobody from starting."""
    house.connection.execute("INSERT INTO schema_migrations VALUES ('9999_later')")
    try:
        house.open()
    finally:
        house.connection.execute("DELETE FROM schema_migrations WHERE name = '9999_later'")


def test_wrong_key(house: House, account: Any) -> None:
    """Keys that do not open what is stored are found out at the start, not at the first stale user."""
    house.world.add("ann", account("call bob"))
    assert refused(house, keys=[new_key()]) == "no key of CREDENTIALS_KEYS opens the credentials of ann"


def test_broken_key(house: House) -> None:
    """What is no key is told with how to make one."""
    said = refused(house, keys=["canary-4711"])
    assert said.startswith("CREDENTIALS_KEYS holds something that is no Fernet key")
    assert "canary" not in said
