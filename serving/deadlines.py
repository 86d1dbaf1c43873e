"""A time limit for many futures at the cost of one timer."""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import Any


class Deadlines:
    """Fails each future with TimeoutError that has no result after `limit_s`.

    All futures have the same limit, so they reach it in the order in which they were added, and one timer, for the
    oldest, is enough. A timer for each request costs several microseconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._deadlines: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, future: asyncio.Future[Any]) -> None:
        """Limit the time of a future from now on."""
        loop = future.get_loop()
        self._deadlines[future] = loop.time() + self._limit_s
        if self._timer is None:
            self._timer = loop.call_later(self._limit_s, self._expire, loop)

    def remove(self, future: asyncio.Future[Any]) -> None:
        """Forget a future."""
        self._deadlines.pop(future, None)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Fail the futures that have reached their deadline, and set the timer to the next one."""
        now = loop.time()
        for future in list(takewhile(lambda each: self._deadlines[each] <= now, self._deadlines)):
            del self._deadlines[future]
            if not future.done():
                future.set_exception(TimeoutError())
        oldest = next(iter(self._deadlines.values()), None)
        self._timer = None if oldest is None else loop.call_at(oldest, self._expire, loop)
