"""A week compressed: what happens is done in its order, and a clock shows when it happened."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from multiprocessing import get_context
from typing import Any

Act = Callable[[], Awaitable[None]]
Say = Callable[[str], None]


class Clock:
    """A clock that several processes read and one sets; it never goes back."""

    def __init__(self, at: datetime) -> None:
        self._seconds = get_context("spawn").Value("d", at.timestamp())

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._seconds.value, UTC)

    def advance(self, at: datetime) -> None:
        """Let it show `at`, if that is later than what it shows."""
        self._seconds.value = max(self._seconds.value, at.timestamp())


@dataclass(frozen=True, order=True)
class _Event:
    at: datetime
    number: int
    act: Act = field(compare=False)


class Timeline:
    """What is to happen; of equal instants, what was planned first comes first. say: is told each day's name."""

    def __init__(self, clock: Clock, say: Say) -> None:
        self._clock = clock
        self._say = say
        self._events: list[_Event] = []
        self._numbers = count()

    def plan(self, at: datetime, act: Act) -> None:
        heappush(self._events, _Event(at, next(self._numbers), act))

    async def play(self, crowd: Crowd) -> None:
        """Do it all, also what is planned meanwhile; whoever asked long ago is answered before the clock goes on."""
        while self._events or crowd.is_waiting:
            if not self._events:
                await crowd.answered()
                continue
            await crowd.answered(asked_before=self._events[0].at - crowd.span)
            event = heappop(self._events)
            if event.at.date() > self._clock.now().date():
                self._say(f"  {event.at:%A}")
            self._clock.advance(event.at)
            await event.act()


class Crowd:
    """Those who wait for an answer, at most so many at once and each for one answer only.

    span: of the timeline, in which they asked; patience: seconds for which nobody else asks. A quick answer is given
    to one person alone, as in life, where the next request comes minutes later; whoever waits for an LLM does so
    beside others.
    """

    def __init__(self, group: asyncio.TaskGroup, *, at_most: int, span: timedelta, patience: float) -> None:
        self.span = span
        self._group = group
        self._gate = asyncio.Semaphore(at_most)
        self._patience = patience
        self._waiting: dict[str, tuple[datetime, asyncio.Task[None]]] = {}

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    async def ask(self, user_id: str, at: datetime, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let a user ask, as soon as there is room and an earlier request of theirs is answered."""
        if user_id in self._waiting:
            await asyncio.wait({self._waiting[user_id][1]})
        await self._gate.acquire()
        task = self._group.create_task(work())
        self._waiting[user_id] = at, task
        task.add_done_callback(lambda _: self._leave(user_id))
        await asyncio.wait({task}, timeout=self._patience)

    async def answered(self, asked_before: datetime | None = None) -> None:
        """Wait until all are answered, or all who asked before an instant."""
        tasks = {task for at, task in self._waiting.values() if asked_before is None or at < asked_before}
        if tasks:
            await asyncio.wait(tasks)

    def _leave(self, user_id: str) -> None:
        del self._waiting[user_id]
        self._gate.release()
