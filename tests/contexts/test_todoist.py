"""The client of Todoist over real HTTP, against everything that can go wrong there."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from contexts.todoist import (
    Credentials,
    OAuthApp,
    RequestRefused,
    SyncAnswer,
    Todoist,
    TodoistError,
    TodoistSession,
    TodoistUnavailable,
    TokenRefused,
)
from local.server import serving
from local.todoist import Call, Fault, FaultKind, LocalTodoist, running

CANARY = "canary-4711"
ONE_TRY = 1e-6  # seconds of patience: used up when the first try is over
APP = OAuthApp("the-app", f"secret-{CANARY}")
DOCUMENT: Mapping[str, Any] = {
    "full_sync": True,
    "sync_token": "x",
    "items": [{"id": "1", "content": f"text {CANARY}", "priority": 1, "project_id": "p"}],
    "projects": [{"id": "p", "name": "Home"}],
    "sections": [],
    "labels": [],
    "user": {"id": "1", "lang": "en", "tz_info": {"timezone": "UTC"}},
}


@dataclass
class Place:
    """A running local Todoist where every caller is a new user."""

    todoist: LocalTodoist
    url: str
    numbers: Iterator[int] = field(default_factory=count)

    def user(self, *faults: Fault) -> str:
        """A new user, whose token is `token-<user>`, and what goes wrong with the first calls."""
        user = f"user-{next(self.numbers)}"
        self.todoist.load(f"token-{user}", DOCUMENT, user=user)
        self.todoist.fail(user, *faults)
        return user

    def calls(self, user: str) -> list[Call]:
        return [call for call in self.todoist.calls if call.user == user and call.path == "/api/v1/sync"]

    def client(self, **options: Any) -> Todoist:
        return Todoist(self.url, **{"patience": 20.0, "read_timeout": 10.0, **options})

    def sync(self, user: str, sync_token: str | None = None, **options: Any) -> SyncAnswer:
        return together(self.client(**options), lambda session: session.sync(f"token-{user}", sync_token))


def together(todoist: Todoist, call: Callable[[TodoistSession], Awaitable[Any]]) -> Any:
    """What `call` gives in a session of its own."""

    async def run() -> Any:
        async with todoist.session() as session:
            return await call(session)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def places() -> Iterator[Mapping[str, Place]]:
    """A Todoist for either of the two answers that a forgotten sync token may get."""
    with ExitStack() as stack:
        found = {}
        for dead_token in ("full", "refuse"):
            todoist = LocalTodoist(dead_token=dead_token)
            found[dead_token] = Place(todoist, stack.enter_context(running(todoist)))
        yield found


@pytest.fixture
def place(places: Mapping[str, Place]) -> Place:
    return places["full"]


@dataclass
class Replies:
    """A server that gives one reply to everything and keeps what it was asked."""

    reply: Response
    asked: list[tuple[str, Mapping[str, list[str]], Mapping[str, str]]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        async def answer(request: Request) -> Response:
            form = parse_qs((await request.body()).decode())
            self.asked.append((request.url.path, form, dict(request.headers)))
            return self.reply

        return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


@pytest.fixture(scope="module")
def standing() -> Iterator[tuple[str, Replies]]:
    """The one server of such replies, and its URL."""
    replies = Replies(Response())
    with serving(replies.app, 0) as url:
        yield url, replies


@pytest.fixture
def answering(standing: tuple[str, Replies]) -> Callable[[Response], tuple[str, Replies]]:
    """From now on gives the one reply to everything; returns the server's URL and what it is asked."""
    url, replies = standing

    def start(reply: Response) -> tuple[str, Replies]:
        replies.reply, replies.asked = reply, []
        return url, replies

    return start


Answering = Callable[[Response], tuple[str, Replies]]


class TestSync:
    def test_everything(self, place: Place) -> None:
        """Without a sync token one full call brings everything that a context needs."""
        user = place.user()
        answer = place.sync(user)
        assert {key: answer.document[key] for key in ("items", "projects", "user")} == {
            key: DOCUMENT[key] for key in ("items", "projects", "user")
        }
        assert (answer.n_full, answer.n_incremental) == (1, 0)
        assert [call.full for call in place.calls(user)] == [True]

    def test_what_changed(self, place: Place) -> None:
        """With a sync token one call brings what changed since."""
        user = place.user()
        token = place.sync(user).document["sync_token"]
        place.todoist.advance(user, {"items": [{"id": "2", "content": "new"}]})
        answer = place.sync(user, token)
        assert [item["id"] for item in answer.document["items"]] == ["2"]
        assert (answer.document["full_sync"], answer.n_full, answer.n_incremental) == (False, 0, 1)
        assert [call.full for call in place.calls(user)] == [True, False]

    def test_request(self, answering: Answering) -> None:
        """The request is the one that the API describes: a form, the token in a header, five types."""
        url, replies = answering(JSONResponse(dict(DOCUMENT)))
        together(Todoist(f"{url}/"), lambda session: session.sync("the-token", "s1"))
        [(path, form, headers)] = replies.asked
        assert path == "/api/v1/sync"
        assert headers["authorization"] == "Bearer the-token"
        assert form["sync_token"] == ["s1"]
        assert set(json.loads(form["resource_types"][0])) == {"items", "projects", "sections", "labels", "user"}

    @pytest.mark.parametrize("dead_token", ["full", "refuse"])
    @pytest.mark.parametrize("which", ["forgotten", "foreign", "invented"])
    def test_dead_sync_token(self, places: Mapping[str, Place], dead_token: str, which: str) -> None:
        """A sync token that Todoist does not know any more leads to everything, with one full call at most."""
        place = places[dead_token]
        user, other = place.user(), place.user()
        token = "never-seen" if which == "invented" else place.sync(user).document["sync_token"]
        place.todoist.forget_sync_tokens(user)
        answer = place.sync(other if which == "foreign" else user, token)
        assert answer.document["full_sync"] is True
        assert [item["id"] for item in answer.document["items"]] == ["1"]
        assert (answer.n_full, answer.n_incremental) == ((0, 1) if dead_token == "full" else (1, 1))

    def test_refused_everything(self, answering: Answering) -> None:
        """A 400 for a full sync is no matter of sync tokens: it is refused and not asked again."""
        url, replies = answering(JSONResponse({"error_tag": "INVALID_ARGUMENT_VALUE"}, 400))
        with pytest.raises(RequestRefused) as raised:
            together(Todoist(url), lambda session: session.sync("t", "s1"))
        assert raised.value.status == 400
        assert [form["sync_token"] for _, form, _ in replies.asked] == [["s1"], ["*"]]


TRANSIENT = {
    "429 in JSON": Fault.rate_limited(0),
    "429 in text": Fault.rate_limited(0, body="text"),
    "429 without a header": Fault.rate_limited(0, header="none"),
    "429 with a date": Fault.rate_limited(0, header="date"),
    "429 without any time": Fault.rate_limited(0, header="none", body="text"),
    "500": Fault.server_error(500),
    "502": Fault.server_error(502),
    "503": Fault.server_error(503),
    "504": Fault.server_error(504),
    "too slow": Fault.slow(before=20),
    "too slow in the body": Fault.slow(inside=20),
    "cut": Fault.cut(),
    "cut in the body": Fault.cut(in_body=True),
    "half the JSON": Fault.truncated_json(),
    "a web page": Fault.html_page(),
    "{}": Fault.empty_object(),
    "items: null": Fault.null_items(),
}
HARMLESS = {
    "slow": Fault.slow(before=0.05, inside=0.05),
    "item without id": Fault.item_without_id(),
    "priority 0": Fault.wrong_priority(0),
    "priority 5": Fault.wrong_priority(5),
    "same item twice": Fault.same_item_twice(),
    "empty sync token": Fault.empty_sync_token(),
    "unasked full sync": Fault.unasked_full_sync(),
}


@pytest.fixture(scope="module")
def outcomes(places: Mapping[str, Place]) -> dict[str, tuple[str, Any]]:
    """What a sync gives of users with one fault each, all at once since each waits a moment."""
    place = places["full"]
    users = {name: place.user(fault) for name, fault in TRANSIENT.items()}

    async def run() -> list[Any]:
        async with place.client(read_timeout=1.5, concurrency=len(users)).session() as session:
            calls = (session.sync(f"token-{user}", None) for user in users.values())
            return await asyncio.gather(*calls, return_exceptions=True)

    given = asyncio.run(run())
    return {name: (user, outcome) for (name, user), outcome in zip(users.items(), given, strict=True)}


class TestFaults:
    def test_no_fault_is_forgotten(self) -> None:
        """Every kind of fault that the local Todoist knows is tried on the client."""
        tried = {fault.kind for fault in [*TRANSIENT.values(), *HARMLESS.values()]}
        assert tried | {FaultKind.INVALID_TOKEN} == set(FaultKind)

    @pytest.mark.parametrize("name", TRANSIENT)
    def test_what_may_pass_is_tried_again(
        self, place: Place, outcomes: dict[str, tuple[str, Any]], name: str
    ) -> None:
        """After something that may pass a second call brings the answer, and both are counted."""
        user, outcome = outcomes[name]
        assert isinstance(outcome, SyncAnswer), outcome
        assert [item["id"] for item in outcome.document["items"]] == ["1"]
        assert (outcome.n_full, outcome.n_incremental) == (2, 0)
        assert len(place.calls(user)) == 2

    @pytest.mark.parametrize("name", HARMLESS)
    def test_what_is_harmless_is_taken(self, place: Place, name: str) -> None:
        """An answer with a flaw that harms one item at most is taken at once."""
        user = place.user()
        token = place.sync(user).document["sync_token"]
        place.todoist.fail(user, HARMLESS[name])
        assert place.sync(user, token).n_incremental == 1
        assert len(place.calls(user)) == 2

    @pytest.mark.parametrize("fault", [Fault.rate_limited(0), Fault.server_error(503)], ids=["429", "503"])
    def test_three_tries(self, place: Place, fault: Fault) -> None:
        """After three tries the user's turn is over."""
        user = place.user(*[fault] * 4)
        with pytest.raises(TodoistUnavailable, match=str(fault.status)):
            place.sync(user)
        assert len(place.calls(user)) == 3

    def test_nobody_there(self) -> None:
        """A Todoist that cannot be reached at all is unavailable."""
        with pytest.raises(TodoistUnavailable, match="ConnectError"):
            together(Todoist("http://127.0.0.1:9", patience=ONE_TRY), lambda session: session.sync("t", None))

    def test_slow_all_along(self, place: Place) -> None:
        """read_timeout bounds a whole try: an answer that trickles in is given up like one that does not come."""
        user = place.user(Fault.slow(before=0.7, inside=0.7))
        place.sync(user, read_timeout=1.0)
        assert len(place.calls(user)) == 2

    def test_limit_of_the_user(self) -> None:
        """A user over Todoist's limit is left alone at once for as long as Todoist says; others are not touched."""
        todoist = LocalTodoist(full_limit=1)
        with running(todoist) as url:
            place = Place(todoist, url)
            greedy, other = place.user(), place.user()
            place.sync(greedy)
            with pytest.raises(TodoistUnavailable) as raised:
                place.sync(greedy)
            assert 800 < raised.value.retry_after <= 900
            assert [call.status for call in place.calls(greedy)] == [200, 429]
            assert place.sync(other).n_full == 1


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("fault", "seconds"),
        [
            (Fault.rate_limited(600), (600, 600)),
            (Fault.rate_limited(600, header="none"), (600, 600)),
            (Fault.rate_limited(0, header_after=600), (600, 600)),
            (Fault.rate_limited(600, header_after=5), (600, 600)),
            (Fault.rate_limited(5, header_after=600), (600, 600)),
            (Fault.rate_limited(600, body="text"), (600, 600)),
            (Fault.rate_limited(0, header="date", header_after=600), (560, 600)),
            (Fault.rate_limited(0, header="date", header_after=600, body="text"), (560, 600)),
        ],
        ids=["both", "body", "header", "larger body", "larger header", "text body", "date", "date and text body"],
    )
    def test_more_than_the_patience(self, place: Place, fault: Fault, seconds: tuple[float, float]) -> None:
        """When Todoist asks for more time than there is, nobody waits: the error says how long it would have been."""
        user = place.user(fault)
        with pytest.raises(TodoistUnavailable) as raised:
            place.sync(user)
        assert seconds[0] <= raised.value.retry_after <= seconds[1]
        assert len(place.calls(user)) == 1

    def test_waits_as_long_as_asked(self, place: Place) -> None:
        """The second try does not come before the time that header, body or date asked for."""
        users = [
            place.user(Fault.rate_limited(1)),
            place.user(Fault.rate_limited(1, header="none")),
            place.user(Fault.rate_limited(1, body="text")),
            place.user(Fault.rate_limited(0, header_after=1)),
            place.user(Fault.rate_limited(1, header_after=0)),
            place.user(Fault.rate_limited(0, header="date", header_after=2)),  # a date has no fractions of a second
        ]

        async def run() -> None:
            async with place.client().session() as session:
                await asyncio.gather(*(session.sync(f"token-{user}", None) for user in users))

        asyncio.run(run())
        for user in users:
            first, second = place.calls(user)
            assert second.at - first.at >= timedelta(seconds=1)

    def test_patience_is_for_all_tries(self, place: Place) -> None:
        """Two waits that fit into the patience one by one, but not together, are not both waited."""
        user = place.user(*[Fault.rate_limited(1)] * 3)
        with pytest.raises(TodoistUnavailable):
            place.sync(user, patience=1.8)
        assert len(place.calls(user)) == 2

    @pytest.mark.parametrize(
        ("header", "body"),
        [
            *((header, None) for header in ("", "-5", "nan", "inf", "1e400", "Tue, 99 Nov 2026 02:00:00 GMT")),
            *(("soon", body) for body in (None, "x", [], {"retry_after": "soon"}, {"retry_after": None})),
        ],
        ids=str,
    )
    def test_nonsense(self, answering: Answering, header: str, body: Any) -> None:
        """A time that cannot be read is none: it breaks nothing."""
        reply = JSONResponse({"error_extra": body}, 429, {"Retry-After": header})
        with pytest.raises(TodoistUnavailable):
            unavailable_at_once(answering(reply)[0])

    @pytest.mark.parametrize(
        ("header", "body"), [("0", 10**400), ("Mon, 01 Jan 99999999999 00:00:00 GMT", 0)], ids=["body", "date"]
    )
    def test_enormous(self, answering: Answering, header: str, body: int) -> None:
        """A time too large for a number is like any that cannot be read."""
        text = json.dumps({"error_extra": {"retry_after": body}})
        with pytest.raises(TodoistUnavailable):
            unavailable_at_once(answering(PlainTextResponse(text, 429, {"Retry-After": header}))[0])


def unavailable_at_once(url: str) -> None:
    together(Todoist(url, patience=ONE_TRY), lambda session: session.sync("t", None))


class TestRefusals:
    def test_revoked(self, place: Place) -> None:
        """A user who took back the access has to reconnect; that is not tried again, whatever the body says."""
        user = place.user()
        place.todoist.revoke(user)
        with pytest.raises(TokenRefused, match="403"):
            place.sync(user)
        assert [call.status for call in place.calls(user)] == [403]

    def test_refused_by_mistake(self, place: Place) -> None:
        """A valid token that Todoist calls invalid once is refused once and works the next time."""
        user = place.user(Fault.invalid_token())
        with pytest.raises(TokenRefused):
            place.sync(user)
        assert place.sync(user).n_full == 1

    def test_unknown_token(self, place: Place) -> None:
        """A token that Todoist never gave is refused with 401."""
        with pytest.raises(TokenRefused, match="401"):
            place.sync("nobody")

    def test_token_beyond_ascii(self, place: Place) -> None:
        """A token with a letter that no header can hold is a refusal like any other."""
        with pytest.raises(TodoistError) as raised:
            together(place.client(), lambda session: session.sync(f"“{CANARY}”", None))
        assert CANARY not in "".join(traceback.format_exception(raised.value))

    @pytest.mark.parametrize("status", [301, 403, 404, 405, 410, 413, 422])
    def test_refused_request(self, answering: Answering, status: int) -> None:
        """Any other refusal is not tried again, though its body may name a time to wait, and says its status."""
        url, replies = answering(JSONResponse({"error_extra": {"retry_after": 1}, "error_tag": "FORBIDDEN"}, status))
        with pytest.raises(RequestRefused) as raised:
            together(Todoist(url), lambda session: session.sync("t", None))
        assert raised.value.status == status
        assert len(replies.asked) == 1

    @pytest.mark.parametrize("body", ["", "forbidden", "[]", "null", '"AUTH_INVALID_TOKEN"'])
    def test_403_without_a_tag(self, answering: Answering, body: str) -> None:
        """A 403 that does not speak of the token does not disconnect the user."""
        url, _ = answering(PlainTextResponse(body, 403))
        with pytest.raises(RequestRefused):
            together(Todoist(url), lambda session: session.sync("t", None))


class TestRenewal:
    @pytest.fixture
    def granted(self, place: Place) -> tuple[str, Credentials]:
        """A user who agreed, and the tokens that the product got for it."""
        user = place.user()
        form = {"client_id": APP.client_id, "code": place.todoist.authorize(user)}
        given = httpx.post(f"{place.url}/oauth/access_token", data=form).json()
        return user, Credentials(given["access_token"], given["refresh_token"])

    def test_rotation(self, place: Place, granted: tuple[str, Credentials]) -> None:
        """Renewed tokens work, and the refresh token that gave them is used up."""
        _, old = granted
        client = place.client(app=APP)
        new = together(client, lambda session: session.renew(old))
        assert not {new.access_token, new.refresh_token} & {old.access_token, old.refresh_token}
        assert together(client, lambda session: session.sync(new.access_token, None)).n_full == 1
        with pytest.raises(TokenRefused, match="400"):
            together(client, lambda session: session.renew(old))

    def test_request(self, answering: Answering) -> None:
        """The request is the one that OAuth describes, and an answer without a refresh token keeps the old one."""
        url, replies = answering(JSONResponse({"access_token": "new"}))
        new = together(Todoist(url, app=APP), lambda session: session.renew(Credentials("old", "refresh")))
        assert new == Credentials("new", "refresh")
        [(path, form, headers)] = replies.asked
        assert path == "/oauth/access_token"
        assert "authorization" not in headers
        assert form == {
            "grant_type": ["refresh_token"],
            "refresh_token": ["refresh"],
            "client_id": [APP.client_id],
            "client_secret": [APP.client_secret],
        }

    @pytest.mark.parametrize(
        ("app", "refresh", "error"),
        [(None, "refresh", TodoistUnavailable), (APP, None, TokenRefused), (None, None, TokenRefused)],
    )
    def test_nothing_to_renew_with(
        self, place: Place, app: OAuthApp | None, refresh: str | None, error: type[Exception]
    ) -> None:
        """Nobody is asked without an app or a refresh token; a forgotten app disconnects no user."""
        n_calls = len(place.todoist.calls)
        with pytest.raises(error):
            together(place.client(app=app), lambda session: session.renew(Credentials("t", refresh)))
        assert len(place.todoist.calls) == n_calls

    def test_taken_back(self, place: Place, granted: tuple[str, Credentials]) -> None:
        """A refresh token that the user took back is refused."""
        user, old = granted
        place.todoist.revoke(user)
        with pytest.raises(TokenRefused):
            together(place.client(app=APP), lambda session: session.renew(old))

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_outage(self, answering: Answering, status: int) -> None:
        """When Todoist cannot renew at the moment, that is an outage and disconnects nobody."""
        url, _ = answering(PlainTextResponse("later", status))
        with pytest.raises(TodoistUnavailable):
            together(Todoist(url, app=APP, patience=ONE_TRY), lambda session: session.renew(Credentials("t", "r")))

    def test_nobody_there(self) -> None:
        """When nobody answers, that is an outage like any other."""
        client = Todoist("http://127.0.0.1:9", app=APP, patience=ONE_TRY)
        with pytest.raises(TodoistUnavailable):
            together(client, lambda session: session.renew(Credentials("t", "r")))

    @pytest.mark.parametrize("answer", [{}, {"error": "x"}, {"access_token": None}, {"access_token": 5}], ids=str)
    def test_answer_without_a_token(self, answering: Answering, answer: dict[str, Any]) -> None:
        """An answer in which no token stands is nonsense, and nothing that could be stored."""
        url, _ = answering(JSONResponse(answer))
        with pytest.raises(TodoistError):
            together(Todoist(url, app=APP, patience=ONE_TRY), lambda session: session.renew(Credentials("t", "r")))

    @pytest.mark.parametrize("body", ["", "<html>", "[]", "null"])
    def test_answer_that_is_no_object(self, answering: Answering, body: str) -> None:
        """An answer that is no JSON object is an outage."""
        url, _ = answering(PlainTextResponse(body))
        with pytest.raises(TodoistUnavailable):
            together(Todoist(url, app=APP, patience=ONE_TRY), lambda session: session.renew(Credentials("t", "r")))


class TestSecrets:
    def test_nothing_is_told(
        self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], answering: Answering
    ) -> None:
        """However it ends, no token, secret or text gets into a log, an output or an error, even at level DEBUG."""
        caplog.set_level(logging.DEBUG)
        todoist = LocalTodoist(dead_token="refuse")
        token, told = f"access-{CANARY}", list[str]()
        with running(todoist) as url:
            todoist.load(token, DOCUMENT, user="ann", refresh_token=f"refresh-{CANARY}")
            client = Todoist(url, app=APP, patience=2, read_timeout=0.3)
            told += failing(client, lambda session: session.sync(token, f"sync-{CANARY}"))
            for fault in [*TRANSIENT.values(), *HARMLESS.values(), Fault.invalid_token()]:
                todoist.fail("ann", fault)
                once = Todoist(url, app=APP, patience=ONE_TRY, read_timeout=0.1)
                told += failing(once, lambda session: session.sync(token, None))
            todoist.fail("ann", Fault.server_error(503))
            told += failing(client, lambda session: session.sync(token, None))
            todoist.revoke("ann")
            told += failing(client, lambda session: session.sync(token, None))
            told += failing(client, lambda session: session.renew(Credentials(token, f"refresh-{CANARY}")))
        assert len(todoist.calls) > len(TRANSIENT) + len(HARMLESS)
        for status in (200, 400, 403, 429, 500):
            url, _ = answering(JSONResponse({"error": CANARY, "access_token": CANARY, "items": CANARY}, status))
            client = Todoist(url, app=APP, patience=ONE_TRY)
            told += failing(client, lambda session: session.sync(token, None))
            told += failing(client, lambda session: session.renew(Credentials(token, f"refresh-{CANARY}")))
        assert len(told) > 3 * len(TRANSIENT)
        assert [record for record in caplog.records if record.name.startswith("httpcore")]
        everything = [*told, caplog.text, *capfd.readouterr(), *map(str, map(vars, caplog.records))]
        assert not [each for each in everything if CANARY in each]

    def test_credentials_are_not_shown(self) -> None:
        """Tokens and the app's secret do not show when their holders are printed."""
        assert CANARY not in f"{Credentials(CANARY, CANARY)} {OAuthApp(CANARY, CANARY)!r}"


def failing(todoist: Todoist, call: Callable[[TodoistSession], Awaitable[Any]]) -> list[str]:
    """What the error of a call says in a traceback, and nothing when it went well."""
    try:
        together(todoist, call)
    except TodoistError as error:
        return ["".join(traceback.format_exception(error)), repr(error), str(vars(error))]
    return []
