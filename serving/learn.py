"""Learning: each reaction becomes a reward, and each reward updates the policy's posterior in Postgres once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
from numpy.typing import NDArray

from contexts.postgres.sql import queries
from serving.batcher import Overloaded
from serving.metrics import Metrics
from serving.posterior_store import PosteriorStore
from serving.row_formats import Unreadable, counted_in, read_chosen, read_reward
from tips.bandit import REWARDS, Posterior
from tips.features import N_FEATURES
from tips.sets import MIN_VALID_TIPS

_SQL = queries("serving", "asyncpg")
_BATCH_ROWS = 500
_IGNORED_LOOKBACK = timedelta(days=7)
"""How far before `ignored_after` the first scan looks back; decisions older than both together stay without a
reaction."""

_COMMIT_DELAY = timedelta(minutes=10)
"""Upper bound of the time between `decided_at` of a decision and its commit."""

_MAX_WAITING_REACTIONS = 64
"""The number of reactions that wait for their turn, each in the place of a request: beyond it they are refused."""

_CLOCK_STEP = timedelta(microseconds=1)

_RANKS: Mapping[str, int] = {"ignored": 0, "dismissed": 1, "snoozed": 1, "accepted": 1, "done": 2}
"""A reaction replaces one of lower rank: any replaces `ignored`, which the service stores; `done` replaces any."""

_IMPLIED: Mapping[str, tuple[str, ...]] = {"done": ("accepted", "ignored")} | dict.fromkeys(
    ("ignored", "dismissed", "snoozed", "accepted"), ("ignored",)
)
"""The weaker reactions that a stored one includes; they change nothing and are no conflict."""


class UnknownDecision(Exception):
    """There is no such decision, or it belongs to a different user."""


class ReactionConflict(Exception):
    """A different reaction is stored, and the new one neither replaces it nor follows from it."""

    def __init__(self, stored: str, refused: str) -> None:
        rule = "nothing replaces 'done'" if stored == "done" else "only 'done' replaces it"
        super().__init__(
            f"the reaction '{stored}' is stored for this decision, and '{refused}' was not stored: {rule}"
        )
        self.stored = stored


@dataclass(frozen=True)
class StoredReaction:
    """A decision's reaction after a request. is_news: whether the request changed it."""

    decision_id: UUID
    reaction: str
    is_news: bool


class Learner:
    """One policy's posterior: read by every decision, updated by every reaction, shared by all processes."""

    def __init__(self, pool: asyncpg.Pool, policy: str, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self.policy = policy
        self.posterior = Posterior.prior(N_FEATURES)
        self._pool = pool
        self._metrics = metrics
        self._report = counted_in(metrics)
        self._posteriors = PosteriorStore(pool, policy, self._report, clock)
        self._clock = clock
        # Updates of the posterior exclude each other in Postgres; waiting here occupies no connection.
        self._update_lock = asyncio.Lock()
        self._n_reacting = 0
        self._scanned_until = datetime.min.replace(tzinfo=UTC)

    @property
    def version(self) -> str:
        """The policy's name and the number of updates of its posterior: thompson-f1@7."""
        return f"{self.policy}@{self.posterior.n_updates}"

    async def refresh(self) -> None:
        """Load the posterior if another process has updated it, or create the policy's first one.

        A stored posterior that cannot be read is replaced; until then decisions are made by the last good one.
        """
        if (stored := await self._posteriors.newer_than(self.posterior)) is not None:
            self.posterior = stored

    async def react(self, decision_id: UUID, reaction: str, user_id: str | None = None) -> StoredReaction:
        """Store a user's reaction to a tip and learn from it; the same reaction again changes nothing.

        Unless the user ignored the tip, the next request chooses among the other tips of its set, if there are some.

        Raises UnknownDecision, also if `user_id` is given and the decision belongs to a different user,
        ReactionConflict, and Overloaded if too many reactions are waiting.
        """
        if self._n_reacting > _MAX_WAITING_REACTIONS:
            raise Overloaded
        self._n_reacting += 1
        try:
            return await self._react(decision_id, reaction, user_id)
        finally:
            self._n_reacting -= 1

    async def _react(self, decision_id: UUID, reaction: str, user_id: str | None) -> StoredReaction:
        async with self._update_lock, self._pool.acquire() as connection, connection.transaction():
            row = await _SQL.lock_decision(connection, decision_id=decision_id)
            if row is None or user_id not in (None, row["user_id"]):
                raise UnknownDecision
            stored = await _SQL.read_reaction(connection, decision_id=decision_id)
            if stored is not None and _RANKS[reaction] <= _RANKS[stored["reaction"]]:
                if reaction not in (stored["reaction"], *_IMPLIED[stored["reaction"]]):
                    raise ReactionConflict(stored["reaction"], reaction)
                return StoredReaction(decision_id, stored["reaction"], is_news=False)
            await _SQL.write_reaction(
                connection,
                decision_id=decision_id,
                reaction=reaction,
                reacted_at=self._clock(),
                reward=REWARDS[reaction],
            )
            await _SQL.mark_delivered(connection, decision_id=decision_id)
            if reaction != "ignored":
                await _SQL.drop_reacted_tip(
                    connection,
                    decision_id=decision_id,
                    now=self._clock(),
                    min_tips=MIN_VALID_TIPS,
                )
            posterior = await self._learn(connection, row, reaction, stored)
        self._use(posterior)
        self._metrics.reactions.labels(reaction).inc()
        return StoredReaction(decision_id, reaction, is_news=True)

    async def ignore(self, older_than: timedelta) -> int:
        """Store the reaction `ignored` for decisions without a reaction after `older_than`; returns their number.

        The first call of a process scans a week of decisions, the following ones only those that became old enough.
        """
        now, n_ignored = self._clock(), 0
        until = now - older_than
        since = max(self._scanned_until, until - _IGNORED_LOOKBACK)
        while True:
            n_rows, n_written, since = await self._ignore_batch(now, since, until)
            n_ignored += n_written
            if n_rows < _BATCH_ROWS:
                break
        self._scanned_until = until - _COMMIT_DELAY
        return n_ignored

    async def _ignore_batch(self, now: datetime, since: datetime, until: datetime) -> tuple[int, int, datetime]:
        """One batch of `ignore`: the number of decisions read, of reactions written, and the next batch's `since`."""
        async with self._update_lock, self._pool.acquire() as connection, connection.transaction():
            rows = [
                row async for row in _SQL.lock_unreacted(connection, since=since, until=until, max_rows=_BATCH_ROWS)
            ]
            ids = [row["decision_id"] for row in rows]
            reward = REWARDS["ignored"]
            written = {
                row["decision_id"]
                async for row in _SQL.write_ignored(connection, reacted_at=now, reward=reward, decision_ids=ids)
            }
            features = self._readable([row for row in rows if row["decision_id"] in written and self._is_own(row)])
            posterior = await self._posteriors.lock(connection) if features else None
            if posterior is not None:
                posterior = posterior.updated(np.array(features), np.full(len(features), reward))
                await self._posteriors.save(connection, posterior)
        self._use(posterior)
        self._metrics.reactions.labels("ignored").inc(len(written))
        # One step back: decisions of the same instant may follow in the next batch.
        return len(rows), len(written), rows[-1]["decided_at"] - _CLOCK_STEP if rows else since

    async def _learn(
        self, connection: Any, row: Mapping[str, Any], reaction: str, previous: Mapping[str, Any] | None
    ) -> Posterior | None:
        """Update the posterior by one decision's reward, or correct that of the previous reaction."""
        features = self._readable([row] if self._is_own(row) else [])
        posterior = await self._posteriors.lock(connection) if features else None
        if posterior is None:
            return None
        reward = REWARDS[reaction]
        if previous is None or previous["reward"] is None:
            posterior = posterior.updated(np.array(features), np.array([reward]))
        else:
            posterior = posterior.corrected(features[0], reward - read_reward(previous))
        await self._posteriors.save(connection, posterior)
        return posterior

    def _is_own(self, row: Mapping[str, Any]) -> bool:
        """Whether this policy made a decision; other policies have other features."""
        return str(row["policy_version"]).rpartition("@")[0] == self.policy

    def _readable(self, rows: Iterable[Mapping[str, Any]]) -> list[NDArray[np.float64]]:
        """The features that decisions chose; nothing is learned from a decision that cannot be read."""
        features = []
        for row in rows:
            try:
                features.append(read_chosen(row))
            except Unreadable as error:
                self._report(error)
        return features

    def _use(self, posterior: Posterior | None) -> None:
        """Decide by this posterior, unless a newer one is in use."""
        if posterior is not None and posterior.n_updates > self.posterior.n_updates:
            self.posterior = posterior
