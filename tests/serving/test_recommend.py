"""The path of a request: stored data, recovery of what is missing, and the limits of time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from statistics import median
from typing import Any

import pytest
from service import HOURS, Service, ServiceHarness, ServiceResponse, answering, task_ids, tip_about
from world import NOON

from assets.options import RunOptions
from contexts.assembly.model import TaskGroups
from contexts.assembly.store import StoredContext
from contexts.postgres.sql import connect
from contexts.todoist.credentials import Credentials
from local.llm import Behaviour
from local.todoist import Fault

DOWN = [Fault.server_error(500)] * 3
CONTEXT = "/v1/users/{user_id}/context"
SILENT = [Fault.slow(delay_s=60)] * 3


def row(text: str, at: datetime) -> StoredContext:
    """A row of `context_store` for ann."""
    return StoredContext("ann", at, text, sha256(text.encode()).hexdigest(), None, TaskGroups().to_json())


@pytest.mark.usefixtures("ann")
class TestStored:
    def test_hit(self, harness: ServiceHarness, service: Service) -> None:
        """A stored context is used as it is: no call to Todoist, and one to the LLM for its first tip."""
        assert service.tip().origin == ("stored", "called")
        for _ in range(5):
            assert service.tip().origin == ("stored", "skipped")
        assert harness.calls() == (0, 1)

    def test_answer(self, harness: ServiceHarness, service: Service) -> None:
        """The answer has the age of the user's tasks, the context's hash and the policy's version."""
        harness.clock.forward(hours=2)
        body = service.tip().body
        assert body["age_seconds"] == pytest.approx(7200, abs=0.01)
        assert body["context_hash"] == harness.world.stored()["ann"]["context_hash"]
        assert body["policy_version"] == "thompson-f1@0"
        assert set(body["tip"]) == {"kind", "title", "body", "segments", "tasks", "theme"}
        assert task_ids([body["tip"]]) <= {"t0", "t1", "t2", "t3"}

    def test_up_to_the_sla(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """A context is used up to an age of exactly six hours."""
        harness.add_with_context("bob", account("water the plants", "call the bank"))
        for user in ("ann", "bob"):
            service.tip(user)
        harness.clock.at = NOON + 6 * HOURS - timedelta(microseconds=9)
        assert service.tip("ann").origin == ("stored", "skipped")
        harness.clock.forward(seconds=1)
        assert service.tip("bob").origin == ("inline", "skipped")

    def test_one_decision_per_request(self, harness: ServiceHarness, service: Service) -> None:
        """Every answered request is a decision of its own in the log."""
        answered = {service.tip().body["decision_id"] for _ in range(3)}
        logged = {str(decision_id) for (decision_id,) in harness.rows("SELECT decision_id FROM decisions")}
        assert logged == answered and len(answered) == 3


class TestFreshness:
    @pytest.fixture(autouse=True)
    def _night(self, harness: ServiceHarness, account: Any) -> None:
        harness.world.add("ann", account("water the plants", "call bob", "buy milk", "mend the roof"))
        harness.world.night(NOON)

    def test_a_fetch_without_a_change(self, harness: ServiceHarness, service: Service) -> None:
        """A fetch that finds no change makes a stored context fresh: a tip shows the age of that fetch."""
        stored = harness.one("SELECT materialized_at FROM context_store")
        harness.world.night(NOON + timedelta(hours=5))
        harness.clock.forward(hours=10)
        response = service.tip()
        assert response.body["source"] == "stored"
        assert response.body["age_seconds"] == pytest.approx(5 * 3600)
        assert harness.one("SELECT materialized_at FROM decisions") == NOON + timedelta(hours=5)
        assert harness.one("SELECT materialized_at FROM context_store") == stored

    def test_a_change_that_is_undone(self, harness: ServiceHarness, service: Service) -> None:
        """A fetch without a change does not make a request's context of tasks fresh that have changed back."""
        task = harness.todoist.document("ann")["items"][1]
        harness.todoist.advance("ann", {"items": [task | {"content": "call eve"}]})
        harness.clock.forward(hours=7)
        assert service.tip().body["source"] == "inline"
        assert "call eve" in harness.world.stored()["ann"]["context_json"]
        harness.todoist.advance("ann", {"items": [task]})
        harness.world.run(NOON + timedelta(hours=8), RunOptions(select=("todoist_tasks",)))
        harness.clock.forward(hours=7)
        assert harness.world.stored()["ann"]["fetched_at"] < NOON + timedelta(hours=8)
        harness.world.night(NOON + timedelta(hours=9))
        assert service.tip().body["source"] == "stored"
        assert "call bob" in harness.world.stored()["ann"]["context_json"]

    def test_a_request_overtaken_by_a_fetch(self, harness: ServiceHarness, service: Service) -> None:
        """A request's context does not replace one that agrees with a later fetch."""
        harness.clock.forward(hours=7)
        harness.todoist.advance("ann", {"items": [{"id": "t9", "content": "pay the rent"}]})
        harness.todoist.fail("ann", Fault.slow(delay_s=0.5))

        async def fetch() -> None:
            async with asyncio.timeout(5):
                while not harness.todoist.calls:
                    await asyncio.sleep(0.005)
            harness.connection.execute(
                "UPDATE todoist_accounts SET observed_at = %s", [NOON + timedelta(hours=7, seconds=1)]
            )

        harness.together(service.tip_async(), fetch())
        assert "pay the rent" not in harness.world.stored()["ann"]["context_json"]


class TestInline:
    def test_missing(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """A user without a context gets one, and a tip about it, with one call to Todoist."""
        harness.world.add("ann", account("call bob"))
        response = service.tip()
        assert response.origin == ("inline", "called")
        assert response.body["age_seconds"] == pytest.approx(0, abs=0.01)
        assert harness.calls() == (1, 1)
        assert service.tip().origin == ("stored", "skipped")

    @pytest.mark.usefixtures("ann")
    def test_written_through(self, harness: ServiceHarness, service: Service) -> None:
        """A context assembled for a request is stored, as fresh as Todoist's answer."""
        harness.todoist.advance("ann", {"items": [{"id": "t9", "content": "pay the rent"}]})
        harness.clock.forward(hours=7)
        service.tip()
        stored = harness.world.stored()["ann"]
        assert abs(stored["fetched_at"] - harness.clock.at) < timedelta(milliseconds=1)
        assert "pay the rent" in stored["context_json"]
        assert sha256(stored["context_json"].encode()).hexdigest() == stored["context_hash"]
        assert service.tip().origin == ("stored", "skipped")
        assert harness.calls()[0] == 1

    @pytest.mark.usefixtures("ann")
    def test_newer_row_stays(self, harness: ServiceHarness, service: Service) -> None:
        """A newer row written while Todoist was slow is not overwritten, but used."""
        harness.clock.forward(hours=7)
        newer = row(
            harness.world.stored()["ann"]["context_json"].replace("call bob", "call eve"),
            NOON + timedelta(hours=7, seconds=1),
        )
        harness.todoist.fail("ann", Fault.slow(delay_s=0.3))

        async def write_newer_row() -> None:
            async with asyncio.timeout(5):
                while not harness.todoist.calls:
                    await asyncio.sleep(0.005)
            harness.put_context(newer)

        response, _ = harness.together(service.tip_async(), write_newer_row())
        assert response.body["source"] == "inline"
        stored = harness.world.stored()["ann"]
        assert stored["context_hash"] == newer.context_hash
        assert stored["fetched_at"] == newer.materialized_at
        assert service.tip().origin == ("stored", "skipped")
        assert harness.calls() == (1, 1)


@pytest.mark.usefixtures("ann")
def test_replaced_while_the_llm_writes(harness: ServiceHarness, service: Service) -> None:
    """If the account is replaced while the LLM writes, the answer is the generic tip, logged without a context."""

    def replaced(body: Mapping[str, Any]) -> Mapping[str, Any]:
        accounts = harness.world.accounts
        accounts.add("ann", email="a@example.org", timezone="UTC", credentials=Credentials("another-token"))
        return answering(tip_about("t0"))(body)

    harness.llm.behaviour = replaced
    body = service.tip().body
    assert (body["source"], body["tip"]["kind"], body["tip"]["tasks"]) == ("none", "generic", [])
    assert harness.rows("SELECT tip_kind, context_hash FROM decisions") == [("generic", None)]


@pytest.mark.usefixtures("soon_stale")
class TestRefresh:
    @pytest.fixture
    def soon_stale(self, ann: None, harness: ServiceHarness, service: Service) -> None:
        service.tip()
        harness.clock.forward(hours=5, minutes=30)

    def test_in_the_background(self, harness: ServiceHarness, service: Service) -> None:
        """Between five and six hours the stored context is used at once, and refreshed once in the background."""
        harness.todoist.advance("ann", {"items": [{"id": "t9", "content": "pay the rent"}]})
        harness.todoist.fail("ann", Fault.slow(delay_s=1.5))
        responses = [service.tip() for _ in range(3)]
        assert {each.origin for each in responses} == {("stored", "skipped")}
        assert responses[0].body["age_seconds"] == pytest.approx(5.5 * 3600, abs=0.01)
        assert max(each.seconds for each in responses) < 1.5
        harness.until(lambda: "pay the rent" in harness.world.stored()["ann"]["context_json"])
        assert service.tip().body["age_seconds"] < 1
        assert harness.calls()[0] == 1

    def test_todoist_is_down(self, harness: ServiceHarness, service: Service) -> None:
        """After a failed refresh the stored context is still used until it is six hours old."""
        harness.todoist.fail("ann", *DOWN)
        service.tip()
        harness.until(lambda: harness.calls()[0] > 0)
        assert service.tip().origin == ("stored", "skipped")
        assert harness.world.stored()["ann"]["fetched_at"] == NOON

    def test_locked_by_another_process(self, harness: ServiceHarness, service: Service) -> None:
        """While another process refreshes the user, this one does not."""
        with lock_held(harness, "refresh "):
            assert service.tip().origin == ("stored", "skipped")
            harness.run(asyncio.sleep(0.1))
            assert service.tip().origin == ("stored", "skipped")
            harness.put_context(row(harness.world.stored()["ann"]["context_json"], harness.clock()))
        harness.run(asyncio.sleep(0.2))
        assert harness.calls()[0] == 0


FAULTS: Mapping[str, list[Fault]] = {
    "server errors": DOWN,
    "silence": SILENT,
    "too many requests": [Fault.rate_limited(600)],
    "nonsense": [Fault.truncated_json()] * 3,
}


class TestTodoistDown:
    @pytest.mark.usefixtures("ann")
    @pytest.mark.parametrize("what", FAULTS)
    def test_stale(self, harness: ServiceHarness, service: Service, what: str) -> None:
        """If Todoist fails in any way, the old context is used, marked as stale, with its true age."""
        service.tip()
        harness.clock.forward(hours=7)
        harness.todoist.fail("ann", *FAULTS[what])
        response = service.tip()
        assert response.origin == ("stale", "skipped")
        assert response.body["age_seconds"] == pytest.approx(7 * 3600, abs=0.01)
        assert harness.world.stored()["ann"]["fetched_at"] == NOON
        assert service.metric("stale_served_total") == 1
        assert harness.one("SELECT source FROM decisions ORDER BY decided_at DESC LIMIT 1") == "stale"

    @pytest.mark.usefixtures("ann")
    @pytest.mark.usefixtures("ann")
    def test_stale_without_candidates(self, harness: ServiceHarness, service: Service) -> None:
        """The LLM writes candidates even for a stale context; the answer is marked as stale."""
        harness.clock.forward(hours=7)
        harness.todoist.fail("ann", *DOWN)
        assert service.tip().origin == ("stale", "called")

    def test_no_context(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """A user without a context, while Todoist fails, gets the generic tip, marked as such."""
        harness.world.add("ann", account("call bob"))
        harness.todoist.fail("ann", *DOWN)
        response = service.tip()
        assert response.origin == ("none", "fallback")
        assert response.body["tip"]["kind"] == "generic"
        assert response.body["age_seconds"] is None
        assert response.body["context_hash"] is None
        assert harness.calls()[1] == 0
        assert service.react(response.body["decision_id"], "dismissed").body["is_news"] is True

    @pytest.mark.usefixtures("ann")
    def test_outage_is_noticed(self, harness: ServiceHarness) -> None:
        """After five failures in a row Todoist is not called for a while: answers are stale and immediate."""
        service = harness.open(todoist_timeout=0.15)
        service.tip()
        harness.clock.forward(hours=7)
        harness.todoist.fail_at_rate(1.0, Fault.server_error(503))
        for _ in range(5):
            assert service.tip().origin == ("stale", "skipped")
        before = harness.calls()
        response = service.tip()
        assert response.origin == ("stale", "skipped")
        assert harness.calls() == before


@contextmanager
def lock_held(harness: ServiceHarness, kind: str = "") -> Iterator[None]:
    """Another process holds a lock of ann while the block lasts."""
    number = harness.one("SELECT connection_number FROM todoist_accounts WHERE user_id = 'ann'")
    with connect(harness.database_url) as other:
        other.execute("SELECT pg_advisory_lock(7402, hashtext(%s))", [f"{kind}ann {number}"])
        yield


@contextmanager
def hanging(harness: ServiceHarness, *what: str) -> Iterator[None]:
    with ExitStack() as stack:
        if "todoist" in what:
            harness.todoist.fail_at_rate(1.0, *SILENT)
        if "llm" in what:
            harness.llm.behaviour = Behaviour.HANG
        if "lock" in what:
            stack.enter_context(lock_held(harness))
        yield


@pytest.mark.usefixtures("ann")
class TestBudget:
    """A budget of 1.5 seconds, with an LLM and a Todoist whose own time-outs are longer."""

    @pytest.fixture
    def service(self, harness: ServiceHarness) -> Service:
        return harness.open(request_budget=1.5, todoist_timeout=5, llm_timeout=5)

    @pytest.mark.parametrize(
        ("what", "has_candidates"),
        [
            (("todoist",), True),
            (("llm",), False),
            (("todoist", "llm"), False),
            (("lock",), True),
            (("todoist", "llm", "lock"), False),
        ],
        ids=str,
    )
    def test_whatever_hangs(
        self, harness: ServiceHarness, service: Service, what: tuple[str, ...], has_candidates: bool
    ) -> None:
        """Whatever hangs, the answer comes within the budget and is a tip about open tasks."""
        if has_candidates:
            service.tip()
        harness.clock.forward(hours=7)
        with hanging(harness, *what):
            response = service.tip()
        assert response.seconds < 1.5
        assert response.body["source"] == ("inline" if what == ("llm",) else "stale")
        assert response.body["tip"]["kind"] != "generic"
        assert task_ids([response.body["tip"]]) <= {"t0", "t1", "t2", "t3"}

    def test_completed_meanwhile(self, harness: ServiceHarness, service: Service) -> None:
        """Even with a spent budget no tip is about a task that is known to be done."""
        harness.llm.behaviour = answering(*(tip_about(f"t{n}") for n in range(4)))
        service.tip()
        harness.finish_tasks("t0", "t1", "t2")
        harness.world.night(NOON + HOURS)
        harness.clock.forward(hours=1)
        with hanging(harness, "llm", "lock"):
            responses = [service.tip() for _ in range(2)]
        assert task_ids([each.body["tip"] for each in responses]) <= {"t3"}
        assert task_ids(harness.candidates()) <= {"t3"}

    def test_not_twice(self, harness: ServiceHarness) -> None:
        """An LLM that used up the budget once is not called for five minutes."""
        service = harness.open(request_budget=1.5, llm_timeout=2, llm_wait=6)
        with hanging(harness, "llm"):
            assert service.tip().origin == ("stored", "fallback")
            response = service.tip()
            assert response.origin == ("stored", "fallback")
            harness.until(lambda: harness.rows("SELECT outcome FROM llm_calls") == [("late",)])
        harness.clock.forward(minutes=4)
        assert service.tip().origin == ("stored", "fallback")
        assert harness.calls() == (0, 1)

    def test_fresh_while_the_llm_hangs(self, harness: ServiceHarness, service: Service) -> None:
        """A context assembled for this request is not called stale if the LLM then hangs."""
        service.tip()
        harness.finish_tasks("t0", "t1", "t2")
        harness.clock.forward(hours=7)
        with hanging(harness, "llm"):
            response = service.tip()
        assert response.body["source"] == "inline"
        assert response.body["age_seconds"] == pytest.approx(0, abs=0.01)
        assert response.body["context_hash"] == harness.one("SELECT context_hash FROM context_store")

    def test_unknown_user(self, harness: ServiceHarness, service: Service) -> None:
        """For an unknown user nothing can hang."""
        with hanging(harness, "todoist", "llm", "lock"):
            response = service.request("POST", "/v1/users/nobody/tip")
        assert response.status == 404
        assert response.seconds < 1.0  # whatever hangs takes as long

    @pytest.mark.parametrize("table", ["users", "decisions"])
    def test_database_hangs(self, harness: ServiceHarness, service: Service, table: str) -> None:
        """A hanging database leads to 503 in time, and is used again afterwards."""
        service.tip()
        with connect(harness.database_url) as other, other.transaction():
            # The services run meanwhile: a statement of theirs that they have begun has to end first.
            harness.run(asyncio.to_thread(other.execute, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            response = service.request("POST", "/v1/users/ann/tip")
        assert response.status == 503
        assert response.headers["retry-after"] == "5"
        assert response.seconds < 1.9
        assert service.tip().origin == ("stored", "skipped")

    def test_database_is_gone(self, harness: ServiceHarness, service: Service) -> None:
        """Without a database the service answers 503 at once, and recovers by itself."""
        service.tip()
        with harness.without_database():
            responses = [service.request("POST", "/v1/users/ann/tip") for _ in range(3)]
        assert {each.status for each in responses} == {503}
        assert max(each.seconds for each in responses) < 1.5
        assert service.tip().origin == ("stored", "skipped")


@pytest.fixture
def slow_contexts(harness: ServiceHarness) -> Iterator[None]:
    """Postgres takes 0.3 s to read a whole context, but not to read whether it is fresh."""
    columns = "SELECT string_agg(attname, ', ') FROM pg_attribute WHERE attrelid = 'context_store'::regclass"
    names = harness.one(f"{columns} AND attnum > 0 AND NOT attisdropped")
    harness.connection.execute(
        "CREATE OR REPLACE FUNCTION slowly(value TEXT) RETURNS TEXT STABLE LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.3); RETURN value; END $$"
    )
    harness.connection.execute("ALTER TABLE context_store RENAME TO real_store")
    harness.connection.execute(
        f"CREATE VIEW context_store AS SELECT {names.replace('groups_json', 'slowly(groups_json) AS groups_json')}"
        " FROM real_store"
    )
    yield
    harness.connection.execute("DROP VIEW context_store")
    harness.connection.execute("ALTER TABLE real_store RENAME TO context_store")


@pytest.mark.usefixtures("ann", "slow_contexts")
def test_overload_by_readers_of_contexts(harness: ServiceHarness) -> None:
    """More requests that show contexts than Postgres can answer in time are refused while others are still read."""
    service = harness.open(database_connections=2, request_budget=3.0)
    responses = harness.together(*(service.request_async("GET", "/v1/users/ann/context") for _ in range(40)))
    read = [each.seconds for each in responses if each.status == 200]
    refused = [each.seconds for each in responses if each.status == 503]
    assert len(read) + len(refused) == 40
    assert read and median(refused) < max(read)
    assert service.metric("http_responses_total", reason="overloaded", route=CONTEXT, status="503") == len(refused)


@pytest.mark.usefixtures("ann")
class TestConcurrent:
    def test_one_user(self, harness: ServiceHarness) -> None:
        """200 concurrent requests for a stale user cause one call to Todoist and to the LLM, and share its tips."""
        service = harness.open(todoist_timeout=5, llm_timeout=5, llm_first_wait=5, request_budget=25)
        harness.clock.forward(hours=7)
        harness.todoist.fail("ann", Fault.slow(delay_s=0.3))
        harness.llm.seconds = 0.3
        responses: list[ServiceResponse] = harness.together(*(service.tip_async() for _ in range(200)))
        assert {each.status for each in responses} == {200}
        assert {each.origin for each in responses} == {("inline", "called")}
        assert len({each.body["decision_id"] for each in responses}) == 200
        assert all(each.body["tip"] in harness.candidates() for each in responses)
        assert harness.calls() == (1, 1)
        assert harness.one("SELECT count(*) FROM candidate_sets") == 1

    def test_two_services(self, harness: ServiceHarness) -> None:
        """Two services with concurrent requests for a stale user do the work once in total."""
        patient = {"todoist_timeout": 5, "llm_timeout": 5, "llm_first_wait": 5, "request_budget": 25}
        service, other = harness.open(**patient), harness.open(**patient)
        harness.clock.forward(hours=7)
        harness.todoist.fail("ann", Fault.slow(delay_s=0.3))
        harness.llm.seconds = 0.3
        harness.watch_writes()
        responses = harness.together(*(each.tip_async() for _ in range(20) for each in (service, other)))
        assert {each.status for each in responses} == {200}
        assert sorted({each.origin for each in responses}) == [("inline", "called"), ("stored", "skipped")]
        assert len({each.body["context_hash"] for each in responses}) == 1
        assert harness.calls() == (1, 1)
        assert harness.one("SELECT count(*) FROM candidate_sets") == 1
        assert harness.n_writes() == 1

    def test_others_do_not_wait(self, harness: ServiceHarness, account: Any) -> None:
        """A request that waits for Todoist or the LLM delays no other request."""
        service = harness.open(todoist_timeout=10, llm_timeout=10, llm_first_wait=10, request_budget=30)
        service.tip()
        for n in range(20):
            harness.world.add(f"user-{n}", account("call bob", "buy milk"))
            harness.todoist.fail(f"user-{n}", Fault.slow(delay_s=0.4))
        harness.llm.seconds = 0.4

        async def hits() -> list[ServiceResponse]:
            return [await service.tip_async() for _ in range(20)]

        *waited, hit = harness.together(*(service.tip_async(f"user-{n}") for n in range(20)), hits())
        assert {each.origin for each in waited} == {("inline", "called")}
        assert median(each.seconds for each in hit) < min(each.seconds for each in waited) / 2
