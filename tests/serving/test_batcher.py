"""Many items in few calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from loop import in_a_loop, settled

from serving.batcher import Batcher, Overloaded


class Work:
    """Doubles numbers, list by list; each call waits for its turn; a list with 13 is refused."""

    def __init__(self, max_at_once: int = 1) -> None:
        self.lists: list[list[int]] = []
        self.turns = asyncio.Semaphore(0)
        self.at_once = 0
        self.max_at_once = max_at_once

    async def __call__(self, numbers: Sequence[int]) -> Sequence[int]:
        self.lists.append(list(numbers))
        self.at_once += 1
        assert self.at_once <= self.max_at_once
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

    @in_a_loop
    async def test_left_while_waiting(self) -> None:
        """The item of a caller that leaves before its call is never processed."""
        batcher = Batcher(work := Work(), on_abandoned=(abandoned := list[int]()).append)
        [first] = await submitted(batcher, 1)
        left, stayed = await submitted(batcher, 2, 3)
        left.cancel()
        work.go_on()
        assert await asyncio.gather(first, stayed) == [2, 6]
        assert (work.lists, abandoned) == ([[1], [3]], [])

    @in_a_loop
    async def test_left_during_the_call(self) -> None:
        """An item whose caller leaves during its call is reported once, after the end of the call."""
        batcher = Batcher(work := Work(), on_abandoned=(abandoned := list[int]()).append)
        first = await submitted(batcher, 1)
        left, stayed = await submitted(batcher, 2, 3)
        work.go_on(1)
        await asyncio.gather(*first)
        await settled()
        left.cancel()
        await settled()
        assert (work.lists, abandoned) == ([[1], [2, 3]], [])
        work.go_on()
        assert await stayed == 6
        assert abandoned == [2]

    @in_a_loop
    async def test_left_at_the_end(self) -> None:
        """An item whose caller is cancelled in the moment of the result is reported, too."""
        batcher = Batcher(work := Work(), on_abandoned=(abandoned := list[int]()).append)
        work.go_on()
        task = asyncio.create_task(batcher.submit(4))
        while not any(future.done() for future in _awaited_futures(task)):
            await asyncio.sleep(0)
        task.cancel()
        assert await asyncio.gather(task, return_exceptions=True) != [8]
        assert abandoned == [4]

    @in_a_loop
    async def test_failed_call(self) -> None:
        """All items of a failed call are reported: whether they were processed is unknown."""
        batcher = Batcher(work := Work(), on_abandoned=(abandoned := list[int]()).append)
        work.go_on()
        results = await asyncio.gather(*await submitted(batcher, 12, 13), return_exceptions=True)
        assert [type(each) for each in results] == [ValueError] * 2
        assert abandoned == [12, 13]

    @in_a_loop
    async def test_item_at_fault(self) -> None:
        """If an item is at fault, the others of its list whose callers still wait are processed one by one."""
        batcher = Batcher(
            work := Work(),
            is_at_fault=lambda error: isinstance(error, ValueError),
            on_abandoned=(abandoned := list[int]()).append,
        )
        first = await submitted(batcher, 1)
        tasks = await submitted(batcher, 2, 13, 3, 4)
        work.go_on(1)
        await asyncio.gather(*first)
        await settled()
        tasks[3].cancel()
        work.go_on()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in results] == [int, ValueError, int, asyncio.CancelledError]
        assert work.lists == [[1], [2, 13, 3, 4], [2], [13], [3]]
        assert abandoned == []


class TestLimit:
    @in_a_loop
    async def test_waiting(self) -> None:
        """A caller that has waited for its limit gets TimeoutError, and its item is not processed."""
        batcher = Batcher(work := Work(), limit_s=0.05, on_abandoned=(abandoned := list[int]()).append)
        tasks = [*await submitted(batcher, 1), *await submitted(batcher, 2, 3)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in results] == [TimeoutError] * 3
        work.go_on()
        assert await batcher.submit(4) == 8
        assert (work.lists, abandoned) == ([[1], [4]], [1])

    @in_a_loop
    async def test_limit_of_each(self) -> None:
        """The limit counts from each caller's own start: one that came later still gets its result."""
        batcher = Batcher(work := Work(), limit_s=0.5)
        [first] = await submitted(batcher, 1)
        await asyncio.sleep(0.3)
        [later] = await submitted(batcher, 2)
        with pytest.raises(TimeoutError):
            await first
        work.go_on()
        assert await later == 4


class TestCalls:
    @in_a_loop
    async def test_beside(self) -> None:
        """A second call begins beside the first as soon as two items wait; no third one begins."""
        batcher = Batcher(work := Work(max_at_once=2), max_items=3, max_calls=2)
        tasks = await submitted(batcher, 1)
        tasks += await submitted(batcher, 2)
        assert work.lists == [[1]]
        tasks += await submitted(batcher, 3, 4, 5, 6)
        assert [len(each) for each in work.lists] == [1, 3]
        work.go_on()
        assert await asyncio.gather(*tasks) == [2 * number for number in range(1, 7)]
        assert [number for each in work.lists for number in each] == [1, 2, 3, 4, 5, 6]
        assert await batcher.submit(9) == 18

    @in_a_loop
    async def test_many(self) -> None:
        """Hundreds of items by several calls at once get each its own result."""
        batcher = Batcher(work := Work(max_at_once=3), max_items=4, max_calls=3)
        work.go_on(1000)
        assert await asyncio.gather(*(batcher.submit(n) for n in range(20, 420))) == [2 * n for n in range(20, 420)]


class SlowWork:
    """Takes a time for each item, or for each call."""

    def __init__(self, *, item_s: float = 0.0, call_s: float = 0.0) -> None:
        self.item_s, self.call_s, self.n_items = item_s, call_s, 0

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(self.call_s + self.item_s * len(items))
        self.n_items += len(items)
        return items


class TestOverload:
    @in_a_loop
    async def test_full(self) -> None:
        """Beyond its bound the queue refuses at once; the items in it get their results."""
        batcher = Batcher(work := Work(), max_queued=10)
        first = await submitted(batcher, 1)
        waiting = await submitted(batcher, *range(20, 30))
        for _ in range(100):
            with pytest.raises(Overloaded):
                await batcher.submit(2)
        work.go_on()
        assert await asyncio.gather(*first, *waiting) == [2, *range(40, 60, 2)]
        assert await batcher.submit(3) == 6

    @in_a_loop
    async def test_room_of_those_who_left(self) -> None:
        """A caller that leaves makes room in the queue."""
        batcher = Batcher(work := Work(), max_queued=2)
        first = await submitted(batcher, 1)
        left, stayed = await submitted(batcher, 2, 3)
        left.cancel()
        await settled()
        [newer] = await submitted(batcher, 4)
        work.go_on()
        assert await asyncio.gather(*first, stayed, newer) == [2, 6, 8]

    @pytest.mark.parametrize("factor", [2, 10])
    @in_a_loop
    async def test_more_than_capacity(self, factor: int) -> None:
        """At a multiple of the capacity about the capacity is done, and the rest is refused at once."""
        work = SlowWork(item_s=0.002)  # 500 a second
        batcher = Batcher(work, max_wait_s=0.2)
        loop = asyncio.get_running_loop()
        done, refused = list[float](), list[float]()

        async def one() -> None:
            started_at = loop.time()
            try:
                await batcher.submit(1)
                done.append(loop.time() - started_at)
            except Overloaded:
                refused.append(loop.time() - started_at)

        async with asyncio.TaskGroup() as callers:
            started_at = loop.time()
            n = 0
            while (elapsed := loop.time() - started_at) < 3:
                for _ in range(int(elapsed * 500 * factor) - n):
                    callers.create_task(one())
                    n += 1
                await asyncio.sleep(0.005)
            capacity = work.n_items
        assert len(done) >= capacity > 0.5 * 500 * 3
        assert len(done) + len(refused) == n > 0.9 * factor * 500 * 3
        assert sorted(refused)[int(0.9 * len(refused))] < sorted(done)[len(done) // 2] / 4

    @in_a_loop
    async def test_fixed_cost(self) -> None:
        """Calls that are slow whatever they do refuse no burst that shares a few of them."""
        batcher = Batcher(SlowWork(call_s=0.2), max_wait_s=0.5)
        for _ in range(3):
            await batcher.submit(1)
        assert len(await asyncio.gather(*(batcher.submit(n) for n in range(150)))) == 150

    @in_a_loop
    async def test_stuck(self) -> None:
        """While a call hangs most items are refused, those before it included; after its end all are processed."""
        batcher = Batcher(work := Work(), max_wait_s=0.05)
        first = await submitted(batcher, 1)
        waiting = await submitted(batcher, *range(20, 60))
        await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_EXCEPTION)
        await settled()
        assert sum(task.done() for task in waiting) == 24
        with pytest.raises(Overloaded):
            await batcher.submit(2)
        work.go_on(1000)
        results = await asyncio.gather(*first, *waiting, return_exceptions=True)
        assert results[:17] == [2, *range(40, 72, 2)]
        assert {type(each) for each in results[17:]} == {Overloaded}
        for n in range(10):
            await batcher.submit(n)
        assert await asyncio.gather(*(batcher.submit(n) for n in range(20, 60))) == list(range(40, 120, 2))


def _awaited_futures(task: asyncio.Task[int]) -> list[asyncio.Future[int]]:
    """The future that a task waits for, if any."""
    waiter = getattr(task, "_fut_waiter", None)
    return [waiter] if waiter is not None else []
