"""The stand-ins of Todoist and the LLM, each in a process of its own, as the week's loop speaks to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import httpx

from benchmarks.todoist import StandIn, standing_in
from benchmarks.week.changes import Change
from local.samples import SampleUser

TODOIST_SECONDS = (0.15, 0.4)
LLM_SECONDS = 1.0

_NO_LIMIT = 10**9
"""The stand-in's limits go by its own clock, for which the week lasts minutes."""


class Tasks:
    """Todoist, without stopping the loop."""

    def __init__(self, stand_in: StandIn) -> None:
        self.url = stand_in.url
        self._client = httpx.AsyncClient(base_url=f"{stand_in.url}/_control")

    async def change(self, change: Change) -> None:
        """Let a user's tasks change."""
        told = {"user": change.user_id, "delta": change.delta}
        (await self._client.post("/advance", json=told)).raise_for_status()

    async def calls(self) -> Mapping[str, int]:
        """How many calls there were so far, by user."""
        answer = await self._client.get("/calls", params={"count": 1})
        return cast(Mapping[str, int], answer.raise_for_status().json()["by_user"])


@contextmanager
def todoist(users: Iterable[SampleUser], *, seconds: tuple[float, float] = TODOIST_SECONDS) -> Iterator[Tasks]:
    """A Todoist that holds the users as they are before the week. seconds: the shortest and longest wait for it."""
    limits = {"full_limit": _NO_LIMIT, "incremental_limit": _NO_LIMIT}
    with standing_in(answer_seconds=seconds, **limits) as stand_in:
        for user in users:
            stand_in.load(user.user_id, user.api_token, user.document)
        yield Tasks(stand_in)


@contextmanager
def llm() -> Iterator[str]:
    """The LLM's address."""
    with subprocess.Popen(
        [sys.executable, "-m", "local.llm", "--seconds", str(LLM_SECONDS)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield cast(IO[str], process.stdout).readline().strip()
        cast(IO[str], process.stdin).close()
