"""Work that runs once for many callers: shared tasks within a process, advisory locks across processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import asyncpg

from contexts.postgres.sql import queries
from serving.batcher import Batcher
from serving.pools import DATABASE_ERRORS, create_pool

_SQL = queries("serving", "asyncpg")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_MAX_NAMES = 256
_NO_LIMIT_S = 1e6

T = TypeVar("T")


@dataclass
class _Flight(Generic[T]):
    """A running task. is_kept: it goes on without callers; is_ending: it was cancelled, and cannot be joined."""

    task: asyncio.Task[T]
    n_callers: int = 0
    is_kept: bool = False
    is_ending: bool = False


class SingleFlight(Generic[T]):
    """Running tasks by key: a caller with the key of a running task gets its result.

    A task that all its callers have left is cancelled, unless it was started without a caller or is kept.
    """

    def __init__(self, *, max_started: int | None = None) -> None:
        """max_started: number of running tasks at which `start` starts no more."""
        self._flights: dict[Hashable, _Flight[T]] = {}
        self._max_started = max_started

    @property
    def n_running(self) -> int:
        """The number of running tasks."""
        return len(self._flights)

    async def join(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the task with this key, started unless it is running."""
        while (flight := self._flights.get(key)) is not None and flight.is_ending:
            await asyncio.wait([flight.task])
        flight = flight or self._launch(key, work)
        flight.n_callers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.n_callers -= 1
            self._end_if_left(flight)

    def start(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> bool:
        """Start a task with this key in the background, unless it is running; False if `max_started` others are."""
        if key not in self._flights:
            if self._max_started is not None and len(self._flights) >= self._max_started:
                return False
            self._launch(key, work).is_kept = True
        return True

    def n_callers(self, key: Hashable) -> int:
        """The number of callers that wait for the running task with this key."""
        flight = self._flights.get(key)
        return flight.n_callers if flight else 0

    def keep(self, key: Hashable) -> None:
        """Let the running task with this key go on to its end, even if all its callers leave."""
        if flight := self._flights.get(key):
            flight.is_kept = True

    async def cancel(self) -> None:
        """Cancel all running tasks and wait for their end."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _launch(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> _Flight[T]:
        flight = self._flights[key] = _Flight(asyncio.ensure_future(_awaited(work)))
        flight.task.add_done_callback(lambda done: self._remove(key, done))
        return flight

    def _end_if_left(self, flight: _Flight[T]) -> None:
        if flight.n_callers == 0 and not flight.is_kept and not flight.task.done():
            flight.is_ending = flight.task.cancel()

    def _remove(self, key: Hashable, task: asyncio.Task[T]) -> None:
        del self._flights[key]
        if not task.cancelled():
            task.exception()  # read it, or asyncio reports it as never retrieved


class AdvisoryLocks:
    """Postgres advisory locks by name, all on one connection: waiting for a lock occupies no other connection.

    However many callers wait, one statement at a time tries their locks.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        """pool: has one connection, which is not reset when it is returned."""
        self._pool = pool
        self._names: set[str] = set()  # of the locks that callers in this process try, hold or release
        self._tries = Batcher(self._try, max_items=_MAX_NAMES)
        self._releases = Batcher(self._release, max_items=_MAX_NAMES, max_wait_s=_NO_LIMIT_S)

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, *, timeout_s: float) -> AsyncIterator[AdvisoryLocks]:
        """Locks on a connection of their own, replaced when it breaks.

        A lock belongs to the connection that acquired it, so the pool has a single one.
        """
        async with create_pool(url, n_connections=1, timeout_s=timeout_s) as pool:
            yield cls(pool)

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Hold a lock; waits for it without a limit of its own. Raises Overloaded if too many locks are tried."""
        pauses_s = _pauses_s()
        while name in self._names:  # Postgres grants a session the same lock twice
            await asyncio.sleep(next(pauses_s))
        self._names.add(name)
        try:
            while not await self._tries.submit(name):
                await asyncio.sleep(next(pauses_s))
            yield
        finally:  # also after a cancelled wait: Postgres may have granted the lock just then
            release = asyncio.ensure_future(self._releases.submit(name))
            # Only then may another caller try the lock: this release would take it away.
            release.add_done_callback(lambda _: self._names.discard(name))
            await asyncio.shield(release)

    async def _try(self, names: Sequence[str]) -> Sequence[bool]:
        held = {row["name"]: row["is_held"] async for row in _SQL.try_locks(self._pool, names=names)}
        return [held[name] for name in names]

    async def _release(self, names: Sequence[str]) -> Sequence[None]:
        try:
            async for _ in _SQL.unlock(self._pool, names=names):
                pass
        except DATABASE_ERRORS:
            # A lost connection has released its locks. One that did not answer must not keep them.
            await self._pool.expire_connections()
        return [None] * len(names)


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


def _pauses_s() -> Iterator[float]:
    """Seconds between two tries of a lock: longer and longer."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
