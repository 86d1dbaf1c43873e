"""Work that runs once for many callers: within a process, and across processes by advisory locks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from loop import in_a_loop, settled

from serving.single_flight import AdvisoryLocks, SingleFlight


class Work:
    """Work that runs until it is told to succeed or fail, and counts its starts."""

    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self._result: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.started += 1
        try:
            return await asyncio.shield(self._result)
        finally:
            self.ended += 1

    def succeed(self, result: str = "there") -> None:
        self._result.set_result(result)

    def fail(self) -> None:
        self._result.set_exception(RuntimeError("no fuel"))


class TestSingleFlight:
    @in_a_loop
    async def test_joined(self) -> None:
        """Concurrent callers with the same key share one task and its result."""
        single_flight, work = SingleFlight[str](), Work()
        callers = [asyncio.create_task(single_flight.join("ann", work)) for _ in range(100)]
        await settled()
        work.succeed()
        assert await asyncio.gather(*callers) == ["there"] * 100
        assert work.started == 1

    @in_a_loop
    async def test_keys(self) -> None:
        """Tasks with different keys run concurrently."""
        single_flight, ann, bob = SingleFlight[str](), Work(), Work()
        callers = [asyncio.create_task(single_flight.join(key, work)) for key, work in (("ann", ann), ("bob", bob))]
        await settled()
        bob.succeed("bob's")
        assert await callers[1] == "bob's"
        assert not callers[0].done()
        ann.succeed("ann's")
        assert await callers[0] == "ann's"

    @in_a_loop
    async def test_afterwards(self) -> None:
        """Results are not kept: a caller after the end of a task starts a new one."""
        single_flight, first, second = SingleFlight[str](), Work(), Work()
        first.succeed("first")
        second.succeed("second")
        assert await single_flight.join("ann", first) == "first"
        assert await single_flight.join("ann", second) == "second"

    @in_a_loop
    async def test_error(self) -> None:
        """An error reaches all callers; the next one starts a new task."""
        single_flight, work = SingleFlight[str](), Work()
        callers = [asyncio.create_task(single_flight.join("ann", work)) for _ in range(3)]
        await settled()
        work.fail()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert [str(error) for error in results] == ["no fuel"] * 3
        again = Work()
        again.succeed()
        assert await single_flight.join("ann", again) == "there"

    @in_a_loop
    async def test_cancelled_caller(self) -> None:
        """A cancelled caller, even the first, does not stop the task: the others get its result."""
        single_flight, work = SingleFlight[str](), Work()
        first, second = (asyncio.create_task(single_flight.join("ann", work)) for _ in range(2))
        await settled()
        first.cancel()
        await settled()
        assert first.cancelled()
        work.succeed()
        assert await second == "there"
        assert work.started == 1

    @in_a_loop
    async def test_no_callers_left(self) -> None:
        """A task whose callers have all left is cancelled; a later caller starts a new one after its end."""
        single_flight, abandoned, work = SingleFlight[str](), Work(), Work()
        callers = [asyncio.create_task(single_flight.join("ann", abandoned)) for _ in range(2)]
        await settled()
        callers[0].cancel()
        await settled()
        assert abandoned.ended == 0
        callers[1].cancel()
        later = asyncio.create_task(single_flight.join("ann", work))
        await settled()
        assert (abandoned.ended, work.started) == (1, 1)
        work.succeed()
        assert await later == "there"

    @in_a_loop
    async def test_end_awaited(self) -> None:
        """A new task with the key of a cancelled one does not start before that has ended."""
        single_flight, may_end, ended = SingleFlight[str](), asyncio.Event(), list[str]()

        async def slow_to_end() -> str:
            try:
                await asyncio.sleep(60)
            finally:
                await may_end.wait()
                ended.append("first")
            return "never"

        async def second() -> str:
            ended.append("second")
            return "there"

        caller = asyncio.create_task(single_flight.join("ann", slow_to_end))
        await settled()
        caller.cancel()
        later = asyncio.create_task(single_flight.join("ann", second))
        await settled()
        assert ended == []
        may_end.set()
        assert await later == "there"
        assert ended == ["first", "second"]

    @in_a_loop
    async def test_kept(self) -> None:
        """A task that is kept goes on without callers; a later one joins it."""
        single_flight, work = SingleFlight[str](), Work()
        caller = asyncio.create_task(single_flight.join("ann", work))
        await settled()
        single_flight.keep("ann")
        caller.cancel()
        await settled()
        assert work.ended == 0
        later = asyncio.create_task(single_flight.join("ann", work))
        await settled()
        work.succeed()
        assert await later == "there"
        assert work.started == 1

    @in_a_loop
    async def test_started_only(self) -> None:
        """A task that is only started runs by itself; its error is not reported."""
        single_flight, work = SingleFlight[str](), Work()
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        for _ in range(2):
            single_flight.start("ann", work)
        await settled()
        work.fail()
        await settled()
        assert (work.started, work.ended, complaints) == (1, 1, [])

    @in_a_loop
    async def test_max_started(self) -> None:
        """No task is started beyond the bound, and `start` says so; callers that wait are not bound by it."""
        single_flight, works = SingleFlight[str](max_started=2), [Work() for _ in range(4)]
        assert [single_flight.start(n, work) for n, work in enumerate(works[:3])] == [True, True, False]
        assert single_flight.start(0, works[0])
        waiting = asyncio.create_task(single_flight.join(3, works[3]))
        await settled()
        assert [work.started for work in works] == [1, 1, 0, 1]
        assert [single_flight.n_callers(n) for n in range(4)] == [0, 0, 0, 1]
        for work in works:
            work.succeed()
        assert await waiting == "there"
        single_flight.start(2, works[2])
        await settled()
        assert works[2].started == 1

    @in_a_loop
    async def test_cancel(self) -> None:
        """All running tasks are cancelled, and their end is awaited."""
        single_flight, works = SingleFlight[str](), [Work(), Work()]
        callers = [asyncio.create_task(single_flight.join(n, work)) for n, work in enumerate(works)]
        await settled()
        await single_flight.cancel()
        assert [work.ended for work in works] == [1, 1]
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(each) for each in results] == [asyncio.CancelledError] * 2
        await single_flight.cancel()


@asynccontextmanager
async def processes(url: str) -> AsyncIterator[tuple[AdvisoryLocks, AdvisoryLocks]]:
    """The locks of two processes: each has its own connection."""
    async with AdvisoryLocks.connected(url, timeout_s=10) as one, AdvisoryLocks.connected(url, timeout_s=10) as other:
        yield one, other


async def is_free(locks: AdvisoryLocks, name: str = "ann", *, timeout_s: float = 5.0) -> bool:
    """Whether a lock can be acquired within a time-out."""
    try:
        async with asyncio.timeout(timeout_s), locks.hold(name):
            return True
    except TimeoutError:
        return False


async def is_held(locks: AdvisoryLocks, name: str = "ann") -> bool:
    """Whether a lock cannot be acquired for a while."""
    return not await is_free(locks, name, timeout_s=0.3)


class CountingConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that counts its statements."""

    n_statements = 0

    async def fetch(self, *args: Any, **options: Any) -> Any:
        CountingConnection.n_statements += 1
        return await super().fetch(*args, **options)


async def keep_session_state(_: object) -> None:
    """Keep advisory locks when a connection is returned to its pool."""


class TestAdvisoryLocks:
    @in_a_loop
    async def test_exclude(self, database_url: str) -> None:
        """A lock held by one process cannot be acquired by another until it is released."""
        async with processes(database_url) as (one, other):
            async with one.hold("ann"):
                assert await is_held(other)
                assert await is_free(other, "bob")
            assert await is_free(other)

    @in_a_loop
    async def test_one_at_a_time(self, database_url: str) -> None:
        """Two processes that repeatedly need the same lock never hold it together, and both make progress."""
        inside, max_inside, turns = 0, 0, {"one": 0, "other": 0}

        async def repeat(locks: AdvisoryLocks, who: str) -> None:
            nonlocal inside, max_inside
            for _ in range(5):
                async with locks.hold("ann"):
                    inside += 1
                    max_inside = max(max_inside, inside)
                    await asyncio.sleep(0.005)
                    inside -= 1
                    turns[who] += 1

        async with processes(database_url) as (one, other):
            await asyncio.gather(repeat(one, "one"), repeat(other, "other"))
        assert (max_inside, turns) == (1, {"one": 5, "other": 5})

    @in_a_loop
    async def test_many_on_one_connection(self, database_url: str) -> None:
        """A process holds and awaits many locks at once on a single connection."""
        async with processes(database_url) as (one, other):
            names = [f"user {n}" for n in range(50)]
            started = asyncio.Barrier(len(names) + 1)

            async def hold(name: str) -> None:
                async with one.hold(name):
                    await started.wait()

            async with other.hold("ann"):
                waiting = asyncio.create_task(is_held(one))
                holding = [asyncio.create_task(hold(name)) for name in names]
                await started.wait()
                await asyncio.gather(*holding)
                assert await waiting
            assert all([await is_free(other, name) for name in names])

    @in_a_loop
    async def test_released_on_error(self, database_url: str) -> None:
        """A lock is released when the work fails."""
        async with processes(database_url) as (one, other):
            with pytest.raises(RuntimeError):
                async with one.hold("ann"):
                    raise RuntimeError
            assert await is_free(other)

    @in_a_loop
    async def test_released_on_cancellation(self, database_url: str) -> None:
        """A lock is released when its holder is cancelled."""
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
    async def test_cancelled_while_waiting(self, database_url: str) -> None:
        """A caller cancelled while it acquires a lock leaves no granted lock behind."""
        async with processes(database_url) as (one, other):
            assert await is_free(one) and await is_free(other)  # connected
            for at in range(60):
                callers = asyncio.create_task(is_free(one, f"user {at}"))
                await asyncio.sleep(at / 60 * 0.004)
                callers.cancel()
                await asyncio.gather(callers, return_exceptions=True)
            assert all([await is_free(other, f"user {at}") for at in range(60)])

    @in_a_loop
    async def test_many_waiters(self, database_url: str) -> None:
        """A process that waits for 200 locks tries them with few statements, and gets each when it is free."""
        names, free = [f"user {n}" for n in range(200)], asyncio.Event()

        async def hold_until_free(locks: AdvisoryLocks, name: str) -> None:
            async with locks.hold(name):
                await free.wait()

        counted = asyncpg.create_pool(
            database_url, min_size=1, max_size=1, reset=keep_session_state, connection_class=CountingConnection
        )
        async with AdvisoryLocks.connected(database_url, timeout_s=10) as other, counted as pool:
            async with asyncio.TaskGroup() as holders:
                for name in names:
                    holders.create_task(hold_until_free(other, name))
                await asyncio.sleep(0.5)
                CountingConnection.n_statements = 0
                locks = AdvisoryLocks(pool)
                waiting = [asyncio.create_task(is_free(locks, name, timeout_s=15)) for name in names]
                await asyncio.sleep(1.5)
                assert CountingConnection.n_statements < 60
                free.set()
            assert all(await asyncio.gather(*waiting))

    @in_a_loop
    async def test_within_a_process(self, database_url: str) -> None:
        """Two callers of one process never hold the same lock together; one that gives up does not release it."""
        async with processes(database_url) as (one, other):
            async with one.hold("ann"):
                assert await is_held(one)
                assert await is_held(other)
            assert await is_free(one)

    @in_a_loop
    async def test_broken_connection(self, database_url: str) -> None:
        """A broken connection frees its locks; the process reconnects, and locks again."""
        async with processes(database_url) as (one, other):
            async with one.hold("ann"):
                await cut_off(database_url)
                assert await is_free(other)
            assert await is_free(one)
            async with one.hold("ann"):
                assert await is_held(other)


async def cut_off(url: str) -> None:
    """End the connections that hold a lock, like a broken network."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    finally:
        await connection.close()
