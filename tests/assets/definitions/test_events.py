"""Events of webhooks in the pipeline: changes without a call, audits of them, and the trust that audits give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb
from world import NOON, World

from assets.definitions import GRAPH
from assets.options import RunOptions
from assets.reports import events_lines
from assets.steps import StepRunner
from contexts.settings import EventsMode
from contexts.todoist.accounts import FetchScope
from contexts.todoist.credentials import Credentials
from contexts.todoist.event_store import Channel, EventStore

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PROJECTS = [{"id": "p", "name": "Home"}]
Document = dict[str, Any]


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def task(task_id: str, at: datetime = NOON - HOUR, **fields: Any) -> Document:
    return {"id": task_id, "content": f"Task {task_id}", "project_id": "p", "updated_at": stamp(at), **fields}


def tell(world: World, name: str, at: datetime, content: Document, user: str = "ann", delay_s: float = 5) -> None:
    """Store the event of a change at Todoist, as the service does when the webhook comes."""
    kind = name.partition(":")[0]
    world.connection.execute(
        "INSERT INTO todoist_events (user_id, connection_number, object_type, object_id, event_name, object,"
        " is_ended, updated_at, triggered_at, received_at)"
        " SELECT user_id, connection_number, %(kind)s, %(id)s, %(name)s, %(content)s, FALSE, %(at)s, %(at)s,"
        " %(received)s"
        " FROM todoist_accounts WHERE user_id = %(user)s ON CONFLICT (user_id, object_type, object_id) DO UPDATE"
        " SET event_name = excluded.event_name, object = excluded.object, updated_at = excluded.updated_at,"
        " triggered_at = excluded.triggered_at, received_at = excluded.received_at",
        {
            "kind": kind,
            "id": content["id"],
            "name": name,
            "content": Jsonb({key: value for key, value in content.items() if key != "id"}),
            "at": at,
            "received": at + timedelta(seconds=delay_s),
            "user": user,
        },
    )
    world.connection.execute(
        "UPDATE todoist_channel SET last_delivery_at = greatest(last_delivery_at, %s)",
        (at + timedelta(seconds=delay_s),),
    )


def change(world: World, name: str, at: datetime, content: Document, user: str = "ann") -> None:
    """Change an object at Todoist, and tell it by an event."""
    world.todoist.advance(user, {"items": [content]})
    tell(world, name, at, content, user)


def sign_in(world: World, user: str = "ann", at: datetime = NOON - DAY) -> None:
    """Mark a user as signed in through the product's app."""
    world.connection.execute("UPDATE todoist_accounts SET oauth_connected_at = %s WHERE user_id = %s", (at, user))


def trust(world: World, now: datetime, user: str = "ann") -> None:
    """Give the channel a history in which events missed nothing, and judge it."""
    world.connection.execute("UPDATE todoist_channel SET endpoint_seen_at = %s, last_delivery_at = %s", (now, now))
    world.connection.execute("INSERT INTO event_arrivals VALUES (%s, 5)", (now - HOUR,))
    world.connection.execute(
        "INSERT INTO event_audits VALUES (%s, %s, %s, 'incremental', 1000, 0) ON CONFLICT DO NOTHING",
        (user, now, now),
    )
    assert EventStore(world.connection, "trusted").judge(now).is_trusted


def cover(world: World, at: datetime, user: str = "ann") -> None:
    """Have an event of a user confirmed by a call."""
    change(world, "item:added", at - HOUR, task(f"c-{user}", at - HOUR), user)
    night(world, at)
    assert world.connection.execute(
        "SELECT is_covered FROM todoist_accounts WHERE user_id = %s", (user,)
    ).fetchone() == (True,)


def night(world: World, now: datetime, scope: FetchScope = FetchScope.ALL) -> Counter[str]:
    """Run all steps beside a running service, and return the sums of the counts of all assets."""
    service_runs(world, now)
    counts: Counter[str] = Counter()
    for results in world.night(now, scope=scope).values():
        for result in results:
            counts.update(result.counts)
    return counts


def service_runs(world: World, now: datetime) -> None:
    """Let a service with the endpoint have run until now."""
    world.connection.execute("UPDATE todoist_channel SET endpoint_seen_at = %s", (now,))
    EventStore(world.connection, world.events).watch(now, sees_endpoint=True)


def fold(world: World, now: datetime) -> Counter[str]:
    """Run all steps for the users who are due or have events."""
    return night(world, now, FetchScope.LIKELY)


def known(world: World, user: str = "ann", *, believes: bool = True) -> tuple[datetime, str]:
    """Return as of when a user's stored context is known, and by what, as a request finds it."""
    sql = (
        "SELECT known_at, CASE WHEN known_at > fetched_at THEN 'events' ELSE 'fetch' END"
        " FROM todoist_accounts a JOIN context_store c USING (user_id)"
        " CROSS JOIN LATERAL fetched_at(materialized_at, c.rows_digest, a.rows_digest, observed_at) AS fetched_at"
        " CROSS JOIN LATERAL known_as_of("
        "     a.user_id, a.connection_number, a.observed_at, a.is_covered, fetched_at, %s) AS known_at"
        " WHERE user_id = %s"
    )
    row = world.connection.execute(sql, (believes, user)).fetchone()
    assert row is not None
    return row[0], row[1]


def n_pending(world: World) -> int:
    row = world.connection.execute("SELECT count(*) FROM todoist_events").fetchone()
    assert row is not None
    return int(row[0])


def asks_daily(world: World, at: datetime, user: str = "ann") -> None:
    """Let a user have asked for a tip a day before an instant."""
    world.connection.execute(
        "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (%s, %s, %s)", (uuid4(), user, at - DAY)
    )


@pytest.fixture
def told(world: World, account: Callable[..., Document]) -> World:
    """A covered user with three tasks, last called at noon, and a trusted channel, an hour later."""
    world.events = "trusted"
    world.add("ann", account(task("a"), task("b"), projects=PROJECTS))
    sign_in(world)
    night(world, NOON - 2 * HOUR)
    cover(world, NOON)
    trust(world, NOON + HOUR)
    return world


def ids(world: World, user: str = "ann") -> set[str]:
    return {row["task_id"] for row in world.rows("todoist_tasks") if row["user_id"] == user}


class TestFolding:
    def test_a_completion(self, told: World) -> None:
        """A completion that an event tells is in the context without a call, which is then known by events."""
        n_calls, before = len(told.todoist.calls), told.stored()["ann"]
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        assert known(told) == (NOON + HOUR - timedelta(seconds=5), "events")
        counts = fold(told, NOON + 2 * HOUR)
        assert (counts["users_folded"], counts["events_folded"], counts["events_settled"]) == (1, 1, 1)
        assert (len(told.todoist.calls), ids(told)) == (n_calls, {"b", "c-ann"})
        after = told.stored()["ann"]
        assert '"id":"a"' in before["context_json"]
        assert '"id":"a"' not in after["context_json"]
        assert after["fetched_at"] == before["fetched_at"] == NOON
        assert known(told) == (NOON + 2 * HOUR - timedelta(seconds=5), "events")

    def test_the_next_call(self, told: World) -> None:
        """A call after folded events continues with the same sync token, and finds everything as it is."""
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        fold(told, NOON + 2 * HOUR)
        rows = told.rows("todoist_tasks")
        counts = night(told, NOON + 5 * HOUR)
        assert (counts["todoist_calls_incremental"], counts["todoist_calls_full"]) == (1, 0)
        assert (counts["changes_audited"], counts["changes_missed"]) == (1, 0)
        assert told.rows("todoist_tasks") == rows

    def test_a_late_event(self, told: World) -> None:
        """An event that is older than the stored end of its task does not bring the task back."""
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        fold(told, NOON + 2 * HOUR)
        tell(told, "item:updated", NOON + HOUR - timedelta(minutes=5), task("a", NOON), delay_s=5000)
        counts = fold(told, NOON + 3 * HOUR)
        assert (counts["events_folded"], counts["events_dropped"], n_pending(told)) == (0, 1, 0)
        assert "a" not in ids(told)

    def test_an_unclear_event(self, told: World) -> None:
        """An event that does not tell its change completely costs one incremental call, which answers it."""
        project = {"id": "q", "name": "New"}
        told.todoist.advance("ann", {"projects": [project], "items": [task("n", NOON + HOUR, project_id="q")]})
        tell(told, "project:added", NOON + HOUR, project)
        counts = fold(told, NOON + 2 * HOUR)
        assert (counts["users_folded"], counts["todoist_calls_incremental"]) == (0, 1)
        assert (ids(told), n_pending(told)) == ({"a", "b", "c-ann", "n"}, 0)

    def test_a_renamed_label(self, told: World) -> None:
        """A label that is renamed in Todoist costs one incremental call, which brings the tasks that have it."""
        told.todoist.advance("ann", {"items": [task("a", NOON + HOUR, labels=["house"])]}, silent=True)
        tell(told, "label:updated", NOON + HOUR, {"id": "l"})
        told.connection.execute("UPDATE todoist_events SET updated_at = NULL")
        counts = fold(told, NOON + 3 * HOUR)
        assert (counts["users_folded"], counts["todoist_calls_incremental"], counts["changes_missed"]) == (0, 1, 0)
        assert next(row["labels"] for row in told.rows("todoist_tasks") if row["task_id"] == "a") == ["house"]
        assert n_pending(told) == 0

    def test_a_run_that_died(self, told: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that is killed between the rows and the events repeats without harm: the next one fetches in full."""
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            patch.setattr(EventStore, "save", _die)
            fold(told, NOON + 2 * HOUR)
        assert (ids(told), n_pending(told)) == ({"b", "c-ann"}, 1)
        counts = fold(told, NOON + 2 * HOUR)
        assert (counts["todoist_calls_full"], n_pending(told), ids(told)) == (1, 0, {"b", "c-ann"})

    def test_a_run_that_died_before_the_context(self, told: World) -> None:
        """An event whose context is not stored yet is still pending: the row is known as of the event only."""
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        service_runs(told, NOON + 2 * HOUR)
        told.night(NOON + 2 * HOUR, scope=FetchScope.LIKELY, select=("todoist_tasks", "tip_reactions"))
        assert (ids(told), n_pending(told), known(told)) == ({"b", "c-ann"}, 1, (NOON + HOUR, "events"))
        counts = fold(told, NOON + 3 * HOUR)
        assert (counts["events_folded"], counts["events_settled"], n_pending(told)) == (0, 1, 0)
        assert known(told) == (NOON + 3 * HOUR - timedelta(seconds=5), "events")

    def test_a_newer_form_meanwhile(self, told: World) -> None:
        """A change that comes while an earlier one of the same task is folded is folded by the next run."""
        change(told, "item:updated", NOON + HOUR, task("a", NOON + HOUR, content="Second"))
        service_runs(told, NOON + 2 * HOUR)
        told.night(NOON + 2 * HOUR, scope=FetchScope.LIKELY, select=("todoist_tasks", "tip_reactions"))
        change(told, "item:updated", NOON + 2 * HOUR, task("a", NOON + 2 * HOUR, content="Third"))
        counts = fold(told, NOON + 3 * HOUR)
        assert (counts["events_folded"], n_pending(told)) == (1, 0)
        assert "Third" in told.stored()["ann"]["context_json"]

    def test_a_request_meanwhile(self, told: World) -> None:
        """Events of a user whose context a request has assembled since the last fetch wait for the next call."""
        told.connection.execute("UPDATE context_store SET materialized_at = %s", (NOON + HOUR,))
        change(told, "item:completed", NOON + 2 * HOUR, task("a", NOON + 2 * HOUR, checked=True))
        assert (fold(told, NOON + 3 * HOUR)["users_folded"], known(told)) == (0, (NOON + 2 * HOUR, "events"))
        counts = night(told, NOON + 4 * HOUR)
        assert (counts["changes_missed"], n_pending(told), known(told)) == (0, 0, (NOON + 4 * HOUR, "fetch"))
        assert "a" not in ids(told)

    @pytest.mark.parametrize("mode", ["off", "hints"])
    def test_other_modes(self, told: World, mode: EventsMode) -> None:
        """Events are not folded unless the mode is `trusted`; with `hints` they make a user due who will ask soon."""
        told.events = mode
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        asks_daily(told, NOON + 3 * HOUR)
        counts = fold(told, NOON + 2 * HOUR)
        assert (counts["users_folded"], counts["todoist_calls"]) == (0, int(mode == "hints"))
        assert ("a" in ids(told)) == (mode == "off")

    def test_who_will_not_ask(self, told: World) -> None:
        """With `hints`, a user with an event who will not ask before the next run is not called."""
        told.events = "hints"
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        assert fold(told, NOON + 2 * HOUR)["todoist_calls"] == 0

    def test_fetched_by_a_request(self, told: World) -> None:
        """With `hints`, a user whose context a request has assembled since the event is not called for it."""
        told.events = "hints"
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        told.connection.execute("UPDATE context_store SET materialized_at = %s", (NOON + 2 * HOUR,))
        asks_daily(told, NOON + 4 * HOUR)
        assert fold(told, NOON + 3 * HOUR)["todoist_calls"] == 0


def _die(*_: object) -> None:
    raise KeyboardInterrupt


class TestCover:
    def test_a_personal_token(self, told: World, account: Callable[..., Document]) -> None:
        """A user with a personal token is never covered, even if an event of the same account comes."""
        told.add("bob", account(task("a"), projects=PROJECTS))
        night(told, NOON + HOUR)
        change(told, "item:completed", NOON + 2 * HOUR, task("a", NOON + 2 * HOUR, checked=True), "bob")
        night(told, NOON + 4 * HOUR)
        change(told, "item:added", NOON + 5 * HOUR, task("n", NOON + 5 * HOUR), "bob")
        assert fold(told, NOON + 6 * HOUR)["users_folded"] == 0
        assert known(told, "bob") == (NOON + 4 * HOUR, "fetch")

    def test_a_replaced_account(self, told: World) -> None:
        """An account that is connected again is not covered until an event of the new connection is confirmed."""
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        told.accounts.add("ann", email="a@x.org", timezone="UTC", credentials=Credentials("token-of-ann"))
        sign_in(told, at=NOON + HOUR)
        assert fold(told, NOON + 2 * HOUR)["users_folded"] == 0
        night(told, NOON + 3 * HOUR)
        assert known(told) == (NOON + 3 * HOUR, "fetch")

    def test_a_disconnected_account(self, told: World) -> None:
        """Nothing is folded for an account that is not connected, or that Todoist refused in the last run."""
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        told.connection.execute("UPDATE todoist_accounts SET auth_failures = 1")
        assert fold(told, NOON + 2 * HOUR)["users_folded"] == 0
        told.connection.execute("UPDATE todoist_accounts SET auth_failures = 0, connected = FALSE")
        assert fold(told, NOON + 3 * HOUR)["users_folded"] == 0
        assert known(told) == (NOON, "fetch")

    @pytest.mark.parametrize("change_of", ["activity", "connection"])
    def test_a_pause(self, told: World, change_of: str) -> None:
        """A user who was inactive or disconnected, when no event was kept, is not covered on the return."""
        assert known(told)[1] == "events"
        if change_of == "activity":
            told.accounts.set_active("ann", active=False)
            told.accounts.set_active("ann", active=True)
        else:
            told.connection.execute("UPDATE todoist_accounts SET connected = FALSE")
            told.accounts.reconnect("ann")
        assert known(told) == (NOON, "fetch")

    def test_an_erased_user(self, told: World) -> None:
        """Nothing of the events of an erased user is left."""
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        fold(told, NOON + 2 * HOUR)
        change(told, "item:updated", NOON + 2 * HOUR, task("b", NOON + 2 * HOUR))
        assert told.accounts.remove("ann")
        for table in ("todoist_events", "todoist_tombstones", "event_audits"):
            assert told.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table

    def test_a_user_without_any_event(self, told: World) -> None:
        """The cover of a user ends with an audit that finds changes of which no event came."""
        told.todoist.advance("ann", {"items": [task("n", NOON + HOUR)]})
        night(told, NOON + 5 * HOUR)
        assert known(told) == (NOON + 5 * HOUR, "fetch")
        EventStore(told.connection, "trusted").watch(NOON + 9 * HOUR, sees_endpoint=True)
        assert known(told) == (NOON + 5 * HOUR, "fetch")

    def test_after_an_outage(self, told: World) -> None:
        """The cover of a user does not end with changes of which no event came because the channel was away."""
        told.todoist.advance("ann", {"items": [task("n", NOON + 2 * HOUR)]})
        assert not EventStore(told.connection, "trusted").watch(NOON + 4 * HOUR, sees_endpoint=True)
        assert night(told, NOON + 5 * HOUR)["changes_audited"] == 0
        assert told.connection.execute("SELECT is_covered FROM todoist_accounts").fetchone() == (True,)


class TestAudits:
    def channel(self, world: World) -> Channel:
        return EventStore(world.connection, "trusted").channel()

    def test_a_lost_event(self, told: World) -> None:
        """A change without an event is found by the audit and counted, and stands in the rows afterwards."""
        change(told, "item:updated", NOON + HOUR, task("a", NOON + HOUR, content="Told"))
        fold(told, NOON + 2 * HOUR)
        told.todoist.advance("ann", {"items": [task("b", NOON + 2 * HOUR, content="Untold")]})
        counts = night(told, NOON + 5 * HOUR)
        assert (counts["changes_audited"], counts["changes_missed"]) == (2, 1)
        assert {row["content"] for row in told.rows("todoist_tasks")} == {"Told", "Untold", "Task c-ann"}

    def test_an_audit_is_due(self, told: World) -> None:
        """A covered user is not called by the nightly run before the next audit, which comes later with evidence."""
        assert self.channel(told).audit_every == timedelta(days=6)
        for hours, n_calls in ((25, 0), (24 * 5, 0), (24 * 6, 1)):
            now = NOON + hours * HOUR
            asks_daily(told, now + DAY)
            assert night(told, now, FetchScope.NIGHTLY)["todoist_calls"] == n_calls, hours

    def test_every_fourth_audit_is_full(self, told: World) -> None:
        """Three audits of a user are incremental, and the fourth is a full one."""
        told.connection.execute("DELETE FROM event_audits")
        kinds = [night(told, NOON + hours * HOUR)["todoist_calls_full"] for hours in range(5, 11)]
        assert kinds == [0, 0, 0, 1, 0, 0]

    def test_too_many_misses(self, told: World) -> None:
        """Trust ends for everybody when audits find too many misses, and goes back to before them."""
        assert known(told) == (NOON + HOUR - timedelta(seconds=5), "events")
        change(told, "item:updated", NOON + HOUR, task("a", NOON + HOUR, content="Told"))
        untold = [task(f"n{number}", NOON + 2 * HOUR) for number in range(40)]
        told.todoist.advance("ann", {"items": untold})
        assert night(told, NOON + 5 * HOUR)["changes_missed"] == 40
        channel = self.channel(told)
        assert (channel.is_trusted, channel.trusted_until, channel.trust_ended_by) == (False, NOON, "misses")
        change(told, "item:updated", NOON + 6 * HOUR, task("b", NOON + 6 * HOUR))
        assert fold(told, NOON + 7 * HOUR)["users_folded"] == 0

    def test_trust_returns_after_misses(self, told: World) -> None:
        """After misses trust returns with few of them among all changes, or with enough clean ones since it ended."""
        for n_clean_since, n_audited, is_trusted in ((100, 0, False), (0, 3000, True), (149, 0, True)):
            told.connection.execute("DELETE FROM event_audits")
            told.connection.execute(
                "UPDATE todoist_channel SET is_trusted = FALSE, evidence_since = %s, outage_ended_at = %s",
                (NOON, NOON - 9 * DAY),
            )
            for since, n_changes, n_missed in (
                (NOON - DAY, 300, 30), (NOON - 2 * DAY, n_audited, 0), (NOON + HOUR, n_clean_since, 0),
            ):  # fmt: skip
                told.connection.execute(
                    "INSERT INTO event_audits VALUES ('ann', %s, %s, 'incremental', %s, %s)",
                    (since + HOUR, since, n_changes, n_missed),
                )
            service_runs(told, NOON + 2 * HOUR)
            assert EventStore(told.connection, "trusted").judge(NOON + 2 * HOUR).is_trusted == is_trusted

    def test_new_faults(self, told: World) -> None:
        """Audits come more often soon after events begin to be lost, however clean the weeks before were."""
        told.connection.execute("DELETE FROM event_audits")
        told.connection.execute("UPDATE todoist_channel SET outage_ended_at = %s", (NOON - 20 * DAY,))

        def audit(at: datetime, n_changes: int, n_missed: int) -> timedelta:
            told.connection.execute(
                "INSERT INTO event_audits VALUES ('ann', %s, %s, 'incremental', %s, %s)",
                (at, at, n_changes, n_missed),
            )
            service_runs(told, NOON + 2 * HOUR)
            return EventStore(told.connection, "trusted").judge(NOON + 2 * HOUR).audit_every

        audit(NOON - 10 * DAY, 10_000, 0)
        assert audit(NOON, 2000, 0) == 7 * DAY
        assert audit(NOON + HOUR, 300, 10) < 3 * DAY
        assert self.channel(told).is_trusted

    def test_silence(self, told: World) -> None:
        """A channel that is silent although many events came at that time of the day before is not trusted."""
        events = EventStore(told.connection, "trusted")
        for number in range(60):
            told.connection.execute(
                "INSERT INTO event_arrivals VALUES (%s, 5)", (NOON - DAY + timedelta(minutes=4 * number),)
            )
        assert events.watch(NOON + 90 * timedelta(minutes=1), sees_endpoint=True)
        assert self.channel(told).is_trusted
        assert not events.watch(NOON + 2 * HOUR, sees_endpoint=True)
        channel = self.channel(told)
        assert (channel.trusted_until, channel.trust_ended_by) == (NOON + HOUR, "silence")
        assert known(told) == (NOON + HOUR - timedelta(seconds=5), "events")
        change(told, "item:updated", NOON + 3 * HOUR, task("b", NOON + 3 * HOUR))
        assert fold(told, NOON + 4 * HOUR)["users_folded"] == 0

    def test_an_outage_of_the_endpoint(self, told: World) -> None:
        """Trust ends with an outage that outlasts Todoist's tries, as of its begin, and not with a shorter one."""
        events = EventStore(told.connection, "trusted")
        assert events.watch(NOON + HOUR + timedelta(minutes=44), sees_endpoint=True)
        assert not events.watch(NOON + HOUR + timedelta(minutes=90), sees_endpoint=True)
        channel = self.channel(told)
        assert (channel.is_trusted, channel.trust_ended_by) == (False, "outage")
        assert channel.trusted_until == NOON + HOUR + timedelta(minutes=44)

    def test_trust_returns(self, told: World) -> None:
        """After an outage only audits of later changes count: trust returns with as many clean ones as at first."""
        events = EventStore(told.connection, "trusted")
        assert not events.watch(NOON + 3 * HOUR, sees_endpoint=True)
        assert not events.judge(NOON + 3 * HOUR).is_trusted
        since, audited_at = NOON + 4 * HOUR, NOON + 28 * HOUR
        service_runs(told, audited_at)
        for n_changes, is_trusted in ((148, False), (149, True)):
            told.connection.execute(
                "INSERT INTO event_audits VALUES ('ann', %s, %s, 'incremental', %s, 0)"
                " ON CONFLICT (user_id, audited_at) DO UPDATE SET n_changes = excluded.n_changes",
                (audited_at, since, n_changes),
            )
            told.connection.execute("UPDATE todoist_channel SET last_delivery_at = %s", (audited_at,))
            assert events.judge(audited_at).is_trusted == is_trusted

    def test_misses_of_an_outage(self, told: World) -> None:
        """Changes from before the end of an outage count neither for nor against events after it."""
        events = EventStore(told.connection, "trusted")
        told.todoist.advance("ann", {"items": [task(f"n{number}", NOON + 2 * HOUR) for number in range(40)]})
        assert not events.watch(NOON + 3 * HOUR, sees_endpoint=True)
        change(told, "item:updated", NOON + 4 * HOUR, task("a", NOON + 4 * HOUR, content="Told"))
        counts = night(told, NOON + 6 * HOUR)
        assert (counts["changes_audited"], counts["changes_missed"]) == (1, 0)
        channel = self.channel(told)
        assert (channel.n_changes, channel.n_missed, channel.trust_ended_by) == (1, 0, "outage")

    def test_few_users(self, told: World) -> None:
        """Audits of three months count if those of four weeks have few changes, so that few users can be enough."""
        told.connection.execute("DELETE FROM event_audits")
        told.connection.execute("UPDATE todoist_channel SET outage_ended_at = NULL, is_trusted = FALSE")
        events = EventStore(told.connection, "trusted")

        def judge(days_ago: int, n_changes: int) -> tuple[int, bool]:
            at = NOON - days_ago * DAY
            told.connection.execute(
                "INSERT INTO event_audits VALUES ('ann', %s, %s, 'incremental', %s, 0)", (at, at, n_changes)
            )
            service_runs(told, NOON + 2 * HOUR)
            channel = events.judge(NOON + 2 * HOUR)
            return channel.n_changes, channel.is_trusted

        assert judge(1, 60) == (60, False)
        assert judge(80, 90) == (150, True)
        assert judge(2, 440) == (500, True)
        assert judge(91, 1000) == (500, True)

    def test_a_gap(self, told: World, account: Callable[..., Document]) -> None:
        """When trust returns, only users who were fetched since it ended are known by events, and spared calls."""
        told.add("bob", account(task("x"), projects=PROJECTS))
        sign_in(told, "bob")
        night(told, NOON + HOUR)
        cover(told, NOON + 3 * HOUR, "bob")
        events = EventStore(told.connection, "trusted")
        told.todoist.advance("ann", {"items": [task("n", NOON + 4 * HOUR)]})  # while the endpoint is away
        assert not events.watch(NOON + 5 * HOUR, sees_endpoint=True)
        for table, column in (("todoist_accounts", "observed_at"), ("context_store", "materialized_at")):
            sql = f"UPDATE {table} SET {column} = %s WHERE user_id = 'bob'"
            told.connection.execute(sql, (NOON + 6 * HOUR,))
        trust(told, NOON + 12 * HOUR, "bob")
        assert (known(told, "ann"), known(told, "bob")[1]) == ((NOON + 3 * HOUR, "fetch"), "events")
        change(told, "item:updated", NOON + 12 * HOUR, task("a", NOON + 12 * HOUR))
        assert events.users_to_fold(NOON + 13 * HOUR) == {}
        assert night(told, NOON + 24 * HOUR, FetchScope.NIGHTLY)["todoist_calls"] == 1
        assert "n" in ids(told)

    def test_a_clock_that_was_set_back(self, told: World) -> None:
        """Silence counts until the present, also if it counted until later because a clock was ahead."""
        events, at = EventStore(told.connection, "trusted"), NOON + HOUR + timedelta(minutes=1)
        told.connection.execute(
            "UPDATE todoist_channel SET trusted_until = %s, endpoint_seen_at = %s",
            (NOON + 300 * DAY, NOON + 300 * DAY),
        )
        assert events.watch(at, sees_endpoint=True)
        assert known(told) == (at - timedelta(seconds=5), "events")
        told.connection.execute(
            "UPDATE todoist_channel SET is_trusted = FALSE, trusted_until = %s", (NOON + 300 * DAY,)
        )
        events.watch(at, sees_endpoint=True)
        assert known(told) == (NOON, "fetch")

    def test_switched_off(self, told: World) -> None:
        """Events that were folded before events are switched off do not stay for ever, nor do their contexts."""
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        service_runs(told, NOON + 2 * HOUR)
        told.night(NOON + 2 * HOUR, scope=FetchScope.LIKELY, select=("todoist_tasks", "tip_reactions"))
        told.events = "off"
        night(told, NOON + 3 * HOUR)
        assert (n_pending(told), told.accounts.observations(NOON + 3 * HOUR).outdated) == (0, set())
        assert '"id":"a"' not in told.stored()["ann"]["context_json"]

    def test_off(self, told: World) -> None:
        """With events off nothing is judged, folded, counted or believed, and trust is gone."""
        told.events = "off"
        change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
        assert known(told, believes=False) == (NOON, "fetch")
        counts = night(told, NOON + 5 * HOUR)
        assert (counts["changes_audited"], counts["events_folded"], n_pending(told)) == (0, 0, 1)
        assert not self.channel(told).is_trusted


def test_the_plan_is_the_run(told: World) -> None:
    """Users with events are planned and named, and a second run right after finds nothing to do."""
    change(told, "item:completed", NOON + HOUR, task("a", NOON + HOUR, checked=True))
    options = RunOptions(FetchScope.LIKELY)
    runner = StepRunner(GRAPH, told.runtime, told.resources, NOON + 2 * HOUR, options)
    [line] = events_lines(runner.n_users_with_events)
    assert "1 have events" in line
    assert [entry.asset for entry in runner.plan("fetch_signals")[0]] == ["tip_reactions", "todoist_tasks"]
    fold(told, NOON + 2 * HOUR)
    results = told.night(NOON + 2 * HOUR, scope=FetchScope.LIKELY)
    assert all(not results[name] for name in GRAPH.assets)
