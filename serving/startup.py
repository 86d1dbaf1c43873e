"""What must be there before the first request is taken."""

from __future__ import annotations

import asyncpg

from contexts.sql import ROOT, queries
from contexts.vault import Vault

_SQL = queries("serving", "asyncpg")
_TABLES = frozenset(
    {
        "users", "todoist_accounts", "context_store", "candidate_sets", "decisions", "reactions", "policies",
        "llm_calls", "schema_migrations",
    }
)  # fmt: skip


class NotReady(Exception):
    """The service cannot start; the message names what is missing and the mend."""


async def check(pool: asyncpg.Pool, vault: Vault) -> None:
    """Refuse to start without the tables, or with keys that do not open what is stored.

    Raises NotReady; VaultError when a key does not fit.
    """
    there = {row["table_name"] async for row in _SQL.tables_there(pool)}
    if missing := sorted(_TABLES - there):
        raise NotReady(f"the database lacks {', '.join(missing)}. Make them: python -m contexts.migrate")
    applied = {row["name"] async for row in queries("migrations", "asyncpg").applied(pool)}
    if missing := sorted({path.stem for path in (ROOT / "migrations").glob("*.sql")} - applied):
        raise NotReady(f"migrations {', '.join(missing)} are not applied. Apply them: python -m contexts.migrate")
    if row := await _SQL.any_credentials(pool):
        vault.unseal(row["user_id"], row["credentials"])
