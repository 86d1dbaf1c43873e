"""Checks before the first request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from service import ServiceHarness

from contexts.todoist.credentials import CredentialCipher, Credentials, CredentialsError, new_key
from local import postgres
from serving.startup import NotReady


def refused(
    harness: ServiceHarness, *, database_url: str | None = None, keys: Sequence[str] = (), **settings: Any
) -> str:
    """The reason why a service with this database and these keys does not start."""
    harness.world.key = keys[0] if keys else harness.world.key
    with pytest.raises((NotReady, CredentialsError)) as raised:
        harness.open(database_url, **settings)
    return str(raised.value)


def test_starts(harness: ServiceHarness, account: Any) -> None:
    """With all tables, all migrations and the right key the service starts, with or without users."""
    harness.open()
    harness.world.add("ann", account("call bob"))
    harness.open()


def test_empty_database(harness: ServiceHarness, server: str) -> None:
    """A database without our tables is refused with the command that creates them."""
    url = postgres.create_database(server, "serving_empty", replace=True)
    message = refused(harness, database_url=url)
    assert message.startswith(
        "the database lacks the tables candidate_sets, context_store, decisions, llm_calls, policies"
    )
    assert message.endswith(". Create them: python -m contexts migrate")


def test_missing_table(harness: ServiceHarness) -> None:
    """A single missing table is named."""
    harness.connection.execute("ALTER TABLE llm_calls RENAME TO gone")
    try:
        assert refused(harness) == "the database lacks the tables llm_calls. Create them: python -m contexts migrate"
    finally:
        harness.connection.execute("ALTER TABLE gone RENAME TO llm_calls")


def test_missing_migration(harness: ServiceHarness) -> None:
    """A migration that is not applied is named, even if all tables exist."""
    harness.connection.execute("DELETE FROM schema_migrations WHERE name LIKE '0003%%' OR name LIKE '0005%%'")
    try:
        message = refused(harness)
    finally:
        harness.connection.execute("INSERT INTO schema_migrations VALUES ('0003_decisions'), ('0005_serving')")
    assert message == (
        "migrations 0003_decisions, 0005_serving are not applied. Apply them: python -m contexts migrate"
    )


def test_later_migration(harness: ServiceHarness) -> None:
    """A migration of a later version does not prevent the start."""
    harness.connection.execute("INSERT INTO schema_migrations VALUES ('9999_later')")
    try:
        harness.open()
    finally:
        harness.connection.execute("DELETE FROM schema_migrations WHERE name = '9999_later'")


def test_wrong_key(harness: ServiceHarness, account: Any) -> None:
    """Keys that do not decrypt the stored credentials are detected at the start."""
    harness.world.add("ann", account("call bob"))
    message = refused(harness, keys=[new_key()])
    assert message.startswith("no key in CREDENTIALS_KEYS decrypts the credentials of any account (1 of them)")


UNDECRYPTABLE = {
    "of another key": CredentialCipher([new_key()]).seal("a", Credentials("x")),
    "cut": "gAAAA",
    "empty": "",
    "not ASCII": "\N{SNOWMAN}",
}


@pytest.mark.parametrize("sealed", UNDECRYPTABLE.values(), ids=list(UNDECRYPTABLE))
def test_undecryptable_accounts(
    harness: ServiceHarness, account: Any, caplog: pytest.LogCaptureFixture, sealed: str
) -> None:
    """Accounts that no key decrypts prevent no start: the log names them, and all others are served."""
    for user in ("a", "b", "zoe"):
        harness.world.add(user, account("call bob"))
    harness.connection.execute("UPDATE todoist_accounts SET credentials = %s WHERE user_id < 'c'", [sealed])
    service = harness.open(todoist_timeout=20, request_budget=60)
    assert service.metric("unreadable_rows_total", table="todoist_accounts") == 2
    assert "todoist_accounts, a: no key in CREDENTIALS_KEYS decrypts the credentials of a" in caplog.text
    assert service.tip("zoe").origin[0] == "inline"
    assert service.tip("a").origin[0] == "none"


def test_very_many_undecryptable_accounts(harness: ServiceHarness, account: Any) -> None:
    """One account that a key decrypts is enough, wherever it is."""
    harness.world.add("zoe", account("call bob"))
    many = "SELECT 'a' || n, 'a@example.org', 'UTC' FROM generate_series(1, 250) n"
    harness.connection.execute(f"INSERT INTO users (user_id, email, timezone) {many}")
    harness.connection.execute(
        "INSERT INTO todoist_accounts (user_id, credentials) SELECT user_id, 'x' FROM users WHERE user_id <> 'zoe'"
    )
    assert harness.open(todoist_timeout=20, request_budget=60).tip("zoe").origin[0] == "inline"


def test_wrong_key_of_many(harness: ServiceHarness, caplog: pytest.LogCaptureFixture) -> None:
    """If no key fits, the log names the first 20 accounts, and the error counts all."""
    many = "SELECT 'a' || n, 'a@example.org', 'UTC' FROM generate_series(1, 250) n"
    harness.connection.execute(f"INSERT INTO users (user_id, email, timezone) {many}")
    harness.connection.execute("INSERT INTO todoist_accounts (user_id, credentials) SELECT user_id, 'x' FROM users")
    assert "(250 of them)" in refused(harness)
    assert caplog.text.count("todoist_accounts, ") == 20


def test_broken_key(harness: ServiceHarness) -> None:
    """An invalid key is refused with instructions to create one."""
    message = refused(harness, keys=["canary-4711"])
    assert message.startswith("CREDENTIALS_KEYS contains a value that is not a Fernet key")
    assert "canary" not in message
