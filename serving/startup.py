"""Checks before the service accepts its first request."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from itertools import islice
from typing import Any

import asyncpg

from contexts.postgres.migrate import MigrationsMissing, check_applied
from contexts.postgres.sql import queries
from contexts.todoist.credentials import CredentialCipher, CredentialsError
from serving.row_formats import Report, Unreadable

_SQL = queries("serving", "asyncpg")
_BATCH_ROWS = 100
_MAX_REPORTED = 20
"""The number of accounts that are reported one by one; the error counts all."""

_TABLES = frozenset(
    {
        "users", "todoist_accounts", "todoist_events", "todoist_channel", "context_store", "candidate_sets",
        "decisions", "reactions", "policies", "unreadable_policies", "llm_calls", "schema_migrations",
    }
)  # fmt: skip


class NotReady(Exception):
    """The service cannot start; the message names what is missing and the fix."""


def port_not_usable(host: str, port: int, error: OSError) -> NotReady:
    """The error of a service that cannot listen on an address."""
    reason = "it is in use by another process" if error.errno == errno.EADDRINUSE else error.strerror
    return NotReady(
        f"SERVING_PORT={port}: cannot listen on {host}: {reason}. End the other process or set another port."
    )


async def check_database(pool: asyncpg.Pool, cipher: CredentialCipher, report: Report) -> None:
    """Check that all tables exist, all migrations are applied and the keys decrypt stored credentials.

    Raises NotReady, and CredentialsError if there are accounts and no key fits any of them. Among the first accounts,
    report is called for each that no key fits, up to `_MAX_REPORTED`.
    """
    tables = {row["table_name"] async for row in _SQL.list_tables(pool)}
    if missing := sorted(_TABLES - tables):
        raise NotReady(f"the database lacks the tables {', '.join(missing)}. Create them: python -m contexts migrate")
    try:
        check_applied({row["name"] async for row in queries("migrations", "asyncpg").applied(pool)})
    except MigrationsMissing as error:
        raise NotReady(str(error)) from None
    await _check_keys(pool, cipher, report)


async def _check_keys(pool: asyncpg.Pool, cipher: CredentialCipher, report: Report) -> None:
    """Read accounts in the order of their users, until one of those read can be decrypted."""
    after, n_undecryptable = "", 0
    while rows := [row async for row in _SQL.next_credentials(pool, after=after, max_rows=_BATCH_ROWS)]:
        errors = {row["user_id"]: _fault(cipher, row) for row in rows}
        undecryptable = {user_id: error for user_id, error in errors.items() if error}
        for user_id, error in islice(undecryptable.items(), max(0, _MAX_REPORTED - n_undecryptable)):
            report(Unreadable("todoist_accounts", user_id, error))
        n_undecryptable += len(undecryptable)
        if len(undecryptable) < len(rows):
            return
        after = rows[-1]["user_id"]
    if n_undecryptable:
        raise CredentialsError(
            f"no key in CREDENTIALS_KEYS decrypts the credentials of any account ({n_undecryptable} of them)."
            " Start the service with the keys that the accounts were added with"
        )


def _fault(cipher: CredentialCipher, row: Mapping[str, Any]) -> str:
    try:
        cipher.unseal(row["user_id"], row["credentials"])
    except CredentialsError as error:
        return str(error)
    return ""
