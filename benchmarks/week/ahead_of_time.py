"""The week with this system: scheduled runs, requests, reactions and changes of tasks.

No requests are made during a scheduled run, so its load does not affect the measured answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.output import PrintLine
from benchmarks.week import causes
from benchmarks.week.changes import Change
from benchmarks.week.coverage import CalibrationBin, Coverage, Forecast, calibration, measure_coverage
from benchmarks.week.measurements import TimedAnswer, WeekResult
from benchmarks.week.reactions import draw_reaction
from benchmarks.week.rules import DEFAULT_RULE, Rule
from benchmarks.week.service import set_llm_url
from benchmarks.week.stand_ins import (
    LLM_SECONDS,
    TodoistControl,
    running_batch_llm_stand_in,
    running_todoist_stand_in,
)
from benchmarks.week.system import ScheduledRun, System, running_system
from benchmarks.week.timeline import SimulatedClock, Timeline, WaitingUsers
from benchmarks.week.workload import MONDAY, WARM_UP, TipRequest, Workload
from contexts.todoist.accounts import FetchScope

MAX_WAITING_USERS = 12
MAX_WAIT = timedelta(minutes=30)
HEAD_START_S = 0.05
_IGNORE_INTERVAL = timedelta(minutes=30)

_REFRESH_PAUSE_S = 0.5
"""Seconds that a background refresh takes; the simulated clock must not advance much in this time."""

_WRITING_PAUSE_S = LLM_SECONDS + 0.3
"""Seconds in which the LLM writes behind an answer; for the same reason."""


@dataclass(frozen=True)
class TodoistCalls:
    """Todoist calls until one instant.

    by_user: all calls by user.
    n_by_service: the number of calls by the service; the others are by the pipeline.
    """

    by_user: Mapping[str, int]
    n_by_service: int


@dataclass
class AheadOfTimeWeek:
    """The running simulation and its measurements so far.

    todoist_calls: at the start and at the end of the week.
    n_tips: tips so far by user.
    """

    workload: Workload
    system: System
    todoist: TodoistControl
    timeline: Timeline
    waiting_users: WaitingUsers
    rule: Rule
    answers: list[TimedAnswer] = field(default_factory=list)
    runs: list[ScheduledRun] = field(default_factory=list)
    forecasts: list[Forecast] = field(default_factory=list)
    todoist_calls: list[TodoistCalls] = field(default_factory=list)
    n_tips: Counter[str] = field(default_factory=Counter)

    async def simulate(self) -> None:
        """Simulate the warm-up and the week."""
        self._schedule()
        await self.timeline.run(self.waiting_users)
        await self._count_todoist_calls()

    def result(self) -> WeekResult:
        """The measurements of the week, without the warm-up."""
        before, after = self.todoist_calls
        connection = self.system.connection
        answers = [answer for answer in self.answers if answer.at >= MONDAY]
        n_inline = sum(answer.source == "inline" for answer in answers)
        return WeekResult(
            name=self.rule.name,
            n_requests=len(answers),
            answers=answers,
            todoist={
                "night": self._n_pipeline_calls(FetchScope.NIGHTLY),
                "between nights": self._n_pipeline_calls(FetchScope.LIKELY),
                "inline": n_inline,
                "after an answer": after.n_by_service - before.n_by_service - n_inline,
            },
            llm=causes.llm_calls_by_cause(connection),
            saved=causes.saved_calls_by_cause(connection),
            authors=causes.tips_by_author(connection),
            by_user={user: n - before.by_user.get(user, 0) for user, n in after.by_user.items()},
        )

    def _schedule(self) -> None:
        """Add all events but reactions, which depend on the tips."""
        schedule, start, until = self.timeline.schedule, MONDAY - WARM_UP, self.workload.until
        schedule(MONDAY, self._count_todoist_calls)
        for at in self.system.run_times(start, until):
            schedule(at, partial(self._run_pipeline, at))
        users = {user.user_id: user for user in self.workload.users}
        for user_id, at in self.workload.joins.items():
            schedule(at, partial(self.system.join, users[user_id], at))
        for change in self.workload.changes:
            schedule(change.at, partial(self._apply, change))
        for request in self.workload.requests:
            schedule(request.at, partial(self._ask, request))
        for n in range((until - start) // _IGNORE_INTERVAL):
            schedule(start + n * _IGNORE_INTERVAL, self.system.mark_ignored_tips)

    async def _run_pipeline(self, at: datetime) -> None:
        await self.waiting_users.wait()
        if at >= MONDAY:
            self.forecasts.append(self.system.forecast(at))
        self.runs.append(await self.system.run_pipeline(at))

    async def _apply(self, change: Change) -> None:
        await self.todoist.apply(change)

    async def _ask(self, request: TipRequest) -> None:
        await self.waiting_users.ask(request.user_id, request.at, partial(self._answer, request))

    async def _answer(self, request: TipRequest) -> None:
        started = time.perf_counter()
        answer = await self.system.tip(request.user_id)
        seconds = time.perf_counter() - started
        self.answers.append(TimedAnswer(request.at, request.user_id, seconds, answer["source"], answer["llm"]))
        self._schedule_reaction(request, answer)
        revalidate_after = self.system.serving_settings.revalidate_after
        if answer["source"] == "stored" and answer["age_seconds"] > revalidate_after.total_seconds():
            await asyncio.sleep(_REFRESH_PAUSE_S)
        if self.rule.has_llm and self.system.has_made_a_set(answer["decision_id"]):
            await asyncio.sleep(_WRITING_PAUSE_S)

    def _schedule_reaction(self, request: TipRequest, answer: Mapping[str, Any]) -> None:
        self.n_tips[request.user_id] += 1
        number, kind = self.n_tips[request.user_id], answer["tip"]["kind"]
        reaction = draw_reaction(kind, request.user_id, number, seed=self.workload.seed)
        if reaction and request.at + reaction.delay < self.workload.until:
            react = partial(self.system.react, answer["decision_id"], reaction.name)
            self.timeline.schedule(request.at + reaction.delay, react)

    async def _count_todoist_calls(self) -> None:
        await self.waiting_users.wait()
        by_user = await self.todoist.calls_by_user()
        self.todoist_calls.append(TodoistCalls(by_user, await self.system.n_todoist_calls()))

    def _n_pipeline_calls(self, scope: FetchScope) -> int:
        return sum(run.n_todoist_calls for run in self.runs if run.at >= MONDAY and run.scope is scope)


@dataclass(frozen=True)
class RuleResult:
    """The week of this system by one rule of calling the LLM."""

    week: WeekResult
    coverage: Coverage
    calibration: Sequence[CalibrationBin]


async def simulate_ahead_of_time(
    workload: Workload, folder: Path, print_line: PrintLine, rule: Rule = DEFAULT_RULE
) -> RuleResult:
    """Simulate the week with a new system.

    folder: for the data of the system.
    """
    clock = SimulatedClock(MONDAY - WARM_UP)
    async with AsyncExitStack() as stack:
        todoist = stack.enter_context(running_todoist_stand_in(workload.users))
        if rule.has_batches:
            set_llm_url(stack.enter_context(running_batch_llm_stand_in(clock, seed=workload.seed)))
        system = await stack.enter_async_context(running_system(workload, todoist.url, clock, folder, rule))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        waiting_users = WaitingUsers(group, max_users=MAX_WAITING_USERS, max_wait=MAX_WAIT, head_start_s=HEAD_START_S)
        week = AheadOfTimeWeek(workload, system, todoist, Timeline(clock, print_line), waiting_users, rule)
        await week.simulate()
        requests = [(request.user_id, request.at) for request in workload.requests]
        return RuleResult(
            week.result(),
            measure_coverage(system.connection, workload.joins.keys()),
            calibration(week.forecasts, requests),
        )
