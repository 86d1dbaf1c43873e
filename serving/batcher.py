"""Many single items in few calls: items that arrive during a call share the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from serving.deadlines import Deadlines

Item = TypeVar("Item")
Result = TypeVar("Result")
_Batch = list[tuple[Item, asyncio.Future[Result]]]

_MIN_QUEUE = 8
"""Number of items that may wait however slow the calls are: the next call measures the throughput again."""

_MIN_BESIDE = 4
"""Number of waiting items at which a call begins beside a running one.

Fewer items wait for others, because a call for one item costs almost as much as one for several. With eight clients,
4 instead of 2 saves a tenth of a tip's CPU and a little of its time; 8 makes it take longer.
"""

_STUCK_AFTER = 4
"""A call that takes longer than the longest wait times this is stuck: hardly any items wait for its end."""


class Overloaded(Exception):
    """More work is waiting than can be done in time."""


class Batcher(Generic[Item, Result]):
    """Calls `work` with lists of items that are submitted one by one; while one call runs the next list fills up.

    There is no delay: an item that arrives while no call runs is processed at once. The idea is group commit, see
    DeWitt et al., "Implementation techniques for main memory database systems", 1984.

    The queue is bounded by time, not only by number: as many items may wait as `work` did in `max_wait_s`, measured
    in its last full calls. The item of a cancelled caller leaves the queue at once, and costs no work.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_items: int = 64,
        max_queued: int = 4096,
        max_wait_s: float = 2.0,
        limit_s: float | None = None,
        max_calls: int = 1,
        is_at_fault: Callable[[Exception], bool] = lambda _: False,
        on_abandoned: Callable[[Item], None] = lambda _: None,
    ) -> None:
        """work: returns the results in the order of its items, of which it gets at most `max_items`.

        limit_s: seconds after which a caller without a result gets TimeoutError; None: never.
        max_calls: calls that run at once; one beside another begins for `_MIN_BESIDE` items or more.
        is_at_fault: whether an error is due to an item rather than to the call; the items of the list are then
        processed one by one, so that the error reaches only the item at fault.
        on_abandoned: called for an item that `work` got and whose caller got no result, because the caller was
        cancelled or the call failed; it is called after the end of the call.
        """
        self._work = work
        self._max_items = max_items
        self._most_queued = self._max_queued = max_queued  # at any throughput, and at the present one
        self._max_wait_s = max_wait_s
        self._deadlines = None if limit_s is None else Deadlines(limit_s)
        self._max_calls = max_calls
        self._is_at_fault = is_at_fault
        self._on_abandoned = on_abandoned
        self._waiting: dict[asyncio.Future[Result], Item] = {}
        self._n_recent, self._recent_s = 0.0, 0.0  # items and seconds of the last full calls
        self._workers: set[asyncio.Task[None]] = set()

    @property
    def n_waiting(self) -> int:
        """The number of items that wait for a call."""
        return len(self._waiting)

    async def submit(self, item: Item) -> Result:
        """The result for one item; raises the error that `work` raised for the item's list.

        Raises Overloaded at once if the item would wait too long.
        """
        self.check()
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[future] = item
        if self._is_another_due(len(self._workers)):
            self._workers.add(asyncio.create_task(self._run()))
        if self._deadlines is not None:
            self._deadlines.add(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future not in self._waiting and not future.cancelled():  # between the result and its receipt
                self._on_abandoned(item)
            raise
        finally:
            self._waiting.pop(future, None)
            if self._deadlines is not None:
                self._deadlines.remove(future)

    def check(self) -> None:
        """Raise Overloaded if `submit` would."""
        if len(self._waiting) >= self._max_queued:
            raise Overloaded

    async def close(self) -> None:
        """Wait for the running call, and for those of the items that still wait."""
        if self._workers:
            await asyncio.wait(self._workers)

    def _is_another_due(self, n_running: int) -> bool:
        """Whether one more call is to begin beside those that run."""
        return n_running == 0 or (n_running < self._max_calls and len(self._waiting) >= _MIN_BESIDE)

    async def _run(self) -> None:
        try:
            while self._is_another_due(len(self._workers) - 1) and (batch := self._take()):
                await self._timed(batch)
        finally:
            self._workers.remove(_this_task())

    async def _timed(self, batch: _Batch[Item, Result]) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        alarm = loop.call_later(_STUCK_AFTER * self._max_wait_s, self._bound_queue, _MIN_QUEUE)
        try:
            await self._process(batch)
        finally:
            alarm.cancel()
        self._measured(len(batch), loop.time() - started_at)

    def _take(self) -> _Batch[Item, Result]:
        """Remove the next items from the queue, without those of callers that were cancelled just now."""
        futures = list(islice((future for future in self._waiting if not future.done()), self._max_items))
        return [(self._waiting.pop(future), future) for future in futures]

    def _measured(self, n_items: float, seconds: float) -> None:
        """Bound the queue by the throughput of the last full calls; a call weighs half as much as the next one.

        A call with few items shows only that the throughput is not less: most of its time may be a fixed cost.
        """
        is_full = 2 * n_items >= min(self._max_items, self._max_queued)
        if is_full:
            self._n_recent = n_items = self._n_recent / 2 + n_items
            self._recent_s = seconds = self._recent_s / 2 + seconds
        in_time = self._max_wait_s * self._max_calls * n_items / max(seconds, 1e-6)
        bound = max(_MIN_QUEUE, int(min(self._most_queued, in_time)))
        if is_full or bound > self._max_queued:
            self._bound_queue(bound)

    def _bound_queue(self, max_queued: int) -> None:
        """Refuse items beyond the bound from now on, and the newest of those that wait if it was lowered by half."""
        self._max_queued = max_queued
        for future in list(self._waiting)[2 * max_queued :]:
            del self._waiting[future]
            if not future.done():
                future.set_exception(Overloaded())

    async def _process(self, batch: _Batch[Item, Result]) -> None:
        try:
            results = await self._work([item for item, _ in batch])
            pairs = list(zip(batch, results, strict=True))
        except Exception as error:
            await self._fail(batch, error)
            return
        for (item, future), result in pairs:
            if future.done():
                self._on_abandoned(item)
            else:
                future.set_result(result)

    async def _fail(self, batch: _Batch[Item, Result], error: Exception) -> None:
        """Pass an error to the callers, or, if one of several items is at fault, process each on its own."""
        is_at_fault = self._is_at_fault(error)
        for item, future in batch:
            if is_at_fault and len(batch) > 1:
                if not future.done():
                    await self._process([(item, future)])
                continue
            if not is_at_fault:
                self._on_abandoned(item)
            if not future.done():
                future.set_exception(error)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task
