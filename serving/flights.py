"""Work that must be done once however many ask: in this process by joining, across processes by a lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

import asyncpg

from contexts.sql import queries

_SQL = queries("serving", "asyncpg")
_POLL_SECONDS = 0.05

T = TypeVar("T")


class Flights(Generic[T]):
    """Tasks under way, by key: who asks while one is under way gets its result."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[T]] = {}

    async def join(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the task of this key; it goes on when whoever asked gives up."""
        return await asyncio.shield(self.start(key, work))

    def start(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """The task of this key, begun if it is not under way."""
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.ensure_future(_awaited(work))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    async def cancel(self) -> None:
        """End all that is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, key: Hashable, task: asyncio.Task[T]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # read, or asyncio reports it as never retrieved


class Locks:
    """Advisory locks of Postgres by name, all on one connection: waiting for one holds no other connection.

    Whoever holds a lock of a name in this process must be the only one to ask for it; `Flights` sees to that.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        """pool: of one connection that is not reset when it is given back."""
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, *, timeout: float) -> AsyncIterator[Locks]:
        """Locks over a connection of their own, which is made anew when it breaks.

        A lock belongs to the connection that took it, so the pool has one and leaves it as it is when it comes back.
        """
        patience = {"command_timeout": timeout, "timeout": timeout}
        async with asyncpg.create_pool(url, min_size=1, max_size=1, reset=_as_it_is, **patience) as pool:
            yield cls(pool)

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Hold the lock, waited for as long as the caller's own time allows."""
        try:
            while not await _SQL.try_lock(self._pool, name=name):
                await asyncio.sleep(_POLL_SECONDS)
            yield
        finally:  # also where the wait was given up: Postgres may just have said yes
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                # A connection that is lost has given its locks back.
                await asyncio.shield(_SQL.unlock(self._pool, name=name))


async def _as_it_is(_: object) -> None:
    """Keep what the connection holds."""


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
