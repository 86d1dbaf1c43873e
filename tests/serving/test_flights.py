"""Work that must be done once however many ask: within a process, and across processes by locks of Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from loop import in_a_loop, settled

from serving.flights import Flights, Locks


class Work:
    """Work that goes on until it is told to land or to crash, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self._news: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.begun += 1
        try:
            return await asyncio.shield(self._news)
        finally:
            self.ended += 1

    def land(self, result: str = "there") -> None:
        self._news.set_result(result)

    def crash(self) -> None:
        self._news.set_exception(RuntimeError("no fuel"))


class TestFlights:
    @in_a_loop
    async def test_joined(self) -> None:
        """However many ask for the same thing at once, it is done once, and all get the result."""
        flights, work = Flights[str](), Work()
        asking = [asyncio.create_task(flights.join("ann", work)) for _ in range(100)]
        await settled()
        work.land()
        assert await asyncio.gather(*asking) == ["there"] * 100
        assert work.begun == 1

    @in_a_loop
    async def test_keys(self) -> None:
        """Different things go on side by side."""
        flights, ann, bob = Flights[str](), Work(), Work()
        asking = [asyncio.create_task(flights.join(key, work)) for key, work in (("ann", ann), ("bob", bob))]
        await settled()
        bob.land("bob's")
        assert await asking[1] == "bob's"
        assert not asking[0].done()
        ann.land("ann's")
        assert await asking[0] == "ann's"

    @in_a_loop
    async def test_afterwards(self) -> None:
        """Who asks when it is done has it done again: results are not kept."""
        flights, first, second = Flights[str](), Work(), Work()
        first.land("first")
        second.land("second")
        assert await flights.join("ann", first) == "first"
        assert await flights.join("ann", second) == "second"

    @in_a_loop
    async def test_an_error(self) -> None:
        """An error reaches all who joined; the next one to ask begins anew."""
        flights, work = Flights[str](), Work()
        asking = [asyncio.create_task(flights.join("ann", work)) for _ in range(3)]
        await settled()
        work.crash()
        got = await asyncio.gather(*asking, return_exceptions=True)
        assert [str(error) for error in got] == ["no fuel"] * 3
        again = Work()
        again.land()
        assert await flights.join("ann", again) == "there"

    @in_a_loop
    async def test_who_gives_up(self) -> None:
        """Who gives up, the first one too, does not stop the work: the others get its result."""
        flights, work = Flights[str](), Work()
        first, second = (asyncio.create_task(flights.join("ann", work)) for _ in range(2))
        await settled()
        first.cancel()
        await settled()
        assert first.cancelled()
        work.land()
        assert await second == "there"
        assert work.begun == 1

    @in_a_loop
    async def test_all_give_up(self) -> None:
        """When everybody has given up the work goes on; who comes later joins it."""
        flights, work = Flights[str](), Work()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await flights.join("ann", work)
        assert work.ended == 0
        later = asyncio.create_task(flights.join("ann", work))
        await settled()
        work.land()
        assert await later == "there"
        assert work.begun == 1

    @in_a_loop
    async def test_behind_the_answer(self) -> None:
        """Work that is only started goes on by itself; its error disturbs nobody."""
        flights, work = Flights[str](), Work()
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        assert flights.start("ann", work) is flights.start("ann", work)
        await settled()
        work.crash()
        await settled()
        assert (work.begun, work.ended, complaints) == (1, 1, [])

    @in_a_loop
    async def test_cancel(self) -> None:
        """At the end all that is under way is ended, and waited for."""
        flights, works = Flights[str](), [Work(), Work()]
        asking = [asyncio.create_task(flights.join(n, work)) for n, work in enumerate(works)]
        await settled()
        await flights.cancel()
        assert [work.ended for work in works] == [1, 1]
        got = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(each) for each in got] == [asyncio.CancelledError] * 2
        await flights.cancel()


@asynccontextmanager
async def processes(url: str) -> AsyncIterator[tuple[Locks, Locks]]:
    """The locks of two processes: each has its own connection."""
    async with Locks.connected(url, timeout=10) as one, Locks.connected(url, timeout=10) as other:
        yield one, other


async def is_free(locks: Locks, name: str = "ann", *, within: float = 5.0) -> bool:
    """Whether a lock is got before long."""
    try:
        async with asyncio.timeout(within), locks.hold(name):
            return True
    except TimeoutError:
        return False


async def is_held(locks: Locks, name: str = "ann") -> bool:
    """Whether a lock is not got for a while."""
    return not await is_free(locks, name, within=0.3)


class TestLocks:
    @in_a_loop
    async def test_exclude(self, database_url: str) -> None:
        """What one process holds no other gets, until it is given back."""
        async with processes(database_url) as (one, other):
            async with one.hold("ann"):
                assert await is_held(other)
                assert await is_free(other, "bob")
            assert await is_free(other)

    @in_a_loop
    async def test_one_at_a_time(self, database_url: str) -> None:
        """Two processes that want the same again and again are never inside together, and both get on."""
        inside, most, turns = 0, 0, {"one": 0, "other": 0}

        async def repeat(locks: Locks, who: str) -> None:
            nonlocal inside, most
            for _ in range(5):
                async with locks.hold("ann"):
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0.005)
                    inside -= 1
                    turns[who] += 1

        async with processes(database_url) as (one, other):
            await asyncio.gather(repeat(one, "one"), repeat(other, "other"))
        assert (most, turns) == (1, {"one": 5, "other": 5})

    @in_a_loop
    async def test_many_on_one_connection(self, database_url: str) -> None:
        """A process holds and waits for many locks at once, on the one connection that it has for them."""
        async with processes(database_url) as (one, other):
            names = [f"user {n}" for n in range(50)]
            begun = asyncio.Barrier(len(names) + 1)

            async def hold(name: str) -> None:
                async with one.hold(name):
                    await begun.wait()

            async with other.hold("ann"):
                waiting = asyncio.create_task(is_held(one))
                holding = [asyncio.create_task(hold(name)) for name in names]
                await begun.wait()
                await asyncio.gather(*holding)
                assert await waiting
            assert all([await is_free(other, name) for name in names])

    @in_a_loop
    async def test_given_back_on_error(self, database_url: str) -> None:
        """A lock is given back when the work fails."""
        async with processes(database_url) as (one, other):
            with pytest.raises(RuntimeError):
                async with one.hold("ann"):
                    raise RuntimeError
            assert await is_free(other)

    @in_a_loop
    async def test_given_back_on_cancellation(self, database_url: str) -> None:
        """A lock is given back when the holder is cancelled in the middle of the work."""
        async with processes(database_url) as (one, other):
            held = asyncio.Event()

            async def hold() -> None:
                async with one.hold("ann"):
                    held.set()
                    await asyncio.sleep(60)

            holder = asyncio.create_task(hold())
            await held.wait()
            holder.cancel()
            await asyncio.gather(holder, return_exceptions=True)
            assert await is_free(other)

    @in_a_loop
    async def test_cancelled_while_asking(self, database_url: str) -> None:
        """Who gives up at whatever moment of asking leaves no lock behind that Postgres had just granted."""
        async with processes(database_url) as (one, other):
            assert await is_free(one) and await is_free(other)  # connected
            for at in range(60):
                asking = asyncio.create_task(is_free(one, f"user {at}"))
                await asyncio.sleep(at / 60 * 0.004)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            assert all([await is_free(other, f"user {at}") for at in range(60)])

    @in_a_loop
    async def test_the_holder_s_connection_dies(self, database_url: str) -> None:
        """With the connection of its holder a lock is free; the process gets a new connection, and locks again."""
        async with processes(database_url) as (one, other):
            async with one.hold("ann"):
                await cut_off(database_url)
                assert await is_free(other)
            assert await is_free(one)
            async with one.hold("ann"):
                assert await is_held(other)


async def cut_off(url: str) -> None:
    """End the connections that hold a lock, as a broken network does."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    finally:
        await connection.close()
