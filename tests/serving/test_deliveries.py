"""Decisions that reached nobody: marked in the log, and left out wherever decisions count as shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from loop import in_a_loop
from service import Service, ServiceHarness

from contexts.postgres.sql import connect
from serving.deliveries import Deliveries
from serving.metrics import Metrics
from serving.pools import create_pool

RECEIPT = "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (%s, 'ann', now())"


@asynccontextmanager
async def deliveries(url: str) -> AsyncIterator[Deliveries]:
    """Deliveries over a pool of their own."""
    async with create_pool(url, n_connections=2, timeout_s=2) as pool:
        yield Deliveries(pool, Metrics())


@pytest.fixture
def logged(connection: psycopg.Connection[Any]) -> list[UUID]:
    """The ids of five logged decisions of ann."""
    connection.execute("INSERT INTO users (user_id, email, timezone) VALUES ('ann', 'ann@example.org', 'UTC')")
    decision_ids = [uuid4() for _ in range(5)]
    for decision_id in decision_ids:
        connection.execute(RECEIPT, [decision_id])
    return decision_ids


def undelivered(connection: psycopg.Connection[Any]) -> set[UUID]:
    """The ids of the decisions that are marked."""
    return {
        decision_id for (decision_id,) in connection.execute("SELECT decision_id FROM decisions WHERE NOT delivered")
    }


class TestDeliveries:
    @in_a_loop
    async def test_marked(self, database_url: str, connection: psycopg.Connection[Any], logged: list[UUID]) -> None:
        """Exactly the reported decisions are marked, and nothing is left to do."""
        async with deliveries(database_url) as marks:
            for decision_id in (*logged[:2], *logged[:1]):
                marks.undelivered(decision_id)
            await marks.flush()
            assert marks.n_waiting == 0
        assert undelivered(connection) == set(logged[:2])

    @in_a_loop
    async def test_written_later(
        self, database_url: str, connection: psycopg.Connection[Any], logged: list[UUID]
    ) -> None:
        """A decision that is written only after it was reported is marked by a later flush."""
        async with deliveries(database_url) as marks:
            marks.undelivered(late := uuid4())
            await marks.flush()
            connection.execute(RECEIPT, [late])
            await marks.flush()
            assert marks.n_waiting == 0
        assert undelivered(connection) == {late}

    @in_a_loop
    async def test_reaction(self, database_url: str, connection: psycopg.Connection[Any], logged: list[UUID]) -> None:
        """A decision with a reaction is not marked: it evidently arrived."""
        connection.execute("INSERT INTO reactions VALUES (%s, 'done', now())", [logged[0]])
        async with deliveries(database_url) as marks:
            for decision_id in logged:
                marks.undelivered(decision_id)
            await marks.flush()
        assert undelivered(connection) == set(logged[1:])

    @in_a_loop
    async def test_database_is_away(
        self, database_url: str, connection: psycopg.Connection[Any], logged: list[UUID]
    ) -> None:
        """Marks wait while Postgres refuses, in a bounded number, and are stored when it answers again."""
        async with deliveries(database_url) as marks:
            with connect(database_url) as other, other.transaction():
                other.execute("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")
                for decision_id in (*logged, *(uuid4() for _ in range(60_000))):
                    marks.undelivered(decision_id)
                with pytest.raises(TimeoutError):
                    await marks.flush()
            assert marks.n_waiting == 50_000
            await marks.flush()
        assert undelivered(connection) == set(logged)

    @in_a_loop
    async def test_close(self, database_url: str, connection: psycopg.Connection[Any], logged: list[UUID]) -> None:
        """Closing stores the remaining marks."""
        async with deliveries(database_url) as marks:
            marks.undelivered(logged[0])
            await marks.close(timeout_s=5)
        assert undelivered(connection) == {logged[0]}

    @in_a_loop
    async def test_close_without_database(
        self, database_url: str, logged: list[UUID], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Closing without Postgres ends in time, and says how many marks are lost."""
        async with deliveries(database_url) as marks:
            with connect(database_url) as other, other.transaction():
                other.execute("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")
                marks.undelivered(logged[0])
                await marks.close(timeout_s=0.2)
        assert "1 undelivered decisions are not marked" in caplog.text


class Inserts:
    """Inserts of decisions that each take `seconds`, because a trigger sleeps."""

    def __init__(self, connection: psycopg.Connection[Any], seconds: float) -> None:
        connection.execute(
            "CREATE OR REPLACE FUNCTION sleep() RETURNS TRIGGER LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN new; END $$"
        )
        connection.execute(
            "CREATE OR REPLACE TRIGGER slow BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION sleep()"
        )

    @staticmethod
    def are_fast(connection: psycopg.Connection[Any]) -> None:
        connection.execute("DROP TRIGGER IF EXISTS slow ON decisions")


@pytest.mark.usefixtures("ann")
class TestRequests:
    @pytest.fixture
    def service(self, harness: ServiceHarness, connection: psycopg.Connection[Any]) -> Any:
        """A service with rule-based tips that are ready, whose decisions take half a second to write."""
        service = harness.open(llm_model=None, request_budget=4)
        service.tip()
        Inserts(connection, 0.5)
        yield service
        Inserts.are_fast(connection)

    def together(
        self, harness: ServiceHarness, service: Service, *leave_after_s: float | None, n_more: int = 0
    ) -> list[Any]:
        """The outcomes of a first request, of `n_more`, and of some whose clients leave after a time; None: stay."""

        async def request(seconds: float | None) -> Any:
            async with asyncio.timeout(seconds):
                return await service.tip_async()

        async def gather() -> list[Any]:
            before = [asyncio.create_task(service.tip_async())]
            await asyncio.sleep(0.1)  # the first decision is being written
            before += [asyncio.create_task(service.tip_async()) for _ in range(n_more)]
            await asyncio.sleep(0.1)
            outcomes = await asyncio.gather(*map(request, leave_after_s), return_exceptions=True)
            return [*await asyncio.gather(*before), *outcomes]

        return list(harness.run(gather()))

    def test_left_before(self, harness: ServiceHarness, service: Service) -> None:
        """The decision of a client that leaves before its turn is not written."""
        *before, left, stayed, also_left = self.together(harness, service, 0.1, None, 0.1, n_more=4)  # two calls run
        assert [response.status for response in (*before, stayed)] == [200] * 6
        assert [type(each) for each in (left, also_left)] == [TimeoutError, TimeoutError]
        assert harness.rows("SELECT delivered, count(*) FROM decisions GROUP BY 1") == [(True, 7)]

    def test_left_meanwhile(self, harness: ServiceHarness, service: Service) -> None:
        """The decision of a client that leaves while it is written is marked."""
        first, left, stayed = self.together(harness, service, 0.6, None)
        assert isinstance(left, TimeoutError)
        harness.until(lambda: harness.rows("SELECT FROM decisions WHERE NOT delivered"))
        answered = {response.body["decision_id"] for response in (first, stayed)}
        rows = harness.rows("SELECT decision_id::TEXT, delivered FROM decisions ORDER BY decided_at")[1:]
        assert {decision_id for decision_id, delivered in rows if delivered} == answered
        assert len(rows) == 3
        service.tip()  # meanwhile the flush ends
        assert service.metric("decisions_undelivered_total", outcome="marked") == 1

    def test_over_budget(self, harness: ServiceHarness, connection: psycopg.Connection[Any]) -> None:
        """A decision that is written after the request was answered with 503 is marked."""
        impatient = harness.open(llm_model=None, request_budget=1.5)
        impatient.tip()
        Inserts(connection, 1.0)
        try:
            first, late = self.together(harness, impatient, None)
            assert (first.status, late.status) == (200, 503)
            harness.until(lambda: harness.rows("SELECT FROM decisions WHERE NOT delivered"))
        finally:
            Inserts.are_fast(connection)
        rows = harness.rows("SELECT decision_id::TEXT, delivered FROM decisions ORDER BY decided_at")[1:]
        assert rows[0] == (first.body["decision_id"], True)
        assert [delivered for _, delivered in rows[1:]] == [False]

    def test_left_preparation(self, harness: ServiceHarness, llm: Any) -> None:
        """No decision is logged for a client that left while the LLM wrote; the next request uses what it wrote."""
        service = harness.open(request_budget=4, llm_timeout=3)
        llm.seconds = 0.5

        async def leave() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.25):
                    await service.tip_async()

        harness.run(leave())
        harness.until(lambda: harness.rows("SELECT FROM candidate_sets"))
        assert harness.rows("SELECT FROM decisions") == []
        assert service.tip().origin == ("stored", "skipped")
        assert harness.calls() == (0, 1)

    def test_close(self, harness: ServiceHarness, service: Service) -> None:
        """A mark that waits when the service closes is stored."""
        self.together(harness, service, 0.6, None)
        harness.run(harness._stack.aclose())
        assert harness.one("SELECT count(*) FROM decisions WHERE NOT delivered") == 1

    def test_close_meanwhile(self, harness: ServiceHarness, service: Service) -> None:
        """A decision of a client that left is marked also if it is written while the service closes."""
        _, left = self.together(harness, service, 0.6)
        assert isinstance(left, TimeoutError)
        assert harness.one("SELECT count(*) FROM decisions") == 2
        harness.run(harness._stack.aclose())
        assert harness.rows("SELECT delivered FROM decisions ORDER BY decided_at") == [(True,), (True,), (False,)]


@pytest.mark.usefixtures("ann")
class TestLeftOut:
    @pytest.fixture
    def service(self, harness: ServiceHarness) -> Service:
        """A service with rule-based tips."""
        return harness.open(llm_model=None, ignored_after=timedelta(seconds=1))

    def undelivered(self, harness: ServiceHarness, service: Service) -> str:
        """A decision that is marked."""
        decision_id: str = service.tip().body["decision_id"]
        harness.connection.execute("UPDATE decisions SET delivered = FALSE WHERE decision_id = %s", [decision_id])
        return decision_id

    def test_reaction(self, harness: ServiceHarness, service: Service) -> None:
        """A reaction makes a decision a delivered one, and is learned."""
        decision_id = self.undelivered(harness, service)
        assert service.react(decision_id, "done").body["is_news"]
        assert harness.one("SELECT delivered FROM decisions")
        assert harness.posterior().n_updates == 1
