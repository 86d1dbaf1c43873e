"""The week of a product without this system: all of the context is fetched and assembled in every request.

Answers are timed on the first days, with few under way at once, so that they do not slow each other down; Todoist
calls are then counted over the whole week, with nobody waiting for anything.
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

from benchmarks.week import doors
from benchmarks.week.measured import Answered, Week
from benchmarks.week.service import LLM_MODEL
from benchmarks.week.timeline import Clock, Crowd, Say, Timeline
from benchmarks.week.workload import MONDAY, Request, Workload
from contexts.assemble import Budget, assemble
from contexts.mirror import Mirror, fold, open_tasks
from contexts.model import Signals, UserContext
from contexts.todoist import Todoist
from local.samples import SampleUser
from serving.llm import LLM

AT_MOST = 8
BUDGET = Budget(2000)

_PAGE = 50
_PAGED = ("projects", "sections", "labels", "tasks")
_PATIENCE = 30.0

Fetch = Callable[[str], Awaitable[Mapping[str, Any]]]
"""From a user's token to a document such as a full answer of `/sync`."""

Form = Callable[[str], AbstractAsyncContextManager[Fetch]]
"""From Todoist's address to a way to fetch."""


@asynccontextmanager
async def by_sync(url: str) -> AsyncIterator[Fetch]:
    """One `/sync` call."""
    async with Todoist(url, concurrency=AT_MOST).session() as session:

        async def fetch(token: str) -> Mapping[str, Any]:
            return (await session.sync(token, None)).document

        yield fetch


@asynccontextmanager
async def by_pages(url: str) -> AsyncIterator[Fetch]:
    """The reads of the official Python SDK (4.0), one after another as it makes them: the user, then every page of
    each kind, 50 objects a page.
    """
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE) as client:

        async def fetch(token: str) -> Mapping[str, Any]:
            headers = {"Authorization": f"Bearer {token}"}
            user = (await client.get("/api/v1/user", headers=headers)).raise_for_status().json()
            found = {kind: await _pages(client, kind, headers) for kind in _PAGED}
            return {"full_sync": True, "user": user, "items": found.pop("tasks"), **found}

        yield fetch


async def _pages(client: httpx.AsyncClient, kind: str, headers: Mapping[str, str]) -> list[Any]:
    results: list[Any] = []
    query: dict[str, Any] = {"limit": _PAGE}
    while True:
        answer = await client.get(f"/api/v1/{kind}", params=query, headers=headers)
        page = answer.raise_for_status().json()
        results += page["results"]
        if page["next_cursor"] is None:
            return results
        query["cursor"] = page["next_cursor"]


async def play(name: str, form: Form, workload: Workload, say: Say, *, timed_days: int) -> Week:
    """Play the week to one form of it."""
    answers = await _timed(form, workload, MONDAY + timedelta(days=timed_days), say)
    say("  the whole week, calls only")
    by_user = await _counted(form, workload)
    return Week(
        name=name,
        n_requests=workload.n_requests,
        answers=answers,
        todoist={"requests": sum(by_user.values())},
        llm={"every request": workload.n_requests},
        spared={},
        authors={"llm": workload.n_requests},
        by_user=by_user,
    )


async def _timed(form: Form, workload: Workload, until: datetime, say: Say) -> list[Answered]:
    with doors.todoist(workload.users) as tasks:
        async with form(tasks.url) as fetch:
            tips = _Tips(fetch, LLM(LLM_MODEL, seconds=_PATIENCE))
            await _play(workload, tasks, tips.answer, until, say)
    return tips.answers


async def _counted(form: Form, workload: Workload) -> Mapping[str, int]:
    """Todoist calls of the whole week, by user."""
    with doors.todoist(workload.users, seconds=(0.0, 0.0)) as tasks:
        async with form(tasks.url) as fetch:

            async def only_fetch(user: SampleUser, _: datetime) -> None:
                await fetch(user.api_token)

            await _play(workload, tasks, only_fetch, workload.until, lambda _: None)
        return await tasks.calls()


@dataclass
class _Tips:
    """A tip on demand. Without a store there are neither themes nor reactions: it does less than the system."""

    fetch: Fetch
    author: LLM
    answers: list[Answered] = field(default_factory=list)

    async def answer(self, user: SampleUser, now: datetime) -> None:
        """Fetch, assemble, have it written, and note how long it took."""
        began = time.perf_counter()
        is_written = await self._write(user, now)
        seconds = time.perf_counter() - began
        self.answers.append(Answered(now, user.user_id, seconds, "on demand", "called" if is_written else "fallback"))

    async def _write(self, user: SampleUser, now: datetime) -> bool:
        mirror = fold(Mirror(), await self.fetch(user.api_token)).mirror
        directory = mirror.directory
        signals = Signals(user.user_id, directory.timezone or "UTC", directory.language or "en", open_tasks(mirror))
        context = UserContext.model_validate_json(assemble(signals, now, BUDGET).context_json)
        today = now.astimezone(ZoneInfo(signals.timezone)).date()
        return bool((await self.author.write(context, today, within=_PATIENCE)).tips)


async def _play(
    workload: Workload,
    tasks: doors.Tasks,
    answer: Callable[[SampleUser, datetime], Coroutine[Any, Any, None]],
    until: datetime,
    say: Say,
) -> None:
    """Let tasks change and people ask in their order, from the week's beginning on."""
    users = {user.user_id: user for user in workload.users}
    timeline = Timeline(Clock(workload.changes[0].at), say)

    async def asked(crowd: Crowd, request: Request) -> None:
        await crowd.ask(request.user_id, request.at, partial(answer, users[request.user_id], request.at))

    async with asyncio.TaskGroup() as group:
        crowd = Crowd(group, at_most=AT_MOST, span=timedelta(days=1), patience=0)
        for change in workload.changes:
            if change.at < until:
                timeline.plan(change.at, partial(tasks.change, change))
        for request in workload.requests:
            if MONDAY <= request.at < until:
                timeline.plan(request.at, partial(asked, crowd, request))
        await timeline.play(crowd)
