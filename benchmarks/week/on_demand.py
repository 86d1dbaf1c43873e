"""The week without this system: every request fetches all signals and assembles the context.

Answers are timed on the first days, with few requests at once, to keep them from slowing each other down. Todoist
calls are counted over the whole week in a second simulation without delays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from benchmarks.output import PrintLine
from benchmarks.week.measurements import TimedAnswer, WeekResult
from benchmarks.week.service import LLM_MODEL
from benchmarks.week.stand_ins import TodoistControl, running_todoist_stand_in
from benchmarks.week.timeline import SimulatedClock, Timeline, WaitingUsers
from benchmarks.week.workload import MONDAY, TipRequest, Workload
from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Signals, UserContext
from contexts.todoist.client import Todoist
from contexts.todoist.mirror import Mirror, fold, open_tasks
from local.samples import SampleUser
from tips.generator import LLMGenerator

_MAX_WAITING_USERS = 8
_BUDGET = Budget(2000)

_PAGE_SIZE = 50
_PAGED_KINDS = ("projects", "sections", "labels", "tasks")
_TIMEOUT_S = 30.0

Fetch = Callable[[str], Awaitable[Mapping[str, Any]]]
"""Returns a user's account in the format of a full `/sync` answer, given the user's token."""

Fetcher = Callable[[str], AbstractAsyncContextManager[Fetch]]
"""Opens a `Fetch` over a session with Todoist, given Todoist's URL."""


@asynccontextmanager
async def sync_fetcher(url: str) -> AsyncIterator[Fetch]:
    """Fetches an account with one `/sync` call."""
    async with Todoist(url, concurrency=_MAX_WAITING_USERS).session() as session:

        async def fetch(token: str) -> Mapping[str, Any]:
            return await session.sync(token, None)

        yield fetch


@asynccontextmanager
async def paged_fetcher(url: str) -> AsyncIterator[Fetch]:
    """Fetches an account with the reads of the official Python SDK (4.0), one after the other.

    They are the user, then every page of each kind, 50 objects per page.
    """
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S) as client:

        async def fetch(token: str) -> Mapping[str, Any]:
            headers = {"Authorization": f"Bearer {token}"}
            user = (await client.get("/api/v1/user", headers=headers)).raise_for_status().json()
            objects = {kind: await _read_pages(client, kind, headers) for kind in _PAGED_KINDS}
            return {"full_sync": True, "user": user, "items": objects.pop("tasks"), **objects}

        yield fetch


async def _read_pages(client: httpx.AsyncClient, kind: str, headers: Mapping[str, str]) -> list[Any]:
    results: list[Any] = []
    query: dict[str, Any] = {"limit": _PAGE_SIZE}
    while True:
        response = await client.get(f"/api/v1/{kind}", params=query, headers=headers)
        page = response.raise_for_status().json()
        results += page["results"]
        if page["next_cursor"] is None:
            return results
        query["cursor"] = page["next_cursor"]


async def simulate_on_demand(
    name: str, fetcher: Fetcher, workload: Workload, print_line: PrintLine, *, n_timed_days: int
) -> WeekResult:
    """Simulate the week with one way to fetch."""
    answers = await _time_answers(fetcher, workload, MONDAY + timedelta(days=n_timed_days), print_line)
    print_line("  the whole week, calls only")
    by_user = await _count_calls(fetcher, workload)
    return WeekResult(
        name=name,
        n_requests=workload.n_requests,
        answers=answers,
        todoist={"requests": sum(by_user.values())},
        llm={"every request": workload.n_requests},
        saved={},
        authors={"llm": workload.n_requests},
        by_user=by_user,
    )


async def _time_answers(
    fetcher: Fetcher, workload: Workload, until: datetime, print_line: PrintLine
) -> list[TimedAnswer]:
    with running_todoist_stand_in(workload.users) as todoist:
        async with fetcher(todoist.url) as fetch:
            tips = _OnDemandTips(fetch, LLMGenerator(LLM_MODEL, timeout_s=_TIMEOUT_S))
            await _simulate(workload, todoist, tips.answer, until, print_line)
    return tips.answers


async def _count_calls(fetcher: Fetcher, workload: Workload) -> Mapping[str, int]:
    """The Todoist calls of the whole week by user."""
    with running_todoist_stand_in(workload.users, answer_seconds=(0.0, 0.0)) as todoist:
        async with fetcher(todoist.url) as fetch:

            async def fetch_only(user: SampleUser, _: datetime) -> None:
                await fetch(user.api_token)

            await _simulate(workload, todoist, fetch_only, workload.until, lambda _: None)
        return await todoist.calls_by_user()


@dataclass
class _OnDemandTips:
    """Answers requests without a store, and therefore without themes and reactions, which is less work."""

    fetch: Fetch
    generator: LLMGenerator
    answers: list[TimedAnswer] = field(default_factory=list)

    async def answer(self, user: SampleUser, now: datetime) -> None:
        """Fetch, assemble, generate tips, and record the time."""
        started = time.perf_counter()
        has_tips = await self._generate(user, now)
        seconds = time.perf_counter() - started
        llm = "called" if has_tips else "fallback"
        self.answers.append(TimedAnswer(now, user.user_id, seconds, "on demand", llm))

    async def _generate(self, user: SampleUser, now: datetime) -> bool:
        mirror = fold(Mirror(), await self.fetch(user.api_token)).mirror
        directory = mirror.directory
        signals = Signals(user.user_id, directory.timezone or "UTC", directory.language or "en", open_tasks(mirror))
        context = UserContext.model_validate_json(assemble(signals, now, _BUDGET).context_json)
        today = now.astimezone(ZoneInfo(signals.timezone)).date()
        return bool((await self.generator.generate(context, today, timeout_s=_TIMEOUT_S)).tips)


async def _simulate(
    workload: Workload,
    todoist: TodoistControl,
    answer: Callable[[SampleUser, datetime], Coroutine[Any, Any, None]],
    until: datetime,
    print_line: PrintLine,
) -> None:
    """Run the changes of tasks and the requests of the week in order."""
    users = {user.user_id: user for user in workload.users}
    timeline = Timeline(SimulatedClock(workload.changes[0].at), print_line)

    async def ask(waiting_users: WaitingUsers, request: TipRequest) -> None:
        await waiting_users.ask(request.user_id, request.at, partial(answer, users[request.user_id], request.at))

    async with asyncio.TaskGroup() as group:
        waiting_users = WaitingUsers(group, max_users=_MAX_WAITING_USERS, max_wait=timedelta(days=1), head_start_s=0)
        for change in workload.changes:
            if change.at < until:
                timeline.schedule(change.at, partial(todoist.apply, change))
        for request in workload.requests:
            if MONDAY <= request.at < until:
                timeline.schedule(request.at, partial(ask, waiting_users, request))
        await timeline.run(waiting_users)
