"""A compressed week: events run in order, as fast as possible, under a simulated clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from multiprocessing import get_context
from typing import Any

from benchmarks.output import PrintLine

Action = Callable[[], Awaitable[None]]
"""Runs one event."""


class SimulatedClock:
    """A clock that one process sets and several processes read; it never goes back."""

    def __init__(self, at: datetime) -> None:
        self._seconds = get_context("spawn").Value("d", at.timestamp())

    def now(self) -> datetime:
        """The simulated time, aware UTC."""
        return datetime.fromtimestamp(self._seconds.value, UTC)

    def advance(self, at: datetime) -> None:
        """Set the clock to `at`, unless it is later already."""
        self._seconds.value = max(self._seconds.value, at.timestamp())


@dataclass(frozen=True, order=True)
class _Event:
    at: datetime
    number: int
    action: Action = field(compare=False)


class Timeline:
    """Events in order of time; events at the same instant run in the order in which they were scheduled.

    print_line: prints the name of each day.
    """

    def __init__(self, clock: SimulatedClock, print_line: PrintLine) -> None:
        self._clock = clock
        self._print_line = print_line
        self._events: list[_Event] = []
        self._numbers = count()

    def schedule(self, at: datetime, action: Action) -> None:
        """Add an event."""
        heappush(self._events, _Event(at, next(self._numbers), action))

    def now(self) -> datetime:
        """The simulated time."""
        return self._clock.now()

    async def run(self, waiting_users: WaitingUsers) -> None:
        """Run all events, including events that are added meanwhile.

        Requests that are older than `waiting_users.max_wait` are answered before the clock advances.
        """
        while self._events or waiting_users.is_waiting:
            if not self._events:
                await waiting_users.wait()
                continue
            await waiting_users.wait(asked_before=self._events[0].at - waiting_users.max_wait)
            event = heappop(self._events)
            if event.at.date() > self._clock.now().date():
                self._print_line(f"  {event.at:%A}")
            self._clock.advance(event.at)
            await event.action()


class WaitingUsers:
    """Users with a request in progress, a limited number at once and one request each.

    In production the next request comes minutes later. Therefore the next user waits a moment for a quick answer to
    the previous one, but slow answers, which need an LLM, overlap.

    max_users: maximum number of requests in progress.
    max_wait: maximum age of a request in progress, in simulated time.
    head_start_s: seconds for which a new request runs before the next one.
    """

    def __init__(self, group: asyncio.TaskGroup, *, max_users: int, max_wait: timedelta, head_start_s: float) -> None:
        self.max_wait = max_wait
        self._group = group
        self._semaphore = asyncio.Semaphore(max_users)
        self._head_start_s = head_start_s
        self._requests: dict[str, tuple[datetime, asyncio.Task[None]]] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether any request is in progress."""
        return bool(self._requests)

    async def ask(self, user_id: str, at: datetime, request: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a user's request when a place is free and the user's previous request is answered."""
        if user_id in self._requests:
            await asyncio.wait({self._requests[user_id][1]})
        await self._semaphore.acquire()
        task = self._group.create_task(request())
        self._requests[user_id] = at, task
        task.add_done_callback(lambda _: self._remove(user_id))
        await asyncio.wait({task}, timeout=self._head_start_s)

    async def wait(self, asked_before: datetime | None = None) -> None:
        """Wait until all requests are answered, or all requests from before an instant."""
        tasks = {task for at, task in self._requests.values() if asked_before is None or at < asked_before}
        if tasks:
            await asyncio.wait(tasks)

    def _remove(self, user_id: str) -> None:
        del self._requests[user_id]
        self._semaphore.release()
