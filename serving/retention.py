"""Retention: decisions, candidates, calls of the LLM and events that nothing needs are deleted in small batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from contexts.assembly.store import reactions_since
from contexts.postgres.sql import queries
from serving.metrics import Metrics

_SQL = queries("serving", "asyncpg")

_BATCH_ROWS = 1000
_MAX_BATCHES = 20
"""The greatest number of batches of a table in one sweep, so that a first sweep of years of rows is spread out."""

_READ_SETS = 2000
"""The greatest number of old candidate sets that one statement reads; many may have to stay, one of each user."""

_LATE_REACTION_DAYS = 2
"""Days for which reactions are kept longer than contexts count them: a run may have begun before midnight."""

_KEPT_TIP_DAYS = 7
"""Days for which candidates are kept longer than decisions: tips are kept from set to set for so long at most."""

_EVENT_PERIOD = timedelta(days=30)
"""Events that were not folded in this time are deleted: their users are not fetched, or events are off by now."""

_FULL_PASS = timedelta(days=1)
"""Time between two passes over the candidate sets that are kept although they are old."""

_FIRST_SET = datetime.min.replace(tzinfo=UTC), UUID(int=0)
"""A position before all candidate sets: (made_at, candidate_set_id)."""


@dataclass(frozen=True)
class Periods:
    """The numbers of days for which rows are kept. reaction_days: those for which contexts count reactions."""

    decision_days: int
    llm_call_days: int
    reaction_days: int


class Retention:
    """Deletes old rows; one process at a time, and never for long in one transaction."""

    def __init__(self, pool: asyncpg.Pool, periods: Periods, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self._pool = pool
        self._periods = periods
        self._metrics = metrics
        self._clock = clock
        self._sets_passed_at = datetime.min.replace(tzinfo=UTC)
        self._last_set = _FIRST_SET  # the last set that the present pass has read

    async def sweep(self) -> Mapping[str, int]:
        """Delete old rows, up to `_MAX_BATCHES` batches of each table; returns the numbers of rows by table.

        Kept are decisions with a reaction that contexts count, each user's newest candidates, and the candidates of
        decisions that are kept.
        """
        now, periods = self._clock(), self._periods
        decided_before = now - timedelta(days=periods.decision_days)
        reacted_since = reactions_since(now, periods.reaction_days + _LATE_REACTION_DAYS)
        sets_before = decided_before - timedelta(days=_KEPT_TIP_DAYS)
        n_deleted = {
            "decisions": await self._delete(
                "decisions", _SQL.delete_decisions, before=decided_before, reacted_since=reacted_since
            ),
            "llm_calls": await self._delete(
                "llm_calls", _SQL.delete_llm_calls, before=now - timedelta(days=periods.llm_call_days)
            ),
            "todoist_events": await self._delete("todoist_events", _SQL.delete_events, before=now - _EVENT_PERIOD),
            "candidate_sets": 0,
        }
        if not timedelta(0) <= now - self._sets_passed_at < _FULL_PASS:
            n_deleted["candidate_sets"] = await self._delete_sets(sets_before, now)
        return n_deleted

    async def _delete(self, table: str, statement: Callable[..., Any], **values: Any) -> int:
        """Delete rows of one table; 0 while another process deletes."""
        n_deleted = 0
        for _ in range(_MAX_BATCHES):
            n_rows = await self._run(statement, max_rows=_BATCH_ROWS, **values)
            n_deleted += n_rows or 0
            self._metrics.deleted_rows.labels(table).inc(n_rows or 0)
            if n_rows is None or n_rows < _BATCH_ROWS:
                break
        return n_deleted

    async def _delete_sets(self, before: datetime, now: datetime) -> int:
        """Delete candidate sets after the position of the last sweep; a pass ends when all old sets were read."""
        n_deleted = 0
        for _ in range(_MAX_BATCHES):
            made_at, set_id = self._last_set
            row = await self._run(
                _SQL.delete_candidates, before=before, after_made_at=made_at, after_id=set_id, max_rows=_READ_SETS
            )
            if row is None:
                break
            n_deleted += row["n_deleted"]
            self._metrics.deleted_rows.labels("candidate_sets").inc(row["n_deleted"])
            if row["n_read"] < _READ_SETS:
                self._last_set, self._sets_passed_at = _FIRST_SET, now
                break
            self._last_set = row["last_made_at"], row["last_id"]
        return n_deleted

    async def _run(self, statement: Callable[..., Any], **values: Any) -> Any:
        """The result of a statement; None if it was not tried, because another process deletes."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await _SQL.try_transaction_lock(connection, name="retention"):
                return None
            return await statement(connection, **values)
