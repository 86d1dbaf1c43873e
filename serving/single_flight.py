"""Work that runs once for many callers: shared tasks within a process, advisory locks across processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

import asyncpg

from contexts.postgres.sql import queries
from serving.pools import create_pool

_SQL = queries("serving", "asyncpg")
_POLL_S = 0.05

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Running tasks by key: a caller with the key of a running task gets its result."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    async def join(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the task with this key; the task continues if the caller is cancelled."""
        return await asyncio.shield(self.start(key, work))

    def start(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """The task with this key, started unless it is running."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(_awaited(work))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._remove(key, done))
        return task

    async def cancel(self) -> None:
        """Cancel all running tasks and wait for their end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _remove(self, key: Hashable, task: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # read it, or asyncio reports it as never retrieved


class AdvisoryLocks:
    """Postgres advisory locks by name, all on one connection: waiting for a lock occupies no other connection.

    Within a process a name must have at most one caller at a time; `SingleFlight` ensures it.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        """pool: has one connection, which is not reset when it is returned."""
        self._pool = pool

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
        """Hold a lock; waits for it without a limit of its own."""
        try:
            while not await _SQL.try_lock(self._pool, name=name):
                await asyncio.sleep(_POLL_S)
            yield
        finally:  # also after a cancelled wait: Postgres may have granted the lock just then
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                # A lost connection has released its locks.
                await asyncio.shield(_SQL.unlock(self._pool, name=name))


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
