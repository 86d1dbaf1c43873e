"""One timer for the time limits of many futures."""

from __future__ import annotations

import asyncio

import pytest
from loop import in_a_loop

from serving.deadlines import Deadlines


def limited(deadlines: Deadlines) -> asyncio.Future[int]:
    """A future with the time limit from now on."""
    future = asyncio.get_running_loop().create_future()
    deadlines.add(future)
    return future


@in_a_loop
async def test_each_in_its_time() -> None:
    """Each future without a result fails after its own time, in the order of their start."""
    deadlines, failed = Deadlines(0.1), list[int]()
    started_at = asyncio.get_running_loop().time()
    futures = []
    for number in range(3):
        futures.append(limited(deadlines))
        futures[number].add_done_callback(lambda _, number=number: failed.append(number))
        await asyncio.sleep(0.05)
    await asyncio.wait(futures)
    assert asyncio.get_running_loop().time() - started_at >= 0.1 + 2 * 0.05
    assert {type(each.exception()) for each in futures} == {TimeoutError}
    assert failed == [0, 1, 2]


@in_a_loop
async def test_results_stay() -> None:
    """A future with a result, and one that was removed, are left as they are."""
    deadlines = Deadlines(0.02)
    done, removed, late = (limited(deadlines) for _ in range(3))
    done.set_result(5)
    deadlines.remove(removed)
    with pytest.raises(TimeoutError):
        await late
    assert done.result() == 5
    assert not removed.done()


@in_a_loop
async def test_again() -> None:
    """After a time without futures new ones are limited, too."""
    deadlines = Deadlines(0.02)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await limited(deadlines)
        await asyncio.sleep(0.05)
