"""Events of Todoist's webhooks in Postgres, written in batches over a connection of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg

from contexts.clock import CLOCK_DIFFERENCE
from contexts.postgres.sql import queries
from contexts.todoist.webhooks import TodoistEvent
from serving.batcher import Batcher
from serving.pools import create_pool

_SQL = queries("events", "asyncpg")
_WRITE_EVENTS: str = _SQL.write_events.sql

_MAX_BATCH = 256
_MAX_QUEUED = 2048
_TIMEOUT_S = 5.0
"""Upper bound for a statement: Todoist does not say how long it waits for an answer."""

_MAX_WAIT_S = 2.0
_PAUSES_S = (0.05, 0.2)


class EventStore:
    """The table of pending events, and the time of the last delivery."""

    def __init__(self, pool: asyncpg.Pool, clock: Callable[[], datetime]) -> None:
        self._pool = pool
        self._clock = clock
        self._writes: Batcher[TodoistEvent, str] = Batcher(
            self._write, max_items=_MAX_BATCH, max_queued=_MAX_QUEUED, max_wait_s=_MAX_WAIT_S, is_at_fault=_is_refused
        )

    @property
    def n_waiting(self) -> int:
        """The number of events that wait for a statement."""
        return self._writes.n_waiting

    async def write(self, event: TodoistEvent) -> str:
        """Store an event for every user with its owner's account, and return `stored`, `older` or `foreign`.

        When this returns, the event survives a crash. Raises Overloaded, and the errors of asyncpg.
        """
        return await self._writes.submit(event)

    async def note_delivery(self) -> None:
        """Note that the webhooks have delivered something now. Raises the errors of asyncpg."""
        await _SQL.note_delivery(self._pool, delivered_at=self._clock(), clock_difference=CLOCK_DIFFERENCE)

    async def close(self) -> None:
        """Wait for the events that are being written."""
        await self._writes.close()

    async def _write(self, events: Sequence[TodoistEvent]) -> list[str]:
        """Write a batch: the forms of one object in the order in which they came, all others in one statement."""
        outcomes = dict[int, str]()
        rest = dict(enumerate(events))
        while rest:
            firsts = {_object_key(event): number for number, event in reversed(rest.items())}
            numbers = sorted(firsts.values())
            rows = await self._written(*_columns(numbers, events), self._clock())
            outcomes.update((row["number"], row["outcome"]) for row in rows)
            rest = {number: event for number, event in rest.items() if number not in outcomes}
        return [outcomes[number] for number in range(len(events))]

    async def _written(self, *values: object) -> list[asyncpg.Record]:
        """The rows of the statement, which is repeated if a fold holds the same rows, or the server has changed."""
        for pause_s in _PAUSES_S:
            try:
                return await self._pool.fetch(_WRITE_EVENTS, *values)  # type: ignore[no-any-return]
            except (asyncpg.DeadlockDetectedError, asyncpg.ReadOnlySQLTransactionError):  # nothing was written
                await asyncio.sleep(pause_s)  # for the other one, which waits for rows of this one
        return await self._pool.fetch(_WRITE_EVENTS, *values)  # type: ignore[no-any-return]


def _object_key(event: TodoistEvent) -> tuple[str, str, str]:
    return event.todoist_user_id, event.object_type, event.object_id


def _columns(numbers: Sequence[int], events: Sequence[TodoistEvent]) -> list[list[object]]:
    """The parameters of the statement: an array for each column, of the events with these numbers."""
    rows = [
        (
            number,
            event.todoist_user_id,
            event.object_type,
            event.object_id,
            event.event_name,
            json.dumps(event.object),
            event.is_ended,
            event.updated_at,
            event.triggered_at,
        )
        for number in numbers
        for event in [events[number]]
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def _is_refused(error: Exception) -> bool:
    """Whether Postgres or its driver refused a value, so that other events may be accepted."""
    return isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError | ValueError)


@asynccontextmanager
async def open_event_store(url: str, clock: Callable[[], datetime]) -> AsyncIterator[EventStore]:
    """A store with a connection of its own, so that events and requests for tips do not wait for each other."""
    async with create_pool(url, n_connections=1, timeout_s=_TIMEOUT_S) as pool:
        store = EventStore(pool, clock)
        try:
            yield store
        finally:
            await store.close()
