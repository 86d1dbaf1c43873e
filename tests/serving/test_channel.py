"""Events in the service: what is known by them, and the watch over them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from service import HOURS, ServiceHarness
from world import NOON

from contexts.todoist.events import PendingEvent
from serving.channel import ChannelWatch
from serving.metrics import Metrics
from serving.pools import create_pool

DELAY = timedelta(seconds=5)


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
        """After an event the context is known as of its fetch only, and is assembled again if that is old."""
        service = covered.open(todoist_events="trusted", todoist_client_secrets="secret-of-the-app")
        tell(covered, PendingEvent("item", "t0", "item:updated", {}, None, NOON + 4 * HOURS))
        covered.clock.at = NOON + 7 * HOURS
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
                await ChannelWatch(pool, metrics, harness.clock).look()

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
