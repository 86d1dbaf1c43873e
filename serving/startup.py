"""Checks before the service accepts its first request."""

from __future__ import annotations

import asyncpg

from contexts.postgres.migrate import MigrationsMissing, check_applied
from contexts.postgres.sql import queries
from contexts.todoist.credentials import CredentialCipher

_SQL = queries("serving", "asyncpg")
_TABLES = frozenset(
    {
        "users", "todoist_accounts", "context_store", "candidate_sets", "decisions", "reactions", "policies",
        "unreadable_policies", "llm_calls", "schema_migrations",
    }
)  # fmt: skip


class NotReady(Exception):
    """The service cannot start; the message names what is missing and the fix."""


async def check_database(pool: asyncpg.Pool, cipher: CredentialCipher) -> None:
    """Check that all tables exist, all migrations are applied and the keys decrypt the stored credentials.

    Raises NotReady, and CredentialsError if no key fits.
    """
    tables = {row["table_name"] async for row in _SQL.list_tables(pool)}
    if missing := sorted(_TABLES - tables):
        raise NotReady(f"the database lacks the tables {', '.join(missing)}. Create them: python -m contexts migrate")
    try:
        check_applied({row["name"] async for row in queries("migrations", "asyncpg").applied(pool)})
    except MigrationsMissing as error:
        raise NotReady(str(error)) from None
    if row := await _SQL.first_credentials(pool):
        cipher.unseal(row["user_id"], row["credentials"])
