"""Contexts that the service refreshes because of an event, before a request that will probably come soon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from service import HOURS, Service, ServiceHarness, task_ids
from world import NOON

from contexts.postgres.sql import queries
from local.todoist import Fault, RegisteredApp

SECRET = "secret-of-the-app"
MINUTE = timedelta(minutes=1)
AT_EIGHT = NOON + 20 * HOURS
"""Ann asks for a tip at this time of each day, and her context is of the noon before."""

LOOKS_OFTEN: Mapping[str, Any] = {"event_refresh_interval_s": 0.02}


def asks_daily(harness: ServiceHarness, user: str = "ann", at: datetime = AT_EIGHT) -> None:
    """Let a user have asked at this time of the day, on each of the last three weeks' days."""
    harness.connection.execute("UPDATE users SET created_at = %s", (at - timedelta(days=60),))
    for day in range(1, 22):
        harness.connection.execute(
            "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (%s, %s, %s)",
            (uuid4(), user, at - timedelta(days=day)),
        )


def tell(harness: ServiceHarness, at: datetime, user: str = "ann", object_id: str = "t0") -> None:
    """Store the event of a task's change, as the service does when the webhook comes."""
    harness.connection.execute(
        "INSERT INTO todoist_events (user_id, connection_number, object_type, object_id, event_name, object,"
        " is_ended, updated_at, triggered_at, received_at)"
        " SELECT user_id, connection_number, 'item', %s, 'item:updated', '{}', FALSE, %s, %s, %s"
        " FROM todoist_accounts WHERE user_id = %s"
        " ON CONFLICT (user_id, object_type, object_id) DO UPDATE SET first_received_at = coalesce("
        "     todoist_events.first_received_at, todoist_events.received_at), received_at = excluded.received_at",
        (object_id, at, at, at, user),
    )


def open_service(harness: ServiceHarness, **options: Any) -> Service:
    patient = {"todoist_timeout": 10.0, "request_budget": 20.0}  # a refresh that fails is tried again after minutes
    return harness.open(todoist_client_secrets=SECRET, llm_model=None, **LOOKS_OFTEN | patient | options)


def refreshed(
    service: Service, n: int, outcome: str = "refreshed", *others: Service
) -> Callable[[], Awaitable[bool]]:
    """A condition: this many refreshes of one or several services had this outcome."""

    async def holds() -> bool:
        counts = [await each.metric_async("event_refreshes_total", outcome=outcome) for each in (service, *others)]
        return sum(counts) == n

    return holds


def look(harness: ServiceHarness, account: Any) -> int:
    """Let a service look once, until it has refreshed the context of a new user; return its other calls since."""
    user, n_calls = f"witness{uuid4().hex}", harness.calls()[0]
    harness.add_with_context(user, account("call bob", "buy milk"), at=harness.clock.at - HOURS)
    asks_daily(harness, user)
    tell(harness, harness.clock.at - MINUTE, user)
    harness.until(lambda: fetched_at(harness, user) > harness.clock.at - HOURS / 2)
    return harness.calls()[0] - n_calls - 1


def fetched_at(harness: ServiceHarness, user: str = "ann") -> datetime:
    value: datetime = harness.one("SELECT materialized_at FROM context_store WHERE user_id = %s", user)
    return value


@pytest.mark.usefixtures("ann")
class TestWhoIsRefreshed:
    def test_a_likely_request(self, harness: ServiceHarness) -> None:
        """A context that lacks an event is assembled again before a likely request: the next tip calls nobody."""
        asks_daily(harness)
        harness.clock.at = AT_EIGHT - 10 * MINUTE
        harness.finish_tasks("t0")
        tell(harness, harness.clock.at - MINUTE)
        service = open_service(harness)
        harness.until(lambda: harness.calls()[0] == 1)
        harness.until(lambda: fetched_at(harness) > NOON)
        harness.until(refreshed(service, 1))
        assert service.metric("todoist_calls_total") == 1
        assert harness.todoist.calls[0].full
        tip = service.tip().body
        assert (tip["source"], harness.calls()[0]) == ("stored", 1)
        assert "t0" not in task_ids(harness.candidates())

    def test_by_the_webhook(self, harness: ServiceHarness, account: Any) -> None:
        """A change in Todoist is in the context soon after its delivery, and the request after that shows it."""
        asks_daily(harness)
        at = AT_EIGHT - 10 * MINUTE
        harness.clock.at = at
        harness.todoist.set_clock(at)
        service = open_service(harness, listens=True)
        app = RegisteredApp("ours", SECRET, "http://product/connected", f"{service.url}/v1/todoist/events")
        harness.todoist.register(app)
        harness.todoist.exchange(
            "/oauth/access_token", {"client_id": "ours", "code": harness.todoist.authorize("ann")}
        )
        owner = harness.todoist.document("ann")["user"]["id"]
        harness.connection.execute("UPDATE todoist_accounts SET todoist_user_id = %s", (str(owner),))
        harness.todoist.advance("ann", {"items": [{"id": "t9", "content": "feed the cat", "project_id": "p"}]})
        harness.run(asyncio.to_thread(harness.todoist.deliver))
        harness.clock.forward(seconds=5)
        assert look(harness, account) == 0  # more events may follow
        harness.clock.forward(seconds=6)
        harness.until(lambda: fetched_at(harness) > NOON)
        tasks = service.context()["tasks"].values()
        assert "t9" in {task["id"] for bucket in tasks for task in bucket}

    @pytest.mark.parametrize(
        "case", ["improbable", "no event", "young", "folded", "events go on", "refused", "inactive"]
    )
    def test_who_is_not(self, harness: ServiceHarness, account: Any, case: str) -> None:
        """A context is not refreshed without an event, a likely request, or an account that may be called."""
        asks_daily(harness, at=AT_EIGHT + (3 * HOURS if case == "improbable" else 0 * MINUTE))
        now = harness.clock.at = AT_EIGHT - 10 * MINUTE
        if case != "no event":
            tell(harness, now - (timedelta(seconds=5) if case == "events go on" else MINUTE))
        statement = {
            "young": "UPDATE context_store SET materialized_at = %(at)s",
            "folded": "UPDATE todoist_events SET folded_form = received_at",
            "refused": "UPDATE todoist_accounts SET auth_failures = 1",
            "inactive": "UPDATE users SET active = FALSE",
        }.get(case)
        if statement:
            harness.connection.execute(statement, {"at": now - 5 * MINUTE})
        open_service(harness)
        assert look(harness, account) == 0

    def test_events_that_go_on(self, harness: ServiceHarness) -> None:
        """Events that do not pause delay a refresh by a minute at most."""
        asks_daily(harness)
        harness.clock.at = AT_EIGHT - 10 * MINUTE
        tell(harness, harness.clock.at - 2 * MINUTE, object_id="t0")
        tell(harness, harness.clock.at - timedelta(seconds=1), object_id="t0")
        service = open_service(harness)
        harness.until(refreshed(service, 1))
        assert harness.calls()[0] == 1

    def test_once_in_a_while(self, harness: ServiceHarness, account: Any) -> None:
        """Events after a refresh wait for a quarter of an hour: Todoist allows a user few full calls."""
        asks_daily(harness)
        harness.clock.at = AT_EIGHT - 13 * MINUTE
        tell(harness, harness.clock.at - MINUTE)
        service = open_service(harness)
        harness.until(refreshed(service, 1))
        harness.clock.forward(minutes=5)
        tell(harness, harness.clock.at - MINUTE, object_id="t1")
        assert look(harness, account) == 0
        asks_daily(harness, at=AT_EIGHT + 15 * MINUTE)
        harness.clock.forward(minutes=11)
        harness.until(refreshed(service, 3))


@pytest.mark.usefixtures("ann")
class TestHowItIsRefreshed:
    def test_two_processes(self, harness: ServiceHarness, account: Any) -> None:
        """Of several services one makes the call; the others find the work done."""
        asks_daily(harness)
        harness.clock.at = AT_EIGHT - 10 * MINUTE
        harness.todoist.fail("ann", Fault.slow(delay_s=0.2))
        services = [open_service(harness) for _ in range(3)]
        tell(harness, harness.clock.at - MINUTE)
        harness.until(lambda: fetched_at(harness) > NOON)
        assert look(harness, account) == 0
        harness.until(refreshed(services[0], 2, "refreshed", *services[1:]))

    def test_todoist_fails(self, harness: ServiceHarness, account: Any) -> None:
        """A failed refresh leaves the context as it is, and is tried again after minutes, not at the next look."""
        asks_daily(harness)
        harness.clock.at = AT_EIGHT - 10 * MINUTE
        harness.todoist.fail("ann", *[Fault.server_error(500)] * 6)
        tell(harness, harness.clock.at - MINUTE)
        service = open_service(harness)
        harness.until(refreshed(service, 1, "failed"))
        assert (look(harness, account), fetched_at(harness)) == (0, NOON)
        harness.todoist.heal("ann")
        harness.clock.forward(minutes=6)
        harness.until(lambda: fetched_at(harness) > NOON)

    def test_requests_meanwhile(self, harness: ServiceHarness, account: Any) -> None:
        """While Todoist keeps refreshes waiting, a request is answered from the stored context at once."""
        asks_daily(harness)
        harness.clock.at = AT_EIGHT - 10 * MINUTE
        for number in range(6):
            user = f"user{number}"
            harness.add_with_context(user, account("call bob", "buy milk"), at=harness.clock.at - HOURS)
            asks_daily(harness, user)
            tell(harness, harness.clock.at - MINUTE, user)
            harness.todoist.fail(user, Fault.slow(delay_s=1.0))
        service = open_service(harness, todoist_timeout=5.0)
        harness.run(harness.todoist_called())
        answers = [service.tip(f"user{number}").body for number in range(6)]
        assert {answer["source"] for answer in answers} == {"stored"}
        assert service.metric("event_refreshes_total", outcome="refreshed") == 0
        harness.until(refreshed(service, 6))
        assert harness.calls()[0] == 6


def test_plan(harness: ServiceHarness) -> None:
    """However many users have stored events, a look finds those with unfolded events by an index."""
    harness.connection.execute(
        "INSERT INTO users (user_id, email, timezone) SELECT n, n, 'UTC' FROM generate_series(1, 5000) AS n"
    )
    harness.connection.execute(
        "INSERT INTO todoist_events (user_id, connection_number, object_type, object_id, event_name, object,"
        " is_ended, received_at, folded_form) SELECT n, 1, 'item', n, 'item:updated', '{}', FALSE, %(at)s,"
        " CASE WHEN mod(n, 1000) <> 0 THEN %(at)s::TIMESTAMPTZ END FROM generate_series(1, 5000) AS n",
        {"at": NOON},
    )
    harness.connection.execute("ANALYZE todoist_events")

    async def plan() -> str:
        async with asyncpg.create_pool(harness.database_url, min_size=1, max_size=1) as pool:
            query = f"EXPLAIN {queries('events', 'asyncpg').users_to_refresh.sql}"
            values = ("", None, 200, NOON, NOON, NOON, 0.8, NOON, NOON)
            return "\n".join(row[0] for row in await pool.fetch(query, *values))

    assert "Index Only Scan using todoist_events_unfolded" in harness.run(plan())
