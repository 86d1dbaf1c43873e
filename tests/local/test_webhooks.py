"""Webhooks and sign-ins of the stand-in for Todoist."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Event
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from clock import Clock
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from contexts.todoist.webhooks import is_signed
from local.server import running_server
from local.todoist import DeliveryFaults, LocalTodoist, RegisteredApp, delivering, running_todoist

NIGHT = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
SECRET = "secret-of-the-app"
REDIRECT = "http://product.example/connected"


@dataclass
class Receiver:
    """An endpoint for webhooks that answers with one status after the other, and then with 200."""

    statuses: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    n_signed: int = 0
    has_come: Event = field(default_factory=Event)

    async def receive(self, request: Request) -> Response:
        body = await request.body()
        self.bodies.append(json.loads(body))
        self.ids.append(request.headers["x-todoist-delivery-id"])
        self.n_signed += is_signed(body, request.headers["x-todoist-hmac-sha256"].encode(), [SECRET])
        self.has_come.set()
        return Response(status_code=self.statuses.pop(0) if self.statuses else 200)

    @property
    def names(self) -> list[str]:
        return [body["event_name"] for body in self.bodies]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    yield Receiver()


@pytest.fixture
def url(receiver: Receiver) -> Iterator[str]:
    with running_server(Starlette(routes=[Route("/events", receiver.receive, methods=["POST"])]), 0) as base_url:
        yield f"{base_url}/events"


@pytest.fixture
def clock() -> Clock:
    return Clock(NIGHT)


@pytest.fixture
def todoist(clock: Clock, url: str) -> LocalTodoist:
    """A Todoist with Ada, who signed in through the app, and Bob, who gave a personal token."""
    todoist = LocalTodoist(clock=clock, seed=3)
    for user, number in (("ada", "1"), ("bob", "2")):
        owner = {"id": number, "email": f"{user}@x.org", "full_name": user}
        items = [{"id": "t1", "content": "call", "checked": False, "updated_at": "2026-11-01T00:00:00Z"}]
        projects = [{"id": "p1", "name": "Home", "is_archived": False}]
        lists = {"items": items, "projects": projects, "sections": [], "labels": []}
        todoist.load(f"token-of-{user}", {"full_sync": True, "user": owner, **lists}, user=user)
    todoist.register(RegisteredApp("ours", SECRET, REDIRECT, url))
    todoist.exchange("/oauth/access_token", {"client_id": "ours", "code": todoist.authorize("ada")})
    return todoist


def change(todoist: LocalTodoist, user: str = "ada", **fields: Any) -> None:
    todoist.advance(user, {"items": [{"id": "t1", "content": "call", **fields}]})


class TestEvents:
    @pytest.mark.parametrize(
        ("delta", "name"),
        [
            ({"items": [{"id": "t2", "content": "new"}]}, "item:added"),
            ({"items": [{"id": "t1", "content": "call bob"}]}, "item:updated"),
            ({"items": [{"id": "t1", "checked": True}]}, "item:completed"),
            ({"items": [{"id": "t1", "is_deleted": True}]}, "item:deleted"),
            ({"projects": [{"id": "p1", "name": "House"}]}, "project:updated"),
            ({"projects": [{"id": "p1", "is_archived": True}]}, "project:archived"),
            ({"sections": [{"id": "s1", "name": "Garden"}]}, "section:added"),
            ({"labels": [{"id": "l1", "name": "home"}]}, "label:added"),
        ],
    )
    def test_names(self, todoist: LocalTodoist, receiver: Receiver, delta: Any, name: str) -> None:
        """Each kind of change has its event."""
        todoist.advance("ada", delta)
        assert todoist.deliver() == 1
        assert receiver.names == [name]

    def test_body(self, todoist: LocalTodoist, receiver: Receiver) -> None:
        """An event has the whole object, who changed it, the time and the previous form, and is signed."""
        change(todoist, content="call bob", updated_at="2026-11-24T01:00:00Z")
        todoist.deliver()
        [body] = receiver.bodies
        assert receiver.n_signed == 1
        assert (body["user_id"], body["initiator"]["email"], body["version"]) == ("1", "ada@x.org", "10")
        assert body["event_data"] == {"id": "t1", "content": "call bob", "updated_at": "2026-11-24T01:00:00Z"}
        assert body["event_data_extra"]["old_item"]["content"] == "call"
        assert body["triggered_at"] == "2026-11-24T02:00:00.000000Z"

    def test_reopened(self, todoist: LocalTodoist, receiver: Receiver) -> None:
        """A task that is open again fires an event of its own."""
        change(todoist, checked=True)
        change(todoist, checked=False)
        todoist.deliver()
        assert receiver.names == ["item:completed", "item:uncompleted"]

    def test_recurring(self, todoist: LocalTodoist, receiver: Receiver) -> None:
        """A completed recurring task is updated, and only the intent tells."""
        change(todoist, due={"date": "2026-12-01", "is_recurring": True}, completed_count=1)
        todoist.deliver()
        assert receiver.names == ["item:updated"]
        assert receiver.bodies[0]["event_data_extra"]["update_intent"] == "item_completed"

    def test_personal_token(self, todoist: LocalTodoist, receiver: Receiver) -> None:
        """Changes of a user who did not sign in through the app fire no event, nor do those after a revocation."""
        change(todoist, "bob")
        todoist.revoke("ada")
        change(todoist, "ada")
        assert todoist.deliver() == 0

    def test_silent(self, todoist: LocalTodoist, receiver: Receiver) -> None:
        """A bulk edit fires nothing, but the next sync has it."""
        todoist.advance("ada", {"items": [{"id": "t1", "content": "call bob"}]}, silent=True)
        assert todoist.deliver() == 0
        assert todoist.document("ada")["items"][0]["content"] == "call bob"


class TestRepetition:
    @pytest.mark.parametrize("status", [500, 204, 202])
    def test_until_200(self, todoist: LocalTodoist, receiver: Receiver, clock: Clock, status: int) -> None:
        """Anything but a 200 is repeated after 15 minutes of the stand-in's clock, with the same id."""
        receiver.statuses = [status]
        change(todoist)
        assert (todoist.deliver(), todoist.deliver()) == (1, 0)
        clock.forward(minutes=15)
        assert (todoist.deliver(), todoist.deliver()) == (1, 0)
        assert len(set(receiver.ids)) == 1
        clock.forward(minutes=15)
        assert todoist.deliver() == 0

    def test_at_most_three_times(self, todoist: LocalTodoist, receiver: Receiver, clock: Clock) -> None:
        """After three repetitions the event is lost."""
        receiver.statuses = [503] * 10
        change(todoist)
        n_requests = 0
        for _ in range(10):
            n_requests += todoist.deliver()
            clock.forward(minutes=15)
        assert n_requests == len(receiver.bodies) == 4

    def test_cut_off(self, todoist: LocalTodoist, receiver: Receiver, clock: Clock) -> None:
        """An endpoint that is cut off for half an hour misses nothing; for an hour it loses the event."""
        for minutes, n_received in ((30, 1), (61, 1)):
            todoist.webhooks.cut_off_until = clock.at + timedelta(minutes=minutes)
            change(todoist, content=f"after {minutes}")
            for _ in range(6):
                todoist.deliver()
                clock.forward(minutes=15)
            assert len(receiver.bodies) == n_received

    def test_in_the_background(self, todoist: LocalTodoist, receiver: Receiver) -> None:
        """A thread delivers changes without a step for it."""
        with delivering(todoist, interval_s=0.01):
            change(todoist)
            assert receiver.has_come.wait(timeout=30)


class TestFaults:
    @pytest.fixture
    def contents(
        self, todoist: LocalTodoist, receiver: Receiver, clock: Clock
    ) -> Callable[[DeliveryFaults], list[str]]:
        """The contents of 40 changes in the order in which they arrive."""

        def contents(faults: DeliveryFaults) -> list[str]:
            todoist.webhooks.faults = faults
            for number in range(40):
                change(todoist, content=str(number), updated_at=f"2026-11-24T01:00:{number:02}Z")
            for _ in range(5):
                todoist.deliver()
                clock.forward(minutes=15)
            return [body["event_data"]["content"] for body in receiver.bodies]

        return contents

    def test_lost(self, contents: Callable[[DeliveryFaults], list[str]]) -> None:
        """Some events never come."""
        found = contents(DeliveryFaults(lost=0.3))
        assert 0 < len(found) < 40
        assert found == sorted(found, key=int)

    def test_doubled(self, contents: Callable[[DeliveryFaults], list[str]], receiver: Receiver) -> None:
        """Some deliveries come twice, with the same id."""
        found = contents(DeliveryFaults(doubled=0.3))
        assert set(map(int, found)) == set(range(40))
        assert len(set(receiver.ids)) == 40 < len(found)

    def test_reordered(self, contents: Callable[[DeliveryFaults], list[str]]) -> None:
        """Some events overtake the one before."""
        found = contents(DeliveryFaults(reordered=0.3))
        assert sorted(found, key=int) == list(map(str, range(40))) != found

    def test_delayed(self, contents: Callable[[DeliveryFaults], list[str]], todoist: LocalTodoist) -> None:
        """Some events come up to 45 minutes later."""
        found = contents(DeliveryFaults(delayed=0.3))
        assert sorted(found, key=int) == list(map(str, range(40))) != found
        assert {attempt.at - NIGHT for attempt in todoist.webhooks.attempts} > {timedelta(0)}

    def test_seed(self, url: str, clock: Clock) -> None:
        """The same seed draws the same ids and faults."""

        def waiting(seed: int) -> list[str]:
            todoist = LocalTodoist(clock=lambda: NIGHT, seed=seed)
            todoist.load("t", {"items": [], "user": {"id": "1"}}, user="ada")
            todoist.register(RegisteredApp("ours", SECRET, REDIRECT, url))
            todoist.exchange("/oauth/access_token", {"client_id": "ours", "code": todoist.authorize("ada")})
            todoist.webhooks.faults = DeliveryFaults(lost=0.5, doubled=0.5, reordered=0.5)
            for number in range(20):
                todoist.advance("ada", {"items": [{"id": str(number), "content": "x"}]})
            return [each.delivery_id for each in todoist.webhooks.waiting]

        assert waiting(1) == waiting(1) != waiting(2)


class TestSignIn:
    def test_agreement(self, todoist: LocalTodoist) -> None:
        """The page for agreement sends its visitor back with a code that is exchanged for tokens, and the state."""
        todoist.visit("bob")
        with running_todoist(todoist) as base_url:
            page = httpx.get(f"{base_url}/oauth/authorize?client_id=ours&scope=data:read&state=s%20t")
            assert page.status_code == 302
            assert page.headers["location"].startswith(f"{REDIRECT}?")
            query = parse_qs(urlsplit(page.headers["location"]).query)
            assert query["state"] == ["s t"]
            form = {"client_id": "ours", "client_secret": SECRET, "code": query["code"][0]}
            assert httpx.post(f"{base_url}/oauth/access_token", data=form).json()["token_type"] == "Bearer"

    def test_refusal(self, todoist: LocalTodoist) -> None:
        """A visitor who refuses comes back with an error and the state."""
        todoist.visit(None)
        answer = parse_qs(urlsplit(todoist.agreement({"client_id": "ours", "state": "s"})).query)
        assert answer == {"error": ["access_denied"], "state": ["s"]}

    def test_unknown_app(self, todoist: LocalTodoist) -> None:
        """The page does not know an app that is not registered."""
        with running_todoist(todoist) as base_url:
            assert httpx.get(f"{base_url}/oauth/authorize?client_id=other&state=s").status_code == 400

    def test_controls(self, todoist: LocalTodoist, url: str, receiver: Receiver) -> None:
        """Another process can register an app, sign a visitor in, and have events delivered, lost or cut off."""
        numbers = count(1)
        with running_todoist(todoist) as base_url, httpx.Client(base_url=f"{base_url}/_control") as http:

            def control(name: str, **body: Any) -> Any:
                assert next(numbers)
                return http.post(f"/{name}", json=body).raise_for_status().json()

            app = {"client_id": "new", "client_secret": SECRET, "redirect_url": REDIRECT, "webhook_url": url}
            control("register", **app)
            control("visit", user="bob")
            control("advance", user="ada", delta={"items": [{"id": "t1", "content": "call bob"}]})
            assert control("deliver") == {"n_requests": 1}
            control("disturb", lost=1.0)
            control("advance", user="ada", delta={"items": [{"id": "t1", "content": "call cid"}]})
            assert control("deliver") == {"n_requests": 0}
            control("disturb", cut_off_until=(NIGHT + timedelta(days=1)).isoformat())
            control("advance", user="ada", delta={"items": [{"id": "t1", "content": "call dan"}]})
            assert control("deliver") == {"n_requests": 1}
        assert receiver.names == ["item:updated"]
