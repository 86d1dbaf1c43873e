"""The week by rules of believing Todoist's events: calls, and the truth of the answers beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.output import PrintLine
from benchmarks.week.ahead_of_time import HEAD_START_S, MAX_WAIT, MAX_WAITING_USERS, AheadOfTimeWeek
from benchmarks.week.changes import Change
from benchmarks.week.event_channel import TICK, EventChannel, TrustChange
from benchmarks.week.measurements import TimedAnswer, WeekResult
from benchmarks.week.rules import Rule
from benchmarks.week.stand_ins import running_todoist_stand_in
from benchmarks.week.system import running_system
from benchmarks.week.timeline import SimulatedClock, Timeline, WaitingUsers
from benchmarks.week.truth import CheckedAnswer, Truth
from benchmarks.week.workload import MONDAY, WARM_UP, TipRequest, Workload
from contexts.todoist.event_store import Channel

_REFRESH_PAUSE_S = 0.15
"""Seconds that a background refresh takes, with a Todoist that answers at once."""


@dataclass(frozen=True)
class EventsResult:
    """The week by one rule.

    calls_by_day, requests_by_day: of each day of the week. pipeline_counts: of the runs in the week, by name.
    cut_off_at: see `EventChannel`.
    """

    week: WeekResult
    answers: Sequence[CheckedAnswer]
    trust: Sequence[TrustChange]
    channel: Channel
    calls_by_day: Sequence[int]
    requests_by_day: Sequence[int]
    pipeline_counts: Mapping[str, int]
    cut_off_at: datetime | None


@dataclass
class EventsWeek(AheadOfTimeWeek):
    """The running simulation, in which each answer is compared with the truth.

    channel: None if events are off.
    stored: the stored tasks since the last run of the pipeline.
    """

    channel: EventChannel | None = None
    truth: Truth = field(default_factory=lambda: Truth([]))
    stored: Mapping[str, Mapping[str, datetime]] = field(default_factory=dict)
    checked: list[CheckedAnswer] = field(default_factory=list)
    calls_at_midnight: list[int] = field(default_factory=list)
    refreshes_at_midnight: list[int] = field(default_factory=list)

    def events_result(self) -> EventsResult:
        """The measurements of the week, without the warm-up."""
        week, refreshes = self.result(), self.refreshes_at_midnight[-1] - self.refreshes_at_midnight[0]
        calls, answers = self.calls_at_midnight, [answer for answer in self.checked if answer.at >= MONDAY]
        n_days = (self.workload.until - MONDAY).days
        days = [(answer.at - MONDAY).days for answer in answers]
        counts: dict[str, int] = {}
        for run in self.runs:
            for name, n in run.counts.items() if run.at >= MONDAY else ():
                counts[name] = counts.get(name, 0) + n
        return EventsResult(
            week=replace(week, todoist={**week.todoist, "because of an event": refreshes}),
            answers=answers,
            trust=self.channel.trust if self.channel else [],
            channel=self.system.pipeline.events.channel(),
            calls_by_day=[after - before for before, after in pairwise(calls)],
            requests_by_day=[days.count(day) for day in range(n_days)],
            pipeline_counts=counts,
            cut_off_at=self.channel.cut_off_at if self.channel else None,
        )

    async def simulate(self) -> None:
        """Simulate the warm-up and the week."""
        await super().simulate()
        await self._count_day()

    def _schedule(self) -> None:
        start, until = MONDAY - WARM_UP, self.workload.until
        self.stored = self.system.stored_tasks()
        for n in range((until - MONDAY).days):
            self.timeline.schedule(MONDAY + timedelta(days=n), self._count_day)
        if self.channel:
            for n in range(1, (until - start) // TICK):
                at = start + n * TICK
                self.timeline.schedule(at, partial(self.channel.tick, at))
        super()._schedule()

    async def _apply(self, change: Change) -> None:
        await self.todoist.apply_at_its_time(change)

    async def _run_pipeline(self, at: datetime) -> None:
        await super()._run_pipeline(at)
        self.stored = self.system.stored_tasks()
        if self.channel:
            self.channel.note_trust(at)

    async def _answer(self, request: TipRequest) -> None:
        at, user_id = self.timeline.now(), request.user_id
        fetched_at = self.system.fetched_at(user_id)
        answer = await self.system.tip(user_id)
        if answer["source"] == "inline":
            fetched_at = self.system.fetched_at(user_id)
        elif answer["source"] == "none":
            fetched_at = None
        missed = self.truth.missed(user_id, at, fetched_at, self.stored.get(user_id, {}))
        self.checked.append(CheckedAnswer(request.at, user_id, answer["known_by"], missed))
        self.answers.append(TimedAnswer(request.at, user_id, 0.0, answer["source"], answer["llm"]))
        self._schedule_reaction(request, answer)
        if answer["source"] == "stored" and self._is_refreshed(answer["age_seconds"]):
            await asyncio.sleep(_REFRESH_PAUSE_S)

    def _is_refreshed(self, age_s: float) -> bool:
        return age_s > self.system.serving_settings.revalidate_after.total_seconds()

    async def _count_day(self) -> None:
        await self.waiting_users.wait()
        self.refreshes_at_midnight.append(self.system.refresher.n_calls)
        self.calls_at_midnight.append(sum((await self.todoist.calls_by_user()).values()))


async def simulate_events(
    workload: Workload, folder: Path, print_line: PrintLine, rule: Rule, cut_off_at: datetime | None
) -> EventsResult:
    """Simulate the week with a new system, a Todoist that answers at once, and no LLM.

    folder: for the data of the system. cut_off_at: see `EventChannel`.
    """
    clock = SimulatedClock(MONDAY - WARM_UP)
    async with AsyncExitStack() as stack:
        todoist = stack.enter_context(running_todoist_stand_in(workload.users, answer_seconds=(0.0, 0.0)))
        system = await stack.enter_async_context(running_system(workload, todoist.url, clock, folder, rule))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        waiting_users = WaitingUsers(group, max_users=MAX_WAITING_USERS, max_wait=MAX_WAIT, head_start_s=HEAD_START_S)
        channel = EventChannel(system, todoist, cut_off_at) if rule.events != "off" else None
        if channel:
            await channel.open(workload, rule)
        timeline, truth = Timeline(clock, print_line), Truth(workload.changes)
        week = EventsWeek(workload, system, todoist, timeline, waiting_users, rule, channel=channel, truth=truth)
        await week.simulate()
        return week.events_result()
