"""What a policy learns: reactions become rewards, rewards move the posterior in Postgres, once each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
from numpy.typing import NDArray

from contexts.sql import queries
from serving.bandit import REWARDS, Posterior
from serving.features import N_FEATURES
from serving.metrics import Metrics

_SQL = queries("serving", "asyncpg")
_MOST = 500
_REACH = timedelta(days=7)
_LATE = timedelta(minutes=10)
"""Longer than it can take until a decision stands in the log under the time at which it was made."""

_TICK = timedelta(microseconds=1)

RANKS: Mapping[str, int] = {"ignored": 0, "dismissed": 1, "snoozed": 1, "accepted": 1, "done": 2}
"""A reaction gives way to one of higher rank: `ignored`, which writes itself, to any, and any to `done`."""


class UnknownDecision(Exception):
    """There is no such decision, or it is not this user's."""


class ReactionConflict(Exception):
    """Another reaction of the same rank stands."""

    def __init__(self, standing: str) -> None:
        super().__init__(f"this decision was '{standing}' already")
        self.standing = standing


@dataclass(frozen=True)
class Reacted:
    """What stands after a reaction was told. is_news: whether it was not known before."""

    decision_id: UUID
    reaction: str
    is_news: bool


class Learner:
    """One policy's posterior: read by every decision, moved by every reaction, shared by all processes."""

    def __init__(self, pool: asyncpg.Pool, policy: str, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self.policy = policy
        self.posterior = Posterior.prior(N_FEATURES)
        self._pool = pool
        self._metrics = metrics
        self._clock = clock
        # Only one can move the posterior at a time: the others wait here, and not each with a connection of its own.
        self._one = asyncio.Lock()
        self._looked_until = datetime.min.replace(tzinfo=UTC)

    @property
    def version(self) -> str:
        """The policy and how many updates its posterior has seen."""
        return f"{self.policy}@{self.posterior.n_updates}"

    async def refresh(self) -> None:
        """Take over what other processes have learned."""
        if await _SQL.read_policy_updates(self._pool, policy=self.policy) == self.posterior.n_updates:
            return
        row = await _SQL.read_policy(self._pool, policy=self.policy)
        if row is None:
            prior = _columns(Posterior.prior(N_FEATURES))
            await _SQL.add_policy(self._pool, policy=self.policy, n_features=N_FEATURES, **prior)
            row = await _SQL.read_policy(self._pool, policy=self.policy)
        self.posterior = Posterior.stored(**dict(row))

    async def react(self, decision_id: UUID, reaction: str, user_id: str | None = None) -> Reacted:
        """Store what a user made of a tip, and learn from it; told again it changes nothing.

        Raises UnknownDecision (also for another user's, where `user_id` is given) and ReactionConflict.
        """
        async with self._one, self._pool.acquire() as connection, connection.transaction():
            row = await _SQL.lock_decision(connection, decision_id=decision_id)
            if row is None or user_id not in (None, row["user_id"]):
                raise UnknownDecision
            standing = await _SQL.read_reaction(connection, decision_id=decision_id)
            if standing is not None and RANKS[reaction] <= RANKS[standing["reaction"]]:
                if reaction != standing["reaction"] and RANKS[reaction] == RANKS[standing["reaction"]]:
                    raise ReactionConflict(standing["reaction"])
                return Reacted(decision_id, standing["reaction"], is_news=False)
            await _SQL.write_reaction(
                connection,
                decision_id=decision_id,
                reaction=reaction,
                reacted_at=self._clock(),
                reward=REWARDS[reaction],
            )
            learned = await self._learn(connection, row, reaction, standing["reward"] if standing else None)
        self._take(learned)
        self._metrics.reactions.labels(reaction).inc()
        return Reacted(decision_id, reaction, is_news=True)

    async def ignore(self, older_than: timedelta) -> int:
        """Write `ignored` for decisions that nobody reacted to for so long; gives how many.

        A process looks through the last week once, and from then on only at what has become old enough since.
        """
        now, n = self._clock(), 0
        until = now - older_than
        since = max(self._looked_until, until - _REACH)
        while True:
            n_rows, n_news, since = await self._ignore_some(now, since, until)
            n += n_news
            if n_rows < _MOST:
                break
        self._looked_until = until - _LATE
        return n

    async def _ignore_some(self, now: datetime, since: datetime, until: datetime) -> tuple[int, int, datetime]:
        """How many decisions were found, of how many it was news, and from when on to look further."""
        async with self._one, self._pool.acquire() as connection, connection.transaction():
            rows = [row async for row in _SQL.lock_unanswered(connection, since=since, until=until, most=_MOST)]
            ids = [row["decision_id"] for row in rows]
            reward = REWARDS["ignored"]
            news = {
                row["decision_id"]
                async for row in _SQL.write_ignored(connection, reacted_at=now, reward=reward, decision_ids=ids)
            }
            seen = [_seen(row) for row in rows if row["decision_id"] in news and self._is_ours(row)]
            posterior = await self._locked(connection) if seen else None
            if posterior is not None:
                posterior = posterior.updated(np.array(seen), np.full(len(seen), reward))
                await self._save(connection, posterior)
        self._take(posterior)
        self._metrics.reactions.labels("ignored").inc(len(news))
        return len(rows), len(news), rows[-1]["decided_at"] - _TICK if rows else since

    async def _learn(
        self, connection: Any, row: Mapping[str, Any], reaction: str, former: float | None
    ) -> Posterior | None:
        """Move the posterior by one decision's reward, or by what the former reward lacks."""
        if not self._is_ours(row):
            return None
        posterior, seen, reward = await self._locked(connection), _seen(row), REWARDS[reaction]
        if former is None:
            posterior = posterior.updated(seen[None, :], np.array([reward]))
        else:
            posterior = posterior.corrected(seen, reward - former)
        await self._save(connection, posterior)
        return posterior

    def _is_ours(self, row: Mapping[str, Any]) -> bool:
        """Whether a decision was made by this policy: another one saw other features."""
        return str(row["policy_version"]).rpartition("@")[0] == self.policy

    async def _locked(self, connection: Any) -> Posterior:
        return Posterior.stored(**dict(await _SQL.lock_policy(connection, policy=self.policy)))

    async def _save(self, connection: Any, posterior: Posterior) -> None:
        columns = {**_columns(posterior), "n_updates": posterior.n_updates, "updated_at": self._clock()}
        await _SQL.save_policy(connection, policy=self.policy, **columns)

    def _take(self, posterior: Posterior | None) -> None:
        if posterior is not None and posterior.n_updates > self.posterior.n_updates:
            self.posterior = posterior


def _columns(posterior: Posterior) -> dict[str, bytes]:
    return {"precision": posterior.precision.tobytes(), "weighted": posterior.weighted.tobytes()}


def _seen(row: Mapping[str, Any]) -> NDArray[np.float64]:
    """The features of the chosen candidate, shape (n_features,)."""
    matrix = np.frombuffer(row["features"], np.float32).reshape(row["n_candidates"], -1)
    return np.asarray(matrix[row["chosen"]], np.float64)
