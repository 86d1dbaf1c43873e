"""Many questions, few calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from loop import in_a_loop, settled

from serving.batch import Batch


class Work:
    """Doubles numbers, list by list; each call waits for its turn; 13 is refused, and with it the whole list."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = []
        self.turns = asyncio.Semaphore(0)
        self.at_once = 0

    async def __call__(self, numbers: Sequence[int]) -> Sequence[int]:
        self.lists.append(list(numbers))
        self.at_once += 1
        assert self.at_once == 1
        await self.turns.acquire()
        self.at_once -= 1
        if 13 in numbers:
            raise ValueError("thirteen")
        return [2 * number for number in numbers]

    def go_on(self, n: int = 100) -> None:
        for _ in range(n):
            self.turns.release()


async def asked(batch: Batch[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    """Questions under way."""
    tasks = [asyncio.create_task(batch.ask(number)) for number in numbers]
    await settled()
    return tasks


class TestBatch:
    @in_a_loop
    async def test_alone(self) -> None:
        """A single question is asked at once, without waiting for company."""
        batch = Batch(work := Work())
        work.go_on()
        assert await batch.ask(4) == 8
        assert await batch.ask(5) == 10
        assert work.lists == [[4], [5]]

    @in_a_loop
    async def test_gathers_while_busy(self) -> None:
        """What is asked while a call is under way goes together in the next one; each gets its own answer."""
        batch = Batch(work := Work())
        first = await asked(batch, 1)
        others = await asked(batch, 2, 3, 4)
        assert work.lists == [[1]]
        work.go_on()
        assert await asyncio.gather(*first, *others) == [2, 4, 6, 8]
        assert work.lists == [[1], [2, 3, 4]]

    @in_a_loop
    async def test_many(self) -> None:
        """Hundreds of questions, some equal, get their answers, by one call at a time of no more than allowed."""
        batch = Batch(work := Work(), most=7)
        work.go_on()
        numbers = [n % 50 + 20 for n in range(300)]
        assert await asyncio.gather(*(batch.ask(number) for number in numbers)) == [2 * number for number in numbers]
        assert max(map(len, work.lists)) == 7
        assert len(work.lists) < 300 / 5
        assert [number for each in work.lists for number in each] == numbers

    @in_a_loop
    async def test_an_error(self) -> None:
        """An error reaches exactly those who asked in the list that failed; the next list is answered."""
        batch = Batch(work := Work(), most=3)
        tasks = [*await asked(batch, 1), *await asked(batch, 2, 13, 3, 4, 5)]
        work.go_on()
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert work.lists == [[1], [2, 13, 3], [4, 5]]
        assert [type(each) for each in got] == [int, ValueError, ValueError, ValueError, int, int]
        assert await batch.ask(6) == 12

    @in_a_loop
    async def test_too_few_answers(self) -> None:
        """Work that answers fewer questions than it got is an error to all of them; nobody waits for ever."""

        async def careless(numbers: Sequence[int]) -> Sequence[int]:
            return list(numbers)[1:]

        batch = Batch(careless)
        got = await asyncio.gather(*(batch.ask(n) for n in range(3)), return_exceptions=True)
        assert [type(each) for each in got] == [ValueError] * 3

    @in_a_loop
    async def test_who_gives_up(self) -> None:
        """Who gives up, before or while the question is asked, harms nobody else."""
        batch = Batch(work := Work())
        [first] = await asked(batch, 1)
        second, third, fourth = await asked(batch, 2, 3, 4)
        first.cancel()
        third.cancel()
        await settled()
        assert work.lists == [[1]]
        work.go_on()
        assert await asyncio.gather(second, fourth) == [4, 8]
        assert first.cancelled() and third.cancelled()
        assert await batch.ask(5) == 10

    @in_a_loop
    async def test_all_give_up(self) -> None:
        """When everybody of a list has given up, the next questions are asked as ever."""
        batch = Batch(work := Work())
        for task in await asked(batch, 1, 2, 3):
            task.cancel()
        work.go_on()
        assert await batch.ask(7) == 14

    @in_a_loop
    async def test_a_limit_of_the_asker(self) -> None:
        """The time limit of one asker does not end the call that others wait for."""
        batch = Batch(work := Work())
        [patient] = await asked(batch, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await batch.ask(2)
        work.go_on()
        assert await patient == 2
