"""Decisions whose answer reached nobody: they are marked in the log, so that nothing is learned from them."""

from __future__ import annotations

import asyncio
import logging
from itertools import islice
from uuid import UUID

import asyncpg

from contexts.postgres.sql import queries
from serving.metrics import Metrics
from serving.pools import DATABASE_ERRORS

log = logging.getLogger(__name__)

_SQL = queries("serving", "asyncpg")
_BATCH_ROWS = 1000

_MAX_MARKS = 50_000
"""Number of marks that wait for Postgres at most; more are dropped and counted."""

_MAX_DELAY_S = 60.0
"""Time after which a decision that is not in the log is taken for one that was never written."""


class Deliveries:
    """Collects the decisions that were logged but not delivered, and marks them in the background.

    A decision is logged before it is answered, so the log has it even if the client leaves meanwhile. Marks wait here
    while Postgres does not answer.
    """

    def __init__(self, pool: asyncpg.Pool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics
        self._marks: dict[UUID, float] = {}  # until when to look for the decision, in the loop's time

    @property
    def n_waiting(self) -> int:
        """The number of marks that are not stored yet."""
        return len(self._marks)

    def undelivered(self, decision_id: UUID) -> None:
        """Mark a decision, soon: its client left, its request took too long, or sending its answer failed.

        Also for a decision that may not have been written.
        """
        if len(self._marks) >= _MAX_MARKS:
            self._metrics.undelivered.labels("dropped").inc()
            return
        self._marks[decision_id] = asyncio.get_running_loop().time() + _MAX_DELAY_S

    async def flush(self) -> None:
        """Store all marks; those that fail, and those of decisions that are not written yet, stay for the next call.

        Raises the errors of asyncpg.
        """
        marks = iter(list(self._marks))
        while batch := list(islice(marks, _BATCH_ROWS)):
            await self._store(batch)

    async def close(self, timeout_s: float) -> None:
        """Store the remaining marks, for at most `timeout_s`; log how many are lost."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.flush()
        except DATABASE_ERRORS:
            log.error("%d undelivered decisions are not marked: Postgres did not answer", len(self._marks))
            return
        if self._marks:
            log.warning("%d decisions are not marked as undelivered: they are not in the log", len(self._marks))

    async def _store(self, decision_ids: list[UUID]) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            found = {row["decision_id"] async for row in _SQL.lock_decisions(connection, decision_ids=decision_ids)}
            await _SQL.mark_undelivered(connection, decision_ids=list(found))
        now = asyncio.get_running_loop().time()
        for decision_id in decision_ids:
            if decision_id in found or self._marks.get(decision_id, now) < now:
                self._marks.pop(decision_id, None)
        self._metrics.undelivered.labels("marked").inc(len(found))
