"""The bound of long pieces of work."""

from __future__ import annotations

import asyncio

import pytest
from loop import in_a_loop, settled

from serving.batcher import Overloaded
from serving.slots import Slots


async def occupy(slots: Slots, seconds: float) -> None:
    """Occupy a slot for a time."""
    async with slots.occupied():
        await asyncio.sleep(seconds)


class TestSlots:
    @in_a_loop
    async def test_bound(self) -> None:
        """Never more than the number of slots are occupied, and all who wait get one."""
        slots, inside, most = Slots(3, 10), 0, 0

        async def work() -> None:
            nonlocal inside, most
            async with slots.occupied():
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

        await asyncio.gather(*(work() for _ in range(30)))
        assert (most, inside, slots.n_waiting) == (3, 0, 0)

    @in_a_loop
    async def test_refused_at_once(self) -> None:
        """Who would wait too long, by the time that the work took so far, is refused at once."""
        slots = Slots(2, 0.5)
        await asyncio.gather(*(occupy(slots, 0.4) for _ in range(4)))
        busy = [asyncio.create_task(occupy(slots, 0.4)) for _ in range(2)]
        outcomes = await asyncio.gather(*(occupy(slots, 0.0) for _ in range(100)), return_exceptions=True)
        n_refused = sum(isinstance(each, Overloaded) for each in outcomes)
        assert 0 < n_refused < 100
        await asyncio.gather(*busy)

    @in_a_loop
    async def test_refused_in_time(self) -> None:
        """Without experience the wait ends after the time limit."""
        slots = Slots(1, 0.05)
        busy = asyncio.create_task(occupy(slots, 60))
        await settled()
        with pytest.raises(Overloaded):
            await occupy(slots, 0)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        await occupy(slots, 0)

    @in_a_loop
    async def test_cancelled(self) -> None:
        """One who leaves while waiting takes no slot."""
        slots = Slots(1, 10)
        busy = asyncio.create_task(occupy(slots, 0.05))
        waiting = [asyncio.create_task(occupy(slots, 0)) for _ in range(3)]
        await settled()
        waiting[0].cancel()
        await asyncio.gather(busy, *waiting, return_exceptions=True)
        await occupy(slots, 0)
        assert slots.n_waiting == 0
