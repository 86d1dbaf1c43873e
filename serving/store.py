"""Postgres as the request path uses it: reads and decisions in batches, the rest one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from contexts.model import Groups, Reaction
from contexts.sql import queries
from contexts.store import StoredContext, is_fresh, reactions_since
from serving.batch import Batch
from serving.llm import Usage

_SQL = queries("serving", "asyncpg")
_CONTEXTS = queries("contexts", "asyncpg")
_ACCOUNTS = queries("accounts", "asyncpg")

_DECISION = (
    "decision_id", "user_id", "decided_at", "tip_kind", "theme", "context_hash", "candidate_set_id", "source", "llm",
    "materialized_at", "policy_version", "seed", "chosen", "propensities", "features",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """Candidates as they are stored. tips: JSON objects; features: float32, a row each, without the clock's part."""

    set_id: UUID | None
    context_hash: str
    author: str
    expires_at: datetime
    renew_at: datetime
    tips: Sequence[str]
    kinds: Sequence[str]
    themes: Sequence[str]
    features: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a user without looking into the context. materialized_at is None where there is no context."""

    user_id: str
    timezone: str
    materialized_at: datetime | None
    valid_until: datetime | None
    context_hash: str | None
    last: CandidateSet | None

    def is_fresh(self, now: datetime, sla: timedelta) -> bool:
        """Whether there is a context that may be used."""
        return self.materialized_at is not None and is_fresh(self.materialized_at, self.valid_until, now, sla)


@dataclass(frozen=True, slots=True)
class Decision:
    """A row of `decisions`; see sql/migrations for what each column means."""

    decision_id: UUID
    user_id: str
    decided_at: datetime
    tip_kind: str
    theme: str
    context_hash: str | None
    candidate_set_id: UUID | None
    source: str
    llm: str
    materialized_at: datetime | None
    policy_version: str
    seed: int
    chosen: int
    propensities: Sequence[float]
    features: bytes

    @property
    def values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in _DECISION)


class Store:
    """The tables of the request path behind a pool; `log` is a pool whose commits need not wait for the disk."""

    def __init__(self, pool: asyncpg.Pool, log: asyncpg.Pool, *, reaction_days: int = 90) -> None:
        self.pool = pool
        self._log = log
        self._reaction_days = reaction_days
        self._reads: Batch[str, Known | None] = Batch(self._read_many)
        self._decisions: Batch[Decision, None] = Batch(self._write_many)

    async def read(self, user_id: str) -> Known | None:
        """What is known of a user; None: there is no such user."""
        return await self._reads.ask(user_id)

    async def decide(self, decision: Decision) -> None:
        """Log a decision; it can be reacted to when this returns."""
        await self._decisions.ask(decision)

    async def context(self, user_id: str) -> StoredContext | None:
        """A user's row of the store."""
        row = await _SQL.read_context(self.pool, user_id=user_id)
        return None if row is None else StoredContext(user_id=user_id, **dict(row))

    async def bases(self, candidates: CandidateSet) -> list[str]:
        """What each tip of a set was about when it was made."""
        return list(await _SQL.read_bases(self.pool, candidate_set_id=candidates.set_id) or ())

    async def account(self, user_id: str) -> Mapping[str, Any] | None:
        """user_id, credentials and timezone of an account that may be fetched."""
        found: Mapping[str, Any] | None = await _SQL.read_account(self.pool, user_id=user_id)
        return found

    async def save_credentials(self, user_id: str, sealed: str) -> None:
        """Renewed credentials, before they are used."""
        await _ACCOUNTS.save_credentials(self.pool, user_id=user_id, credentials=sealed)

    async def themes(self, user_id: str) -> str:
        """The groups of the user's tasks as JSON, as of the last clustering; see `contexts.model.Groups`."""
        return await _SQL.read_themes(self.pool, user_id=user_id) or Groups().to_json()

    async def reactions(self, user_id: str, now: datetime) -> tuple[Reaction, ...]:
        """What the user made of tips, as far back as matters."""
        since = reactions_since(now, self._reaction_days)
        rows = [dict(row) async for row in _CONTEXTS.reactions_since(self.pool, since=since, user_ids=[user_id])]
        return tuple(Reaction(**{name: row[name] for name in row if name != "user_id"}) for row in rows)

    async def write_context(self, row: StoredContext, timezone: str) -> bool:
        """Write a context through, and the zone in which its days begin; False when a newer one was there."""
        await _ACCOUNTS.save_timezone(self.pool, [{"user_id": row.user_id, "timezone": timezone}])
        written = await _SQL.write_context(
            self.pool,
            user_id=row.user_id,
            materialized_at=row.materialized_at,
            context_json=row.context_json,
            context_hash=row.context_hash,
            valid_until=row.valid_until,
            themes=row.themes,
            row_version=row.row_version,
        )
        return bool(written)

    async def write_candidates(
        self, user_id: str, made: CandidateSet, bases: Sequence[str], made_at: datetime
    ) -> None:
        """Append a set of candidates."""
        await _SQL.write_candidates(
            self.pool,
            candidate_set_id=made.set_id,
            user_id=user_id,
            context_hash=made.context_hash,
            author=made.author,
            made_at=made_at,
            expires_at=made.expires_at,
            renew_at=made.renew_at,
            tips=made.tips,
            bases=bases,
            kinds=made.kinds,
            themes=made.themes,
            features=made.features,
        )

    async def write_llm_call(self, user_id: str, set_id: UUID | None, usage: Usage, called_at: datetime) -> None:
        """Record what a call of the LLM took."""
        await _SQL.write_llm_call(
            self.pool,
            called_at=called_at,
            user_id=user_id,
            candidate_set_id=set_id,
            model=usage.model,
            outcome=usage.outcome,
            n_requests=usage.n_requests,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=usage.cost_usd,
            seconds=usage.seconds,
        )

    async def remove_user(self, user_id: str) -> bool:
        """Remove a user with all that hangs on them; False: there was none."""
        async with self.pool.acquire() as connection, connection.transaction():
            await _ACCOUNTS.remove_context(connection, user_id=user_id)
            return bool(await _SQL.remove_user(connection, user_id=user_id))

    async def is_alive(self) -> bool:
        """Whether the database answers."""
        return bool(await _SQL.alive(self.pool))

    async def _read_many(self, user_ids: Sequence[str]) -> list[Known | None]:
        rows = await self.pool.fetch(_READ, list(set(user_ids)))
        found = {row[0]: _known(row) for row in rows}
        return [found.get(user_id) for user_id in user_ids]

    async def _write_many(self, decisions: Sequence[Decision]) -> list[None]:
        async with self._log.acquire() as connection:
            await connection.executemany(_WRITE, [decision.values for decision in decisions])
        return [None] * len(decisions)


_READ: str = _SQL.read_users.sql
_WRITE: str = _SQL.write_decision.sql


def _known(row: Sequence[Any]) -> Known:
    user_id, timezone, materialized_at, valid_until, context_hash, set_id, made_for, *rest = row
    last = None if set_id is None else CandidateSet(set_id, made_for, *rest)
    return Known(user_id, timezone, materialized_at, valid_until, context_hash, last)


async def _as_it_is(_: object) -> None:
    """Nothing here leaves a trace in its connection, so none has to be wiped by another statement."""


@asynccontextmanager
async def connected(url: str, *, n_connections: int, timeout: float, reaction_days: int = 90) -> AsyncIterator[Store]:
    """A store over pools of its own. timeout: seconds after which a statement is given up."""
    patience = {"min_size": 1, "command_timeout": timeout, "timeout": timeout, "reset": _as_it_is}
    # A decision lost in a crash of the server costs one lesson; waiting for the disk would cost every request.
    hasty = {"synchronous_commit": "off"}
    async with (
        asyncpg.create_pool(url, max_size=n_connections, **patience) as pool,
        asyncpg.create_pool(url, max_size=1, server_settings=hasty, **patience) as log,
    ):
        yield Store(pool, log, reaction_days=reaction_days)
