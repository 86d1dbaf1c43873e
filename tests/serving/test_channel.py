"""Events in the service: what is known by them, and the watch over them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from service import HOURS, ServiceHarness
from world import NOON

from contexts.todoist.accounts import FetchScope
from contexts.todoist.event_store import EventStore
from contexts.todoist.events import PendingEvent
from local.todoist import RegisteredApp
from serving.channel import ChannelWatch
from serving.metrics import Metrics
from serving.pools import create_pool

DELAY = timedelta(seconds=5)
SECRET = "secret-of-the-app"


@pytest.fixture
def covered(harness: ServiceHarness, account: Any) -> Iterator[ServiceHarness]:
    """Ann, whom trusted events cover; her context is of noon, and the channel is trusted until five hours later."""
    harness.world.night(NOON)
    harness.connection.execute(
        "UPDATE todoist_accounts SET oauth_connected_at = %s, events_confirmed_at = %s", (NOON, NOON)
    )
    harness.connection.execute(
        "UPDATE todoist_channel SET is_trusted = TRUE, trusted_until = %s, delay_p99 = %s, last_delivery_at = %s,"
        " endpoint_seen_at = %s",
        (NOON + 5 * HOURS, DELAY, NOON + 5 * HOURS, NOON + 5 * HOURS),
    )
    yield harness


def tell(harness: ServiceHarness, event: PendingEvent) -> None:
    harness.connection.execute(
        "INSERT INTO todoist_events (user_id, connection_number, object_type, object_id, event_name, object,"
        " is_ended, received_at)"
        " SELECT user_id, connection_number, %s, %s, %s, '{}', FALSE, %s FROM todoist_accounts",
        (event.object_type, event.object_id, event.name, event.received_at),
    )


@pytest.mark.usefixtures("ann")
class TestKnownBy:
    def test_silence(self, covered: ServiceHarness) -> None:
        """A context of seven hours ago is used without a call if no event has come since: the answer says by what."""
        service = covered.open(todoist_client_secrets="secret-of-the-app")
        covered.clock.at = NOON + 7 * HOURS
        body = service.tip().body
        assert (body["source"], body["known_by"]) == ("stored", "events")
        assert body["age_seconds"] == pytest.approx(2 * 3600 + 5, abs=0.01)
        assert covered.calls()[0] == 1  # the night's

    def test_an_event(self, covered: ServiceHarness) -> None:
        """After an event the context is known as of the event only, and is assembled again once that is old."""
        service = covered.open(todoist_events="trusted", todoist_client_secrets="secret-of-the-app")
        tell(covered, PendingEvent("item", "t0", "item:updated", {}, None, NOON + 4 * HOURS))
        covered.clock.at = NOON + 7 * HOURS
        body = service.tip().body
        assert (body["source"], body["known_by"], covered.calls()[0]) == ("stored", "events", 1)
        assert body["age_seconds"] == pytest.approx(3 * 3600 + 5, abs=0.01)
        covered.clock.at = NOON + 10 * HOURS
        body = service.tip().body
        assert (body["source"], body["known_by"], covered.calls()[0]) == ("inline", "fetch", 2)

    def test_off(self, covered: ServiceHarness) -> None:
        """With events off, trust in the channel makes no context fresher."""
        service = covered.open()
        covered.clock.at = NOON + 7 * HOURS
        body = service.tip().body
        assert (body["source"], body["known_by"]) == ("inline", "fetch")

    def test_the_context(self, covered: ServiceHarness) -> None:
        """The route of the context says as of when it is known, and whether it is fresh, as a tip does."""
        service = covered.open(todoist_client_secrets="secret-of-the-app")
        covered.clock.at = NOON + 7 * HOURS
        shown = service.request("GET", "/v1/users/ann/context").body
        assert (shown["known_by"], shown["is_fresh"]) == ("events", True)
        assert shown["age_seconds"] == pytest.approx(2 * 3600 + 5, abs=0.01)


@pytest.mark.usefixtures("ann")
class TestChannelWatch:
    def look(self, harness: ServiceHarness) -> Metrics:
        metrics = Metrics()

        async def once() -> None:
            async with create_pool(harness.database_url, n_connections=1, timeout_s=30) as pool:
                await ChannelWatch(pool, metrics, harness.clock).check()

        harness.run(once())
        return metrics

    def test_alive(self, covered: ServiceHarness) -> None:
        """While the endpoint is there, silence counts until now, and the metrics say that events are trusted."""
        covered.clock.at = NOON + 5 * HOURS + timedelta(minutes=1)
        metrics = self.look(covered)
        assert b"events_trusted 1.0" in metrics.render()
        assert covered.one("SELECT trusted_until - %s FROM todoist_channel", covered.clock.at) < timedelta(seconds=1)

    def test_after_an_outage(self, covered: ServiceHarness) -> None:
        """An outage of the endpoint of more than 45 minutes ends the trust, as of its begin."""
        covered.clock.at = NOON + 6 * HOURS
        metrics = self.look(covered)
        assert b"events_trusted 0.0" in metrics.render()
        assert covered.one("SELECT trusted_until FROM todoist_channel") == NOON + 5 * HOURS
        assert covered.one("SELECT trust_ended_by FROM todoist_channel") == "outage"


class WholeWay:
    """A user who signed in through the app, Todoist's stand-in, a service that listens, and the pipeline."""

    def __init__(self, harness: ServiceHarness, account: Any) -> None:
        self.harness, self.world, self.at = harness, harness.world, NOON
        self.world.events = "trusted"
        self.events = EventStore(harness.connection, "trusted")
        items = [
            {
                "id": f"t{number}",
                "content": f"water plant {number}",
                "project_id": "p",
                "updated_at": "2026-11-01T00:00:00Z",
            }
            for number in range(4)
        ]
        self.world.add("cara", account(*items, projects=[{"id": "p", "name": "Home"}]))
        self.service = harness.open(
            listens=True, todoist_events="trusted", todoist_client_secrets=SECRET, llm_model=None
        )
        webhook = f"{self.service.url}/v1/todoist/events"
        harness.todoist.register(RegisteredApp("ours", SECRET, "http://product/connected", webhook))
        form = {"client_id": "ours", "code": harness.todoist.authorize("cara")}
        harness.todoist.exchange("/oauth/access_token", form)
        harness.connection.execute("UPDATE todoist_accounts SET oauth_connected_at = %s", (NOON - HOURS,))
        self.later(0)

    def later(self, hours: int) -> None:
        """Let the clocks be so many hours after noon, with a running service meanwhile."""
        self.at = NOON + hours * HOURS
        self.harness.clock.at = self.at
        self.harness.todoist.set_clock(self.at)
        self.harness.connection.execute("UPDATE todoist_channel SET endpoint_seen_at = %s", (self.at,))
        self.events.watch(self.at, sees_endpoint=True)

    def change(self, item: dict[str, Any], *, is_lost: bool = False) -> None:
        """Change a task at Todoist, which delivers the event, or loses it."""
        self.harness.todoist.advance("cara", {"items": [item]}, silent=is_lost)
        self.harness.run(asyncio.to_thread(self.harness.todoist.deliver))

    def run(self, scope: FetchScope) -> dict[str, int]:
        """Run the pipeline, and return the counts of the asset that fetches."""
        counts: dict[str, int] = {}
        for result in self.world.night(self.at, scope=scope)["todoist_tasks"]:
            counts |= {name: counts.get(name, 0) + n for name, n in result.counts.items()}
        return counts

    def trust(self) -> None:
        """Give the channel as much evidence as trust needs."""
        sql = "INSERT INTO event_audits VALUES ('cara', %s, %s, 'incremental', 500, 0) ON CONFLICT DO NOTHING"
        self.harness.connection.execute(sql, (self.at - timedelta(minutes=1), self.at))
        assert self.events.judge(self.at).is_trusted


def test_the_whole_way(harness: ServiceHarness, account: Any) -> None:
    """A task completed in Todoist is folded without a call, and one whose event is lost is found by an audit."""
    way = WholeWay(harness, account)
    way.run(FetchScope.ALL)
    done = {"checked": True}
    way.later(1)
    way.change({"id": "t0", **done})
    way.later(2)
    assert way.run(FetchScope.ALL)["todoist_calls_incremental"] == 1
    way.trust()
    n_calls = len(harness.todoist.calls)

    way.later(3)
    way.change({"id": "t1", **done})
    way.later(8)
    counts = way.run(FetchScope.LIKELY)
    assert (counts["users_folded"], counts["events_folded"], len(harness.todoist.calls)) == (1, 1, n_calls)
    shown = way.service.request("GET", "/v1/users/cara/context").body
    assert {task["id"] for tasks in shown["context"]["tasks"].values() for task in tasks} == {"t2", "t3"}
    assert (shown["known_by"], shown["is_fresh"]) == ("events", True)
    assert way.service.tip("cara").body["known_by"] == "events"
    assert len(harness.todoist.calls) == n_calls

    way.change({"id": "t2", **done}, is_lost=True)
    way.later(12)
    counts = way.run(FetchScope.ALL)
    assert (counts["changes_audited"], counts["changes_missed"]) == (2, 1)
    assert [row["task_id"] for row in harness.world.rows("todoist_tasks")] == ["t3"]
