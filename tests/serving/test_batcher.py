"""Many items in few calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from loop import in_a_loop, settled

from serving.batcher import Batcher


class Work:
    """Doubles numbers, list by list; each call waits for its turn; a list with 13 is refused."""

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


async def submitted(batcher: Batcher[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    """Submitted items whose calls are running."""
    tasks = [asyncio.create_task(batcher.submit(number)) for number in numbers]
    await settled()
    return tasks


class TestBatcher:
    @in_a_loop
    async def test_alone(self) -> None:
        """A single item is processed at once, without a delay."""
        batcher = Batcher(work := Work())
        work.go_on()
        assert await batcher.submit(4) == 8
        assert await batcher.submit(5) == 10
        assert work.lists == [[4], [5]]

    @in_a_loop
    async def test_gathers_while_busy(self) -> None:
        """Items that arrive during a call share the next one; each gets its own result."""
        batcher = Batcher(work := Work())
        first = await submitted(batcher, 1)
        others = await submitted(batcher, 2, 3, 4)
        assert work.lists == [[1]]
        work.go_on()
        assert await asyncio.gather(*first, *others) == [2, 4, 6, 8]
        assert work.lists == [[1], [2, 3, 4]]

    @in_a_loop
    async def test_many(self) -> None:
        """Hundreds of items, some equal, get their results, by one call at a time of limited size."""
        batcher = Batcher(work := Work(), max_items=7)
        work.go_on()
        numbers = [n % 50 + 20 for n in range(300)]
        assert await asyncio.gather(*(batcher.submit(number) for number in numbers)) == [
            2 * number for number in numbers
        ]
        assert max(map(len, work.lists)) == 7
        assert len(work.lists) < 300 / 5
        assert [number for each in work.lists for number in each] == numbers

    @in_a_loop
    async def test_error(self) -> None:
        """An error reaches exactly the items of the failed list; the next list is processed."""
        batcher = Batcher(work := Work(), max_items=3)
        tasks = [*await submitted(batcher, 1), *await submitted(batcher, 2, 13, 3, 4, 5)]
        work.go_on()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert work.lists == [[1], [2, 13, 3], [4, 5]]
        assert [type(each) for each in results] == [int, ValueError, ValueError, ValueError, int, int]
        assert await batcher.submit(6) == 12

    @in_a_loop
    async def test_too_few_results(self) -> None:
        """A call that returns too few results is an error for all its items."""

        async def careless(numbers: Sequence[int]) -> Sequence[int]:
            return list(numbers)[1:]

        batcher = Batcher(careless)
        results = await asyncio.gather(*(batcher.submit(n) for n in range(3)), return_exceptions=True)
        assert [type(each) for each in results] == [ValueError] * 3

    @in_a_loop
    async def test_cancelled_caller(self) -> None:
        """A cancelled caller, before or during the call, does not affect the others."""
        batcher = Batcher(work := Work())
        [first] = await submitted(batcher, 1)
        second, third, fourth = await submitted(batcher, 2, 3, 4)
        first.cancel()
        third.cancel()
        await settled()
        assert work.lists == [[1]]
        work.go_on()
        assert await asyncio.gather(second, fourth) == [4, 8]
        assert first.cancelled() and third.cancelled()
        assert await batcher.submit(5) == 10

    @in_a_loop
    async def test_all_cancelled(self) -> None:
        """After all callers of a list were cancelled, the next items are processed as usual."""
        batcher = Batcher(work := Work())
        for task in await submitted(batcher, 1, 2, 3):
            task.cancel()
        work.go_on()
        assert await batcher.submit(7) == 14

    @in_a_loop
    async def test_timeout_of_one_caller(self) -> None:
        """The time-out of one caller does not end a call that others wait for."""
        batcher = Batcher(work := Work())
        [patient] = await submitted(batcher, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await batcher.submit(2)
        work.go_on()
        assert await patient == 2
