"""Retention: decisions, candidates and calls of the LLM that nothing needs any more are deleted in small batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from contexts.assembly.store import reactions_since
from contexts.postgres.sql import queries
from serving.metrics import Metrics

_SQL = queries("serving", "asyncpg")

_BATCH_ROWS = 1000
_MAX_BATCHES = 20
"""The greatest number of batches of a table in one sweep, so that a first sweep of years of rows is spread out."""

_LATE_REACTION_DAYS = 2
"""Days for which reactions are kept longer than contexts count them: a run may have begun before midnight."""

_KEPT_TIP_DAYS = 7
"""Days for which candidates are kept longer than decisions: tips are kept from set to set for so long at most."""

_FULL_PASS = timedelta(days=1)
"""Time between two passes over the candidate sets that are kept although they are old."""


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
            "candidate_sets": 0,
        }
        if not 0 * _FULL_PASS <= now - self._sets_passed_at < _FULL_PASS:
            n_deleted["candidate_sets"] = await self._delete(
                "candidate_sets", _SQL.delete_candidates, before=sets_before
            )
            if n_deleted["candidate_sets"] < _BATCH_ROWS * _MAX_BATCHES:
                self._sets_passed_at = now
        return n_deleted

    async def _delete(self, table: str, statement: Callable[..., Any], **values: Any) -> int:
        """Delete rows of one table; 0 while another process deletes."""
        n_deleted = 0
        for _ in range(_MAX_BATCHES):
            async with self._pool.acquire() as connection, connection.transaction():
                if not await _SQL.try_transaction_lock(connection, name="retention"):
                    break
                n_rows = await statement(connection, max_rows=_BATCH_ROWS, **values)
            n_deleted += n_rows
            self._metrics.deleted_rows.labels(table).inc(n_rows)
            if n_rows < _BATCH_ROWS:
                break
        return n_deleted
