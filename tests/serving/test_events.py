"""Todoist's webhooks: signature, outcome of each delivery, and their effect on the next tip."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from service import Service, ServiceHarness, is_problem, task_ids
from world import NOON

from contexts.postgres.sql import connect
from contexts.settings import SettingsError
from contexts.todoist.webhooks import read_event, signature_of
from local.todoist import DeliveryFaults, RegisteredApp
from serving.event_store import open_event_store
from serving.settings import ServingSettings

SECRET, OTHER_SECRET = "secret-of-the-app", "next-secret-of-the-app"
EVENTS = "/v1/todoist/events"
CANARY = "canary-4711"
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event(
    name: str = "item:completed",
    object_id: str = "t0",
    *,
    at: datetime = NOON,
    updated_at: datetime | None = NOON,
    owner: Any = "1",
    extra: Any = None,
    **fields: Any,
) -> dict[str, Any]:
    """The body of a delivery. at: of the event. updated_at: of the object."""
    ended = {"item:completed": {"checked": True}, "item:deleted": {"is_deleted": True}}.get(name, {})
    data = {"id": object_id, "content": f"water the plants {CANARY}", **ended, **fields}
    body = {
        "event_name": name,
        "user_id": owner,
        "event_data": data | {"updated_at": instant(updated_at) if updated_at else None},
        "initiator": {"id": "2", "email": f"{CANARY}@x.org", "full_name": CANARY},
        "triggered_at": instant(at),
        "version": "10",
    }
    return body if extra is None else body | {"event_data_extra": extra}


class Webhook:
    """Deliveries to a service, as Todoist makes them."""

    def __init__(self, harness: ServiceHarness, service: Service) -> None:
        self.harness, self.service, self.n_sent = harness, service, 0

    def send(self, body: Any, *, secret: str = SECRET, delivery_id: str | None = None, **headers: str) -> Any:
        """The response to one delivery. body: sent as it is if it is bytes."""
        return self.harness.run(self.sending(body, secret=secret, delivery_id=delivery_id, **headers))

    async def sending(
        self, body: Any, *, secret: str = SECRET, delivery_id: str | None = None, **headers: str
    ) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.n_sent += 1
        signed = {
            "X-Todoist-Hmac-SHA256": signature_of(secret, content).decode(),
            "X-Todoist-Delivery-ID": delivery_id or f"delivery-{self.n_sent}",
            "Authorization": "",
        }
        return await self.service.request_async("POST", EVENTS, content=content, headers=signed | headers)

    def outcome(self, body: Any, **options: Any) -> str:
        """The outcome of a delivery that was answered as Todoist wants it."""
        before = self.outcomes()
        response = self.send(body, **options)
        assert (response.status, response.text) == (200, ""), response.text
        [outcome] = [name for name, n in self.outcomes().items() if n > before.get(name, 0)]
        return outcome

    def outcomes(self) -> dict[str, float]:
        """The number of deliveries by outcome."""
        page = self.service.request("GET", "/metrics").text
        prefix = 'todoist_events_total{outcome="'
        lines = [line.removeprefix(prefix) for line in page.splitlines() if line.startswith(prefix)]
        return {name: float(n) for name, n in (line.split('"} ') for line in lines)}


@pytest.fixture
def service(harness: ServiceHarness) -> Service:
    return harness.open(listens=True, todoist_client_secrets=f"{SECRET},{OTHER_SECRET}")


@pytest.fixture
def webhook(harness: ServiceHarness, service: Service, ann: None) -> Webhook:
    """Deliveries for ann, whose id in Todoist is known."""
    own_account(harness, "ann", "1")
    return Webhook(harness, service)


def own_account(harness: ServiceHarness, user: str, todoist_user_id: str) -> None:
    harness.connection.execute(
        "UPDATE todoist_accounts SET todoist_user_id = %s WHERE user_id = %s", [todoist_user_id, user]
    )


def stored(harness: ServiceHarness) -> list[tuple[Any, ...]]:
    """The user, event name and object of each pending event."""
    return harness.rows("SELECT user_id, event_name, object FROM todoist_events ORDER BY user_id, object_id")


class TestSignature:
    def test_any_secret(self, webhook: Webhook) -> None:
        """A delivery that is signed with one of the client secrets is answered with 200 and an empty body."""
        assert webhook.outcome(event(object_id="t0")) == "stored"
        assert webhook.outcome(event(object_id="t1"), secret=OTHER_SECRET) == "stored"

    @pytest.mark.parametrize(
        "headers",
        [
            {"X-Todoist-Hmac-SHA256": signature_of("guessed", json.dumps(event()).encode()).decode()},
            {"X-Todoist-Hmac-SHA256": ""},
            {"X-Todoist-Hmac-SHA256": "sha256=abc"},
            {"X-Todoist-Hmac-SHA256": "=" * 44},
            {"Authorization": "Bearer token-of-the-product", "X-Todoist-Hmac-SHA256": ""},
        ],
    )
    def test_refused(self, harness: ServiceHarness, webhook: Webhook, headers: dict[str, str]) -> None:
        """A delivery with a wrong signature or none is refused and counted, whether it has a token or not."""
        response = webhook.send(event(), **headers)
        assert is_problem(response, 401, "not signed with one of TODOIST_CLIENT_SECRETS")
        assert (stored(harness), webhook.outcomes()) == ([], {"refused": 1})

    def test_raw_body(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """The signature is of the bytes that were sent: the same JSON with other blanks is refused."""
        body = json.dumps(event())
        signature = signature_of(SECRET, body.encode()).decode()
        assert webhook.send(body.encode() + b" ", **{"X-Todoist-Hmac-SHA256": signature}).status == 401
        assert stored(harness) == []

    @pytest.mark.parametrize(("n_bytes", "status"), [(262_144, 200), (262_145, 413)])
    def test_size(self, webhook: Webhook, n_bytes: int, status: int) -> None:
        """A body has a limit of its own, which is larger than that of requests with a token."""
        body = json.dumps(event()).encode()
        assert webhook.send(body + b" " * (n_bytes - len(body))).status == status


class TestOutcomes:
    def test_kept(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """Of an event only the fields are kept that the mirror reads: neither the initiator nor an e-mail address."""
        due = {"date": "2026-12-01", "lang": "en", "is_recurring": False, "string": "1 Dec", "timezone": None}
        webhook.send(event("item:updated", due=due, labels=["home"], note_count=3, user_email=f"{CANARY}@x.org"))
        [(user, name, kept)] = stored(harness)
        assert (user, name) == ("ann", "item:updated")
        assert kept == {
            "id": "t0",
            "content": f"water the plants {CANARY}",
            "due": {"date": "2026-12-01", "is_recurring": False, "string": "1 Dec", "timezone": None},
            "labels": ["home"],
            "updated_at": instant(NOON),
        }

    def test_same_delivery(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """A delivery that is repeated is answered like the first one, and counted as a duplicate."""
        assert webhook.outcome(event(), delivery_id="one") == "stored"
        assert webhook.outcome(event(), delivery_id="one") == "duplicate"
        assert len(stored(harness)) == 1

    def test_same_event(self, webhook: Webhook) -> None:
        """The same event under another delivery id changes nothing: it is no newer than the stored one."""
        assert webhook.outcome(event()) == "stored"
        assert webhook.outcome(event()) == "older"

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b"\xff", b"[" * 100_000, json.dumps(event(owner=None)).encode(), b'{"event_name": 5}'],
    )
    def test_unreadable(self, harness: ServiceHarness, webhook: Webhook, body: bytes) -> None:
        """A signed body that cannot be read is answered with 200, because a repetition would not help."""
        assert webhook.outcome(body) == "unreadable"
        assert stored(harness) == []

    @pytest.mark.parametrize("name", ["note:added", "reminder:fired", "filter:updated", "item:", "item", "goal:met"])
    def test_unknown(self, harness: ServiceHarness, webhook: Webhook, name: str) -> None:
        """An event about nothing that the mirror keeps is answered with 200."""
        assert webhook.outcome(event(name)) == "unknown"
        assert stored(harness) == []

    def test_labels(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """A renamed label is kept without its name, because tasks have changed; a new label changes none."""
        assert webhook.outcome(event("label:updated", "l")) == "stored"
        assert webhook.outcome(event("label:added", "m")) == "no_change"
        assert stored(harness) == [("ann", "label:updated", {})]

    @pytest.mark.parametrize("change", ["active", "connected", "owner"])
    def test_foreign(self, harness: ServiceHarness, webhook: Webhook, change: str) -> None:
        """An event for nobody who is active and connected is answered with 200, and not kept."""
        if change == "owner":
            own_account(harness, "ann", "5")
        else:
            table = "users" if change == "active" else "todoist_accounts"
            harness.connection.execute(f"UPDATE {table} SET {change} = FALSE")
        assert webhook.outcome(event()) == "foreign"
        assert stored(harness) == []

    def test_two_users(self, harness: ServiceHarness, webhook: Webhook, account: Any) -> None:
        """An event goes to every user who connected this account of Todoist."""
        harness.add_with_context("bob", account("call ann"))
        own_account(harness, "bob", "1")
        webhook.send(event(owner=1))
        assert [user for user, _, _ in stored(harness)] == ["ann", "bob"]

    def test_owner_of_an_inline_fetch(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """A fetch during a request tells whose account it is, so its events arrive."""
        harness.connection.execute("UPDATE todoist_accounts SET todoist_user_id = NULL")
        assert webhook.outcome(event()) == "foreign"
        harness.clock.forward(hours=7)
        assert webhook.service.tip().body["source"] == "inline"
        assert webhook.outcome(event(at=harness.clock.at)) == "stored"

    def test_odd_characters(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """Characters and numbers that Postgres cannot hold do not cost the event."""
        fields = {"content": "a\0b \ud800 \u202e", "priority": float("nan"), "description": "\0"}
        assert webhook.outcome(event("item:updated", **fields)) == "stored"
        [(_, _, kept)] = stored(harness)
        assert (kept["content"], kept["priority"]) == ("a b ? \u202e", None)

    @pytest.mark.parametrize("key", ["object_id", "owner"])
    def test_one_bad_event(self, harness: ServiceHarness, webhook: Webhook, key: str) -> None:
        """An event that Postgres could not hold, because of a very long id, costs none of those beside it."""
        long_id = "".join(sha256(bytes([number])).hexdigest() for number in range(200))
        bodies = [event(object_id=f"t{number}") for number in range(20)]
        wrong: dict[str, Any] = {key: long_id}
        bodies.insert(10, event(**wrong))
        responses = harness.together(*map(webhook.sending, bodies))
        assert [response.status for response in responses] == [200] * 21
        assert (len(stored(harness)), webhook.outcomes()["unreadable"]) == (20, 1)

    def test_many_at_once(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """Events that arrive together are all stored, several of one object included: its newest form."""
        bodies = [
            event("item:updated", f"t{number % 20}", updated_at=NOON + number * SECOND, content=f"form {number}")
            for number in range(100)
        ]
        responses = harness.together(*map(webhook.sending, bodies))
        assert {response.status for response in responses} == {200}
        assert sorted(kept["content"] for _, _, kept in stored(harness)) == [f"form {n}" for n in range(80, 100)]


class TestNewestForm:
    """Of two forms of an object the newer one stays, in whatever order they arrive."""

    NEW, OLD = NOON, NOON - MINUTE

    @pytest.mark.parametrize(
        ("newer", "older"),
        [
            (event("item:updated", updated_at=NEW), event("item:updated", updated_at=OLD)),
            (event("item:completed", updated_at=NEW), event("item:updated", updated_at=OLD)),
            (event("item:completed", updated_at=NEW), event("item:updated", updated_at=NEW, at=NOON + SECOND)),
            (event("item:deleted", updated_at=OLD), event("item:updated", updated_at=OLD)),
            (event("item:uncompleted", updated_at=NEW), event("item:completed", updated_at=OLD)),
            (event("item:updated", updated_at=None, at=NEW), event("item:updated", updated_at=NEW, at=OLD)),
            (event("item:updated", updated_at=NEW, at=NEW), event("item:completed", updated_at=None, at=OLD)),
            (event("item:updated", updated_at=NEW, at=NEW), event("item:updated", updated_at=NEW, at=OLD)),
        ],
    )
    @pytest.mark.parametrize("newer_first", [True, False])
    def test_order(
        self, harness: ServiceHarness, webhook: Webhook, newer: Any, older: Any, newer_first: bool
    ) -> None:
        """The later updated_at counts, an end before a change of the same time, else the time of the event."""
        newer, older = newer | {"event_data": newer["event_data"] | {"priority": 4}}, older
        outcomes = [webhook.outcome(body) for body in ((newer, older) if newer_first else (older, newer))]
        assert outcomes == (["stored", "older"] if newer_first else ["stored", "stored"])
        [(kept,)] = harness.rows("SELECT object FROM todoist_events")
        assert kept["priority"] == 4

    def test_since_when(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """The arrival of an object's first pending form is kept: since then the stored context may lack a change."""
        began_at = harness.clock.at
        for number in range(3):
            harness.clock.at = began_at + number * MINUTE
            assert webhook.outcome(event("item:updated", updated_at=began_at + number * SECOND)) == "stored"
        assert began_at <= harness.one("SELECT first_received_at FROM todoist_events") < began_at + MINUTE
        assert harness.one("SELECT received_at FROM todoist_events") >= began_at + 2 * MINUTE

    def test_replaced_account(self, harness: ServiceHarness, webhook: Webhook, account: Any) -> None:
        """A replaced account loses its pending events."""
        webhook.send(event())
        harness.world.add("ann", account("call bob"))
        assert stored(harness) == []


class TestLate:
    @pytest.mark.parametrize("age", [3 * HOUR + MINUTE, timedelta(days=2), -HOUR])
    def test_hint(self, harness: ServiceHarness, webhook: Webhook, age: timedelta) -> None:
        """A late event, which may be a captured request, says only that its object changed: no content, no time."""
        assert webhook.outcome(event(at=NOON - age, updated_at=NOON - age)) == "late"
        columns = "object, is_ended, updated_at"
        assert harness.rows(f"SELECT {columns} FROM todoist_events") == [({}, False, None)]
        assert harness.one("SELECT last_delivery_at FROM todoist_channel") is None

    def test_after_a_newer_form(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """A late event changes nothing of a form that is newer."""
        webhook.send(event())
        assert webhook.outcome(event("item:updated", at=NOON - 5 * HOUR)) == "late"
        assert [name for _, name, _ in stored(harness)] == ["item:completed"]

    def test_in_time(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """A delivery after three repetitions is in time, and says that the webhooks work."""
        assert webhook.outcome(event(at=NOON - 50 * MINUTE)) == "stored"
        assert harness.one("SELECT last_delivery_at FROM todoist_channel") >= NOON


class TestNextTip:
    def test_completed(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """A task that was completed is in no tip from then on, and no request calls Todoist for it."""
        first = webhook.service.tip()
        webhook.service.tip()
        n_calls = len(harness.todoist.calls)
        assert "t0" in task_ids(harness.candidates())
        webhook.send(event("item:completed", "t0"))
        tips = [webhook.service.tip() for _ in range(8)]
        assert "t0" not in task_ids(harness.candidates())
        assert all("t0" not in task_ids([answer.body["tip"]]) for answer in tips)
        assert len(harness.todoist.calls) == n_calls
        assert {answer.body["context_hash"] for answer in tips} == {first.body["context_hash"]}

    @pytest.mark.parametrize(
        ("body", "is_named"),
        [
            (event("item:deleted"), False),
            (event("item:updated", extra={"update_intent": "item_completed"}), False),
            (event("item:updated", extra={"update_intent": "item_updated"}), True),
            (event("item:completed", object_id="t9"), True),
        ],
    )
    def test_events(self, harness: ServiceHarness, webhook: Webhook, body: Any, is_named: bool) -> None:
        """A deletion and a completed recurring task end the task, too; a change does not."""
        webhook.service.tip()
        webhook.send(body)
        webhook.service.tip()
        assert ("t0" in task_ids(harness.candidates())) is is_named

    def test_the_llm(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """The LLM is not told of a task that has ended."""
        webhook.send(event())
        service = harness.open(llm_wait=2, todoist_client_secrets=SECRET)
        assert service.tip().origin == ("stored", "called")
        [call] = harness.llm.calls
        assert ("call bob" in call.prompt, "water the plants" in call.prompt) == (True, False)

    def test_fetched_since(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """An event from before the context was fetched says nothing about it: the task may be open again."""
        webhook.send(event())
        harness.clock.forward(hours=7)
        assert webhook.service.tip().body["source"] == "inline"
        assert "t0" in task_ids(harness.candidates())

    def test_repeated_after_the_fold(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """A captured completion that is sent again after its task was reopened and fetched hides nothing."""
        harness.clock.forward(hours=2)
        harness.connection.execute("UPDATE context_store SET materialized_at = %s", [NOON + 2 * HOUR - MINUTE])
        assert webhook.outcome(event(at=NOON + HOUR, updated_at=NOON + HOUR)) == "stored"
        webhook.service.tip()
        assert "t0" in task_ids(harness.candidates())

    def test_completed_and_reopened(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """A task that is reopened may be named again."""
        webhook.send(event())
        webhook.send(event("item:uncompleted", at=NOON + SECOND, updated_at=NOON + SECOND))
        webhook.service.tip()
        assert "t0" in task_ids(harness.candidates())

    @pytest.mark.parametrize(("intent", "is_named"), [("item_updated", False), ("item_uncompleted", True)])
    def test_recurring(self, harness: ServiceHarness, webhook: Webhook, intent: str, is_named: bool) -> None:
        """A completed recurring task stays out of the tips if it is edited then, unless that takes the end back."""
        webhook.send(event("item:updated", extra={"update_intent": "item_completed"}, checked=False))
        at = NOON + SECOND
        webhook.send(event("item:updated", at=at, updated_at=at, extra={"update_intent": intent}, checked=False))
        webhook.service.tip()
        assert ("t0" in task_ids(harness.candidates())) is is_named

    def test_hint_after_the_end(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """An event without a believable time does not bring a completed task back into the tips."""
        webhook.send(event())
        assert webhook.outcome(event("item:updated", at=NOON + 5 * HOUR)) == "late"
        webhook.service.tip()
        assert "t0" not in task_ids(harness.candidates())

    def test_other_account(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """An event of a replaced account says nothing about the present one."""
        webhook.send(event())
        harness.connection.execute("UPDATE todoist_events SET connection_number = connection_number - 1")
        webhook.service.tip()
        assert "t0" in task_ids(harness.candidates())


class TestTrouble:
    def test_without_database(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """While Postgres does not answer, a delivery is answered 503, and its repetition is stored."""
        with harness.without_database():
            assert is_problem(webhook.send(event(), delivery_id="one"), 503, "the database did not answer")
        harness.until(lambda: webhook.sending(event(), delivery_id="one"))
        harness.until(lambda: stored(harness))
        assert webhook.outcomes()["not_stored"] >= 1

    def test_deadlock(self, harness: ServiceHarness, webhook: Webhook) -> None:
        """A statement that Postgres gives up, because a fold holds the same rows in another order, is repeated."""
        for object_id in ("t0", "t1"):
            webhook.send(event(object_id=object_id))

        def lock(connection: Any, object_id: str) -> None:
            connection.execute("UPDATE todoist_events SET folded_at = now() WHERE object_id = %s", [object_id])

        def fold() -> None:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            with (
                connect(harness.database_url) as watch,
                connect(harness.database_url) as other,
                other.transaction(),
            ):
                other.execute("SET LOCAL deadlock_timeout = '1min'")  # so that the service's session is given up
                lock(other, "t1")
                has_begun.set()
                while not watch.execute(waiting).fetchone():
                    time.sleep(0.01)
                lock(other, "t0")

        has_begun = threading.Event()
        bodies = [event("item:updated", key, updated_at=NOON + MINUTE) for key in ("t0", "t1")]
        signed = [read_event(json.dumps(body).encode()) for body in bodies]

        async def write() -> list[str]:
            folding = asyncio.create_task(asyncio.to_thread(fold))
            await asyncio.to_thread(has_begun.wait, 30)
            async with open_event_store(harness.database_url, harness.clock) as store:
                outcomes = await asyncio.gather(*map(store.write, signed))
            await folding
            return list(outcomes)

        assert harness.run(write()) == ["stored", "stored"]

    def test_erasure(self, harness: ServiceHarness, webhook: Webhook, account: Any) -> None:
        """An erasure beside events of the user is done, and costs no event of others with the same account."""
        harness.add_with_context("bob", account("call ann"))
        own_account(harness, "bob", "1")
        webhook.send(event(object_id="t0"))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        bodies = [event("item:updated", key, updated_at=NOON + MINUTE) for key in ("t0", "t1")]
        signed = [read_event(json.dumps(body).encode()) for body in bodies]

        async def both() -> list[str]:
            async with open_event_store(harness.database_url, harness.clock) as store:
                with (
                    connect(harness.database_url) as watch,
                    connect(harness.database_url) as other,
                    other.transaction(),
                ):
                    other.execute("SET LOCAL deadlock_timeout = '10ms'")  # so that this session is given up
                    other.execute("SELECT FROM users WHERE user_id = 'bob' FOR UPDATE")
                    writing = asyncio.gather(*map(store.write, signed))
                    while not watch.execute(waiting).fetchone():
                        await asyncio.sleep(0.01)
                    other.execute("DELETE FROM users WHERE user_id = 'bob'")
                return list(await writing)

        assert harness.run(both()) == ["stored", "stored"]
        assert [user for user, _, _ in stored(harness)] == ["ann", "ann"]

    def test_flood_of_events(self, harness: ServiceHarness, ann: None) -> None:
        """Deliveries take no place of requests for tips, and the reverse."""
        service = harness.open(
            listens=True, todoist_client_secrets=SECRET, max_requests=1, max_event_requests=1, request_budget=5
        )
        own_account(harness, "ann", "1")
        webhook = Webhook(harness, service)

        async def both(n: int) -> list[int]:
            answers = await asyncio.gather(
                *(webhook.sending(event(object_id=f"t{number}")) for number in range(n)), service.tip_async()
            )
            return [answer.status for answer in answers]

        *events, tip = harness.run(both(30))
        assert tip == 200
        assert 200 in events
        assert set(events) <= {200, 503}

    def test_nothing_in_logs(self, webhook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
        """Nothing of a body is logged, whatever becomes of it."""
        caplog.set_level("DEBUG")
        webhook.send(event())
        webhook.send(event(), secret="wrong")
        webhook.send(event("note:added"))
        webhook.send(f'{{"{CANARY}'.encode())
        with webhook.harness.without_database():
            webhook.send(event(object_id="t1"))
        assert CANARY not in caplog.text

    def test_absent(self, harness: ServiceHarness, ann: None) -> None:
        """Without client secrets or with TODOIST_EVENTS=off there is nothing at the address, with a token or not."""
        for settings in ({}, {"todoist_client_secrets": SECRET, "todoist_events": "off"}):
            service = harness.open(**settings)
            assert is_problem(Webhook(harness, service).send(event()), 404, "there is nothing at this address")
            assert is_problem(service.request("POST", EVENTS), 404, "there is nothing at this address")
            assert EVENTS not in service.request("GET", "/openapi.json").body["paths"]

    def test_method(self, webhook: Webhook) -> None:
        """Another method than POST is refused."""
        assert webhook.service.request("PUT", EVENTS, content=b"{}").status == 405

    @pytest.mark.parametrize(
        ("secrets", "mode", "expected"),
        [("", None, "off"), (SECRET, None, "hints"), (SECRET, "trusted", "trusted"), (SECRET, "off", "off")],
    )
    def test_modes(self, secrets: str, mode: Any, expected: str) -> None:
        """Events are hints as soon as there are client secrets, unless TODOIST_EVENTS says otherwise."""
        settings = ServingSettings(
            service_tokens="token-of-the-product", todoist_client_secrets=secrets, todoist_events=mode
        )
        assert settings.events_mode == expected

    def test_mode_without_secrets(self) -> None:
        """Events without a client secret to verify them are a wrong setting."""
        with pytest.raises((SettingsError, ValueError), match="TODOIST_EVENTS=trusted needs TODOIST_CLIENT_SECRETS"):
            ServingSettings(service_tokens="token-of-the-product", todoist_events="trusted")


class TestOverTheStandIn:
    """Todoist's stand-in delivers its changes over HTTP to a service that listens."""

    @pytest.fixture
    def deliver(self, harness: ServiceHarness, webhook: Webhook) -> Callable[[], int]:
        """Ann has signed in through the app, which is registered with this service."""
        url = f"{webhook.service.url}{EVENTS}"
        harness.todoist.register(RegisteredApp("ours", SECRET, "http://product/connected", url))
        form = {"client_id": "ours", "code": harness.todoist.authorize("ann")}
        harness.todoist.exchange("/oauth/access_token", form)
        harness.todoist.set_clock(NOON)

        def step() -> int:
            n: int = harness.run(asyncio.to_thread(harness.todoist.deliver))
            return n

        return step

    def test_end_to_end(self, harness: ServiceHarness, webhook: Webhook, deliver: Callable[[], int]) -> None:
        """A task that is checked off in Todoist is not in the next tip, which needs no call."""
        webhook.service.tip()
        assert "t0" in task_ids(harness.candidates())
        n_calls = len(harness.todoist.calls)
        harness.finish_tasks("t0")
        assert deliver() == 1
        webhook.service.tip()
        assert "t0" not in task_ids(harness.candidates())
        assert len(harness.todoist.calls) == n_calls

    def test_faults(self, harness: ServiceHarness, webhook: Webhook, deliver: Callable[[], int]) -> None:
        """Doubled and reordered deliveries leave the newest form of each object."""
        harness.todoist.webhooks.faults = DeliveryFaults(doubled=0.5, reordered=0.5)
        for number in range(30):
            at = instant(NOON + number * SECOND)
            item = {"id": f"t{number % 3}", "content": f"form {number}", "updated_at": at}
            harness.todoist.advance("ann", {"items": [item]})
        assert deliver() > 30
        assert sorted(kept["content"] for _, _, kept in stored(harness)) == ["form 27", "form 28", "form 29"]
        assert webhook.outcomes()["duplicate"] > 0
