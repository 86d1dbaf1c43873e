"""Todoist and the LLM as processes of their own, with an asynchronous client for the simulation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from math import log
from random import Random
from typing import Any, cast

import httpx

from benchmarks.subprocesses import module_process
from benchmarks.todoist import TodoistProcess, todoist_process
from benchmarks.week.changes import Change
from benchmarks.week.timeline import SimulatedClock
from local.llm import LocalLLM, running_llm
from local.samples import SampleUser
from local.todoist.webhooks import RegisteredApp

TODOIST_SECONDS = (0.15, 0.4)
"""Minimum and maximum delay of Todoist's answers in seconds."""

LLM_SECONDS = 1.0
"""Delay of the LLM's answers in seconds."""

BATCH_MEDIAN_S = 2 * 3600.0
"""Median delay of a batch's results in seconds of the simulated week."""

BATCH_SIGMA = log(6) / 1.645
"""Standard deviation of the logarithm of these delays: 5 % take over 12 hours, and so 1 % over a day: they expire."""

_NO_LIMIT = 10**9
"""Disables the rate limits, because the simulated week lasts only minutes on the clock of the process."""


class TodoistControl:
    """The control interface of the running Todoist."""

    def __init__(self, process: TodoistProcess) -> None:
        self.url = process.url
        self._client = httpx.AsyncClient(base_url=f"{process.url}/_control", timeout=60)

    async def apply(self, change: Change) -> None:
        """Apply a change to a user's tasks."""
        await self._post("/advance", user=change.user_id, delta=change.delta)

    async def apply_at_its_time(self, change: Change) -> None:
        """Apply a change at its instant on the clock of the stand-in, which is the task's `updated_at`."""
        updated_at = change.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        items = [item | {"updated_at": updated_at} for item in change.delta["items"]]
        await self.set_clock(change.at)
        await self._post("/advance", user=change.user_id, delta={**change.delta, "items": items})

    async def set_clock(self, at: datetime) -> None:
        """Set the clock of the stand-in."""
        await self._post("/clock", at=at.isoformat())

    async def register(self, app: RegisteredApp) -> None:
        """Register the product's app."""
        await self._post("/register", **asdict(app))

    async def sign_in(self, user_id: str, app: RegisteredApp) -> None:
        """Let a user agree to the app, which redeems the code; the user's personal token stays valid."""
        code = (await self._post("/authorize", user=user_id))["code"]
        form = {"client_id": app.client_id, "client_secret": app.client_secret, "code": code}
        (await self._client.post(f"{self.url}/oauth/access_token", data=form)).raise_for_status()

    async def disturb(self, **faults: float | str) -> None:
        """Set the faults of the deliveries of webhooks."""
        await self._post("/disturb", **faults)

    async def deliver(self, at: datetime) -> None:
        """Make the requests to the webhook that are due at an instant."""
        await self.set_clock(at)
        await self._post("/deliver")

    async def _post(self, path: str, **body: Any) -> Any:
        return (await self._client.post(path, json=body)).raise_for_status().json()

    async def calls_by_user(self) -> Mapping[str, int]:
        """The number of calls so far by user."""
        response = await self._client.get("/calls", params={"count": 1})
        return cast(Mapping[str, int], response.raise_for_status().json()["by_user"])


@contextmanager
def running_todoist_stand_in(
    users: Iterable[SampleUser], *, answer_seconds: tuple[float, float] = TODOIST_SECONDS
) -> Iterator[TodoistControl]:
    """Run a Todoist that holds the users' accounts as they are before the week.

    answer_seconds: minimum and maximum delay of an answer.
    """
    limits = {"full_limit": _NO_LIMIT, "incremental_limit": _NO_LIMIT}
    with todoist_process(answer_seconds=answer_seconds, **limits) as process:
        for user in users:
            process.load(user.user_id, user.api_token, user.document)
        yield TodoistControl(process)


@contextmanager
def running_llm_stand_in() -> Iterator[str]:
    """Run the local LLM and yield its base URL, with /v1."""
    with module_process("local.llm", "--seconds", str(LLM_SECONDS)) as process:
        yield process.read_line()


@contextmanager
def running_batch_llm_stand_in(clock: SimulatedClock, *, seed: int) -> Iterator[str]:
    """Run the local LLM in this process; its batches take hours of the simulated week. Yield its base URL."""
    llm, random = LocalLLM(seconds=LLM_SECONDS, clock=clock.now), Random(f"{seed}/batches")
    llm.batches.draw_seconds = lambda: random.lognormvariate(log(BATCH_MEDIAN_S), BATCH_SIGMA)
    with running_llm(llm) as url:
        yield f"{url}/v1"
