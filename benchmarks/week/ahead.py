"""The week of this system: scheduled runs, people who ask and react, tasks that change.

Nobody asks while a scheduled run goes on: what its load does to an answer is not measured here.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.week import causes, doors, system
from benchmarks.week.measured import Answered, Week
from benchmarks.week.reactions import reaction
from benchmarks.week.system import Run, System
from benchmarks.week.timeline import Clock, Crowd, Say, Timeline
from benchmarks.week.workload import MONDAY, WARM_UP, Request, Workload
from contexts.accounts import Look

AT_MOST = 12
SPAN = timedelta(minutes=30)
PATIENCE = 0.05
IGNORED_EVERY = timedelta(minutes=30)

_REFRESHED = 0.5
"""Seconds in which a refresh behind an answer is over; meanwhile the clock does not run away."""


@dataclass(frozen=True)
class Counted:
    """Todoist calls so far: by user, and how many of them the service made."""

    by_user: Mapping[str, int]
    n_served: int


@dataclass
class Ahead:
    """The week as it is played, and what is seen of it."""

    workload: Workload
    system: System
    tasks: doors.Tasks
    timeline: Timeline
    crowd: Crowd
    answers: list[Answered] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)
    n_asked: Counter[str] = field(default_factory=Counter)

    async def play(self) -> None:
        """The warm-up and the week."""
        self._plan()
        await self.timeline.play(self.crowd)
        await self._count()

    def _plan(self) -> None:
        """All that is known beforehand."""
        plan, began, until = self.timeline.plan, MONDAY - WARM_UP, self.workload.until
        plan(MONDAY, self._count)
        for at in self.system.runs(began, until):
            plan(at, partial(self._run, at))
        for change in self.workload.changes:
            plan(change.at, partial(self.tasks.change, change))
        for request in self.workload.requests:
            plan(request.at, partial(self._ask, request))
        for n in range((until - began) // IGNORED_EVERY):
            plan(began + n * IGNORED_EVERY, self.system.ignore)

    async def _run(self, at: datetime) -> None:
        await self.crowd.answered()
        self.runs.append(await self.system.run(at))

    async def _ask(self, request: Request) -> None:
        await self.crowd.ask(request.user_id, request.at, partial(self._tip, request))

    async def _tip(self, request: Request) -> None:
        began = time.perf_counter()
        told = await self.system.tip(request.user_id)
        seconds = time.perf_counter() - began
        self.answers.append(Answered(request.at, request.user_id, seconds, told["source"], told["llm"]))
        self._plan_reaction(request, told)
        if told["source"] == "stored" and told["age_seconds"] > self.system.serving.revalidate_after.total_seconds():
            await asyncio.sleep(_REFRESHED)

    def _plan_reaction(self, request: Request, told: Mapping[str, Any]) -> None:
        self.n_asked[request.user_id] += 1
        number, kind = self.n_asked[request.user_id], told["tip"]["kind"]
        made = reaction(kind, request.user_id, number, seed=self.workload.seed)
        if made and request.at + made.after < self.workload.until:
            self.timeline.plan(request.at + made.after, partial(self.system.react, told["decision_id"], made.name))

    async def _count(self) -> None:
        await self.crowd.answered()
        self.counted.append(Counted(await self.tasks.calls(), await self.system.n_todoist_calls()))

    def week(self) -> Week:
        """What came of it, without the warm-up."""
        before, after = self.counted
        answers = [each for each in self.answers if each.at >= MONDAY]
        n_inline = sum(each.source == "inline" for each in answers)
        return Week(
            name="this system",
            n_requests=len(answers),
            answers=answers,
            todoist={
                "night": self._n_calls(Look.NIGHT),
                "between nights": self._n_calls(Look.LIKELY),
                "inline": n_inline,
                "behind an answer": after.n_served - before.n_served - n_inline,
            },
            llm=causes.called(self.system.connection),
            spared=causes.spared(self.system.connection),
            authors=causes.authors(self.system.connection),
            by_user={user: n - before.by_user.get(user, 0) for user, n in after.by_user.items()},
        )

    def _n_calls(self, look: Look) -> int:
        return sum(run.n_calls for run in self.runs if run.at >= MONDAY and run.look is look)


async def play(workload: Workload, folder: Path, say: Say) -> Week:
    """Play the week to the system, all of it anew."""
    clock = Clock(MONDAY - WARM_UP)
    async with AsyncExitStack() as stack:
        tasks = stack.enter_context(doors.todoist(workload.users))
        opened = await stack.enter_async_context(system.opened(workload, tasks.url, clock, folder))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        crowd = Crowd(group, at_most=AT_MOST, span=SPAN, patience=PATIENCE)
        ahead = Ahead(workload, opened, tasks, Timeline(clock, say), crowd)
        await ahead.play()
        return ahead.week()
