"""Many requests, one statement: what comes while the database is busy goes together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Batch(Generic[A, B]):
    """Calls of `work` on lists, asked for one by one: while one call is under way the next list gathers.

    Nobody waits for company: alone, a question is asked at once. The idea is group commit, see DeWitt et al.,
    "Implementation techniques for main memory database systems", 1984.
    """

    def __init__(self, work: Callable[[Sequence[A]], Awaitable[Sequence[B]]], *, most: int = 64) -> None:
        """work: answers in the order of its questions, of which it gets at most `most`."""
        self._work = work
        self._most = most
        self._waiting: list[tuple[A, asyncio.Future[B]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, question: A) -> B:
        """The answer to one question; raises what `work` raised for the list that it was in."""
        future: asyncio.Future[B] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._answer(batch)
        finally:
            self._worker = None

    async def _answer(self, batch: Sequence[tuple[A, asyncio.Future[B]]]) -> None:
        try:
            answers = await self._work([question for question, _ in batch])
            answered = list(zip(batch, answers, strict=True))
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in answered:
            if not future.done():
                future.set_result(answer)
