"""A bound for long pieces of work that are under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.batcher import Overloaded

_WEIGHT = 0.1
"""Weight of the last piece of work in the mean time for which a slot is occupied."""


class Slots:
    """A fixed number of slots; a caller waits until one is free, unless the wait would take too long.

    The wait is estimated from the number of waiting callers and the mean time for which a slot was occupied.
    """

    def __init__(self, n_slots: int, max_wait_s: float) -> None:
        self._n_slots = n_slots
        self._max_wait_s = max_wait_s
        self._free = asyncio.Semaphore(n_slots)
        self._n_waiting = 0
        self._mean_s = 0.0

    @property
    def n_waiting(self) -> int:
        """The number of callers that wait for a slot."""
        return self._n_waiting

    @asynccontextmanager
    async def occupied(self) -> AsyncIterator[None]:
        """Occupy a slot during the block; raises Overloaded, at the latest after `max_wait_s`, if none is free."""
        await self._acquire()
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        try:
            yield
        finally:
            self._mean_s += _WEIGHT * (loop.time() - started_at - self._mean_s)
            self._free.release()

    async def _acquire(self) -> None:
        if self._free.locked() and self._n_waiting * self._mean_s > self._max_wait_s * self._n_slots:
            raise Overloaded
        self._n_waiting += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise Overloaded from None
        finally:
            self._n_waiting -= 1
