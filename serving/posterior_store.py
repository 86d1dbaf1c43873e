"""The row of `policies` of one policy: read, locked for an update, and replaced if it cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np

from contexts.postgres.sql import queries
from serving.row_formats import Report, Unreadable, read_chosen, read_posterior, read_reward
from tips.bandit import Posterior
from tips.features import N_FEATURES

log = logging.getLogger(__name__)

_SQL = queries("serving", "asyncpg")
_MAX_DECISIONS = 200_000
"""The greatest number of decisions that a posterior is rebuilt from: it takes a few seconds, and reactions wait."""

_MAX_READ = 1_000_000
"""The greatest number of rows of the log that are read for it, with those that it does not learn from."""

_BATCH_ROWS = 2_000
_NEWEST = datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1)
"""A position after all decisions: (decided_at, decision_id)."""

_MAX_UPDATES = 2**53


class PosteriorStore:
    """One policy's posterior in Postgres, shared by all processes."""

    def __init__(self, pool: asyncpg.Pool, policy: str, report: Report, clock: Callable[[], datetime]) -> None:
        """report: called for each row that cannot be read."""
        self.policy = policy
        self._pool = pool
        self._report = report
        self._clock = clock
        self._is_broken = False

    async def newer_than(self, posterior: Posterior) -> Posterior | None:
        """The stored posterior if it differs from this one; created if missing, replaced if unreadable."""
        n_updates = await _SQL.read_policy_updates(self._pool, policy=self.policy)
        if n_updates == posterior.n_updates and not self._is_broken:
            return None
        if n_updates is None:
            prior = _columns(Posterior.prior(N_FEATURES))
            await _SQL.add_policy(self._pool, policy=self.policy, n_features=N_FEATURES, **prior)
        stored = self._read(await _SQL.read_policy(self._pool, policy=self.policy))
        is_lost = n_updates is None and posterior.n_updates > 0
        return await self._replace(posterior.n_updates) if stored is None or is_lost else stored

    async def lock(self, connection: Any) -> Posterior | None:
        """The stored posterior, locked for an update in the connection's transaction.

        None if it cannot be read: the next call of `newer_than` replaces it, and learns from the log of decisions
        what could not be learned meanwhile.
        """
        return self._read(await _SQL.lock_policy(connection, policy=self.policy))

    async def save(self, connection: Any, posterior: Posterior) -> None:
        """Store an updated posterior under the lock; raises ValueError if it has a fault."""
        if fault := posterior.fault:
            raise ValueError(fault)
        columns = {**_columns(posterior), "n_updates": posterior.n_updates, "updated_at": self._clock()}
        await _SQL.save_policy(connection, policy=self.policy, n_features=posterior.n_features, **columns)

    def _read(self, row: Mapping[str, Any] | None) -> Posterior | None:
        try:
            if row is None:
                raise Unreadable("policies", self.policy, "the row is gone")
            posterior = read_posterior(self.policy, row)
        except Unreadable as error:
            self._is_broken = True
            self._report(error)
            return None
        self._is_broken = False
        return posterior

    async def _replace(self, n_updates: int) -> Posterior:
        """Store the posterior that the log of decisions gives, and set aside a stored one that cannot be read.

        n_updates: of the posterior that this process has; the number identifies a posterior, so it has to grow.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            row = await _SQL.lock_policy(connection, policy=self.policy)
            try:
                if (stored := read_posterior(self.policy, row)).n_updates > 0:
                    return stored  # another process was first
            except Unreadable as error:
                aside = {"policy": self.policy, "set_aside_at": self._clock(), "reason": str(error)}
                await _SQL.set_policy_aside(connection, **aside)
            rebuilt = await self._rebuilt(connection)
            stored_updates = row["n_updates"] if row["n_updates"] < _MAX_UPDATES else 0
            n_updates = 1 + max(stored_updates, n_updates, rebuilt.n_updates)
            posterior = Posterior(rebuilt.precision, rebuilt.weighted, n_updates)
            await self.save(connection, posterior)
        log.error("the posterior of %s was rebuilt from %d decisions", self.policy, rebuilt.n_updates)
        self._is_broken = False
        return posterior

    async def _rebuilt(self, connection: Any) -> Posterior:
        """The posterior after the rewards of the newest decisions with a reaction, up to `_MAX_DECISIONS`.

        Each statement reads a bounded part of the log, so that none exceeds the time limit of a statement.
        """
        posterior, (before, before_id) = Posterior.prior(N_FEATURES), _NEWEST
        for _ in range(_MAX_READ // _BATCH_ROWS):
            page = [
                row
                async for row in _SQL.learned_decisions(
                    connection, policy=self.policy, before=before, before_id=before_id, max_rows=_BATCH_ROWS
                )
            ]
            posterior = self._updated(posterior, [row for row in page if row["is_learned"]])
            if len(page) < _BATCH_ROWS or posterior.n_updates >= _MAX_DECISIONS:
                break
            before, before_id = page[-1]["decided_at"], page[-1]["decision_id"]
        return posterior

    def _updated(self, posterior: Posterior, rows: Sequence[Mapping[str, Any]]) -> Posterior:
        features, rewards = [], []
        for row in rows:
            try:
                features.append(read_chosen(row))
            except Unreadable as error:
                self._report(error)
                continue
            rewards.append(read_reward(row))
        return posterior.updated(np.array(features), np.array(rewards)) if features else posterior


def _columns(posterior: Posterior) -> dict[str, bytes]:
    return {"precision": posterior.precision.tobytes(), "weighted": posterior.weighted.tobytes()}
