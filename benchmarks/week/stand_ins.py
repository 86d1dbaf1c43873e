"""Todoist and the LLM as processes of their own, with an asynchronous client for the simulation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import httpx

from benchmarks.subprocesses import module_process
from benchmarks.todoist import TodoistProcess, todoist_process
from benchmarks.week.changes import Change
from local.samples import SampleUser

TODOIST_SECONDS = (0.15, 0.4)
"""Minimum and maximum delay of Todoist's answers in seconds."""

LLM_SECONDS = 1.0
"""Delay of the LLM's answers in seconds."""

_NO_LIMIT = 10**9
"""Disables the rate limits, because the simulated week lasts only minutes on the clock of the process."""


class TodoistControl:
    """The control interface of the running Todoist."""

    def __init__(self, process: TodoistProcess) -> None:
        self.url = process.url
        self._client = httpx.AsyncClient(base_url=f"{process.url}/_control")

    async def apply(self, change: Change) -> None:
        """Apply a change to a user's tasks."""
        body = {"user": change.user_id, "delta": change.delta}
        (await self._client.post("/advance", json=body)).raise_for_status()

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
