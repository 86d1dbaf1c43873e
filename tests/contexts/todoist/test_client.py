"""The client of Todoist over real HTTP, with every fault of the local Todoist."""

from __future__ import annotations

import asyncio
import gzip
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

from contexts.settings import OAuthApp
from contexts.todoist.client import (
    RequestRefused,
    ResponseUnreadable,
    SyncCalls,
    Todoist,
    TodoistError,
    TodoistSession,
    TodoistUnavailable,
    TokenRefused,
)
from contexts.todoist.credentials import Credentials
from local.server import running_server
from local.todoist import Fault, FaultKind, LocalTodoist, TodoistCall, running_todoist

CANARY = "canary-4711"
ONE_ATTEMPT_S = 1e-6  # a total timeout that has passed after the first attempt
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


@dataclass(frozen=True)
class Synced:
    """The document of a sync, with the number of full and incremental calls that it took."""

    document: Mapping[str, Any]
    n_full: int
    n_incremental: int


async def counted_sync(session: TodoistSession, access_token: str, sync_token: str | None = None) -> Synced:
    calls = SyncCalls()
    document = await session.sync(access_token, sync_token, calls)
    return Synced(document, calls.n_full, calls.n_incremental)


@dataclass
class TodoistServer:
    """A running local Todoist with a new user per test."""

    todoist: LocalTodoist
    url: str
    numbers: Iterator[int] = field(default_factory=count)

    def user(self, *faults: Fault) -> str:
        """Add a user with the token `token-<user>`, and faults of the user's first calls."""
        user = f"user-{next(self.numbers)}"
        self.todoist.load(f"token-{user}", DOCUMENT, user=user)
        self.todoist.fail(user, *faults)
        return user

    def calls(self, user: str) -> list[TodoistCall]:
        return [call for call in self.todoist.calls if call.user == user and call.path == "/api/v1/sync"]

    def client(self, **options: Any) -> Todoist:
        return Todoist(self.url, **{"total_timeout": 20.0, "attempt_timeout": 10.0, **options})

    def sync(self, user: str, sync_token: str | None = None, **options: Any) -> Synced:
        return in_session(self.client(**options), lambda session: counted_sync(session, f"token-{user}", sync_token))


def in_session(todoist: Todoist, call: Callable[[TodoistSession], Awaitable[Any]]) -> Any:
    """Run a call in a new session and return its result."""

    async def run() -> Any:
        async with todoist.session() as session:
            return await call(session)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def todoist_servers() -> Iterator[Mapping[str, TodoistServer]]:
    """One server for each response to a forgotten sync token: a full sync, or a refusal."""
    with ExitStack() as stack:
        servers = {}
        for dead_token in ("full", "refuse"):
            todoist = LocalTodoist(unknown_sync_token=dead_token)
            servers[dead_token] = TodoistServer(todoist, stack.enter_context(running_todoist(todoist)))
        yield servers


@pytest.fixture
def todoist_server(todoist_servers: Mapping[str, TodoistServer]) -> TodoistServer:
    return todoist_servers["full"]


@dataclass
class Replies:
    """A server with one reply to every request. requests: path, form and headers of each request."""

    reply: Response
    requests: list[tuple[str, Mapping[str, list[str]], Mapping[str, str]]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        async def answer(request: Request) -> Response:
            form = parse_qs((await request.body()).decode())
            self.requests.append((request.url.path, form, dict(request.headers)))
            return self.reply

        return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


@pytest.fixture(scope="module")
def replies_server() -> Iterator[tuple[str, Replies]]:
    """The URL of a server with one reply, and the server."""
    replies = Replies(Response())
    with running_server(replies.app, 0) as url:
        yield url, replies


@pytest.fixture
def answering(replies_server: tuple[str, Replies]) -> Callable[[Response], tuple[str, Replies]]:
    """Sets the reply; returns the server's URL and its requests."""
    url, replies = replies_server

    def start(reply: Response) -> tuple[str, Replies]:
        replies.reply, replies.requests = reply, []
        return url, replies

    return start


Answering = Callable[[Response], tuple[str, Replies]]


class TestSync:
    def test_everything(self, todoist_server: TodoistServer) -> None:
        """Without a sync token one full sync returns all data."""
        user = todoist_server.user()
        answer = todoist_server.sync(user)
        assert {key: answer.document[key] for key in ("items", "projects", "user")} == {
            key: DOCUMENT[key] for key in ("items", "projects", "user")
        }
        assert (answer.n_full, answer.n_incremental) == (1, 0)
        assert [call.full for call in todoist_server.calls(user)] == [True]

    def test_what_changed(self, todoist_server: TodoistServer) -> None:
        """With a sync token one incremental sync returns the changes."""
        user = todoist_server.user()
        token = todoist_server.sync(user).document["sync_token"]
        todoist_server.todoist.advance(user, {"items": [{"id": "2", "content": "new"}]})
        answer = todoist_server.sync(user, token)
        assert [item["id"] for item in answer.document["items"]] == ["2"]
        assert (answer.document["full_sync"], answer.n_full, answer.n_incremental) == (False, 0, 1)
        assert [call.full for call in todoist_server.calls(user)] == [True, False]

    def test_request(self, answering: Answering) -> None:
        """The request follows the API's documentation: a form, the token in a header, five resource types."""
        url, replies = answering(JSONResponse(dict(DOCUMENT)))
        in_session(Todoist(f"{url}/"), lambda session: session.sync("the-token", "s1"))
        [(path, form, headers)] = replies.requests
        assert path == "/api/v1/sync"
        assert headers["authorization"] == "Bearer the-token"
        assert form["sync_token"] == ["s1"]
        assert set(json.loads(form["resource_types"][0])) == {"items", "projects", "sections", "labels", "user"}

    @pytest.mark.parametrize("dead_token", ["full", "refuse"])
    @pytest.mark.parametrize("which", ["forgotten", "foreign", "invented"])
    def test_dead_sync_token(self, todoist_servers: Mapping[str, TodoistServer], dead_token: str, which: str) -> None:
        """A sync token that Todoist does not know leads to one full sync."""
        todoist_server = todoist_servers[dead_token]
        user, other = todoist_server.user(), todoist_server.user()
        token = "never-seen" if which == "invented" else todoist_server.sync(user).document["sync_token"]
        todoist_server.todoist.forget_sync_tokens(user)
        answer = todoist_server.sync(other if which == "foreign" else user, token)
        assert answer.document["full_sync"] is True
        assert [item["id"] for item in answer.document["items"]] == ["1"]
        assert (answer.n_full, answer.n_incremental) == ((0, 1) if dead_token == "full" else (1, 1))

    def test_refused_full_sync(self, answering: Answering) -> None:
        """A 400 response to a full sync is a refusal, without another attempt."""
        url, replies = answering(JSONResponse({"error_tag": "INVALID_ARGUMENT_VALUE"}, 400))
        with pytest.raises(RequestRefused) as raised:
            in_session(Todoist(url), lambda session: session.sync("t", "s1"))
        assert raised.value.status == 400
        assert [form["sync_token"] for _, form, _ in replies.requests] == [["s1"], ["*"]]


TRANSIENT = {
    "429 in JSON": Fault.rate_limited(0),
    "429 in text": Fault.rate_limited(0, body="text"),
    "429 without a header": Fault.rate_limited(0, header="none"),
    "429 with a date": Fault.rate_limited(0, header="date"),
    "429 without any time": Fault.rate_limited(0, header="none", body="text"),
    **{str(status): Fault.server_error(status) for status in (408, 425, 500, 502, 503, 504, *range(520, 525))},
    "too slow": Fault.slow(delay_s=20),
    "too slow in the body": Fault.slow(body_delay_s=20),
    "cut": Fault.disconnect(),
    "cut in the body": Fault.disconnect(in_body=True),
    "half the JSON": Fault.truncated_json(),
    "a web page": Fault.html_page(),
    "{}": Fault.empty_object(),
    "items: null": Fault.null_items(),
}
ACCEPTED = {
    "slow": Fault.slow(delay_s=0.05, body_delay_s=0.05),
    "item without id": Fault.item_without_id(),
    "priority 0": Fault.wrong_priority(0),
    "priority 5": Fault.wrong_priority(5),
    "item without content": Fault.unreadable_item(),
    "floats": Fault.float_numbers(),
    "same item twice": Fault.same_item_twice(),
    "empty sync token": Fault.empty_sync_token(),
    "unasked full sync": Fault.unexpected_full_sync(),
    "no full_sync": Fault.no_full_sync(),
}


@pytest.fixture(scope="module")
def outcomes(todoist_servers: Mapping[str, TodoistServer]) -> dict[str, tuple[str, Any]]:
    """The outcomes of users with one fault each, fetched concurrently to save time.

    Only the faults that are to run into the timeout have a short one.
    """
    todoist_server = todoist_servers["full"]
    users = {name: todoist_server.user(fault) for name, fault in TRANSIENT.items()}

    async def sync(name: str) -> Any:
        timeout = 3.0 if name.startswith("too slow") else 60.0
        async with todoist_server.client(attempt_timeout=timeout).session() as session:
            return await counted_sync(session, f"token-{users[name]}")

    async def run() -> list[Any]:
        return await asyncio.gather(*map(sync, users), return_exceptions=True)

    results = asyncio.run(run())
    return {name: (user, outcome) for (name, user), outcome in zip(users.items(), results, strict=True)}


class TestFaults:
    def test_every_fault_is_tested(self) -> None:
        """The tests of the client cover every kind of fault of the local Todoist."""
        tried = {fault.kind for fault in [*TRANSIENT.values(), *ACCEPTED.values()]}
        assert tried | {FaultKind.INVALID_TOKEN, FaultKind.DEEP_JSON} == set(FaultKind)

    @pytest.mark.parametrize("name", TRANSIENT)
    def test_retried(self, todoist_server: TodoistServer, outcomes: dict[str, tuple[str, Any]], name: str) -> None:
        """A transient fault is followed by a successful second call, and both calls are counted."""
        user, outcome = outcomes[name]
        assert isinstance(outcome, Synced), outcome
        assert [item["id"] for item in outcome.document["items"]] == ["1"]
        assert (outcome.n_full, outcome.n_incremental) == (2, 0)
        assert len(todoist_server.calls(user)) == 2

    @pytest.mark.parametrize("name", ACCEPTED)
    def test_accepted(self, todoist_server: TodoistServer, name: str) -> None:
        """A response with a fault in at most one item is accepted without another attempt."""
        user = todoist_server.user()
        token = todoist_server.sync(user).document["sync_token"]
        todoist_server.todoist.fail(user, ACCEPTED[name])
        assert todoist_server.sync(user, token).n_incremental == 1
        assert len(todoist_server.calls(user)) == 2

    @pytest.mark.parametrize("fault", [Fault.rate_limited(0), Fault.server_error(503)], ids=["429", "503"])
    def test_three_attempts(self, todoist_server: TodoistServer, fault: Fault) -> None:
        """The client gives up after three attempts."""
        user = todoist_server.user(*[fault] * 4)
        with pytest.raises(TodoistUnavailable, match=str(fault.status)):
            todoist_server.sync(user)
        assert len(todoist_server.calls(user)) == 3

    def test_failed_calls_are_counted(self, todoist_server: TodoistServer) -> None:
        """The calls of a sync that fails are counted, too."""
        user, calls = todoist_server.user(), SyncCalls()
        token = todoist_server.sync(user).document["sync_token"]
        todoist_server.todoist.fail(user, *[Fault.rate_limited(0)] * 2, Fault.rate_limited(600))
        with pytest.raises(TodoistUnavailable):
            in_session(todoist_server.client(), lambda session: session.sync(f"token-{user}", token, calls))
        assert (calls.n_full, calls.n_incremental) == (0, 3)

    def test_unreachable(self) -> None:
        """A Todoist that cannot be reached is unavailable."""
        with pytest.raises(TodoistUnavailable, match="ConnectError"):
            in_session(
                Todoist("http://127.0.0.1:9", total_timeout=ONE_ATTEMPT_S), lambda session: session.sync("t", None)
            )

    def test_slow_body(self, todoist_server: TodoistServer) -> None:
        """The attempt timeout applies to a whole attempt, including a slow body."""
        user = todoist_server.user(Fault.slow(delay_s=0.7, body_delay_s=0.7))
        todoist_server.sync(user, attempt_timeout=1.0)
        assert len(todoist_server.calls(user)) == 2

    def test_limit_of_the_user(self) -> None:
        """A user over the limit fails at once with the time to wait, and other users are not affected."""
        todoist = LocalTodoist(full_limit=1)
        with running_todoist(todoist) as url:
            todoist_server = TodoistServer(todoist, url)
            greedy, other = todoist_server.user(), todoist_server.user()
            todoist_server.sync(greedy)
            with pytest.raises(TodoistUnavailable) as raised:
                todoist_server.sync(greedy)
            assert 800 < raised.value.retry_after <= 900
            assert [call.status for call in todoist_server.calls(greedy)] == [200, 429]
            assert todoist_server.sync(other).n_full == 1


class TestDocuments:
    @pytest.mark.parametrize("depth", [2_000, 200_000])
    def test_too_deep(self, todoist_server: TodoistServer, depth: int) -> None:
        """A document that is nested too deep for the parser is unreadable, without another attempt."""
        user = todoist_server.user(Fault.deep_json(depth))
        with pytest.raises(ResponseUnreadable, match="RecursionError"):
            todoist_server.sync(user)
        assert len(todoist_server.calls(user)) == 1

    def test_deep_error(self, answering: Answering) -> None:
        """The body of an error may be too deep for the parser: the status decides."""
        url, _ = answering(PlainTextResponse("[" * 200_000, 503))
        with pytest.raises(TodoistUnavailable, match="503"):
            unavailable_at_once(url)

    @pytest.mark.parametrize("digits", [300, 301, 5_000])
    def test_enormous_integer(self, answering: Answering, digits: int) -> None:
        """An integer with more digits than Python reads does not make the document unreadable."""
        url, _ = answering(
            document_reply(json.dumps(DOCUMENT).replace('"priority": 1', f'"priority": {"9" * digits}'))
        )
        [item] = in_session(Todoist(url), lambda session: session.sync("t", None))["items"]
        assert item["priority"] == (float("inf") if digits > 300 else 10**300 - 1)

    @pytest.mark.parametrize(
        "body",
        [
            b"\xff\xfe\x00",
            json.dumps(DOCUMENT).encode("utf-16")[:-1],
            json.dumps(DOCUMENT).encode() + b"\xe2\x28",
            json.dumps(DOCUMENT).replace("Home", "\u00e4").encode() + b"}",
            b"NaN",
            b"",
        ],
    )
    def test_not_json(self, answering: Answering, body: bytes) -> None:
        """A body in a broken encoding, or with anything after the document, is a passing fault."""
        url, _ = answering(Response(body, media_type="application/json; charset=utf-7"))
        with pytest.raises(TodoistUnavailable):
            unavailable_at_once(url)

    @pytest.mark.parametrize("is_compressed", [False, True], ids=["plain", "compressed"])
    def test_too_large(self, answering: Answering, is_compressed: bool) -> None:
        """A body over the limit is unreadable without another attempt, also if it is small until decompressed."""
        body = json.dumps(DOCUMENT).encode()
        for n_spaces, is_read in ((2**20 - len(body), True), (2**20 - len(body) + 1, False)):
            padded = body + b" " * n_spaces
            headers = {"Content-Encoding": "gzip"} if is_compressed else {}
            url, replies = answering(Response(gzip.compress(padded) if is_compressed else padded, headers=headers))
            client = Todoist(url, max_response_bytes=2**20)
            if is_read:
                assert in_session(client, lambda session: session.sync("t", None))["items"]
            else:
                with pytest.raises(ResponseUnreadable, match="1,048,576 bytes"):
                    in_session(client, lambda session: session.sync("t", None))
            assert len(replies.requests) == 1

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
    def test_broken_compression(self, answering: Answering, encoding: str) -> None:
        """A body that cannot be decompressed, or in an encoding that was not requested, is a passing fault."""
        url, _ = answering(Response(json.dumps(DOCUMENT), headers={"Content-Encoding": encoding}))
        with pytest.raises(TodoistUnavailable, match=r"gzip|encoding"):
            unavailable_at_once(url)

    @pytest.mark.parametrize("location", ["http://[", "//", "http://\xff:99999999/", "ftp://x/", ""])
    def test_redirect(self, answering: Answering, location: str) -> None:
        """A redirect, even to an invalid address, is not followed and fails."""
        url, replies = answering(Response(status_code=302, headers={"Location": location}))
        with pytest.raises(TodoistError):
            unavailable_at_once(url)
        assert len(replies.requests) == 1

    @pytest.mark.parametrize("sync_token", [None, "s1"])
    def test_missing_full_sync(self, answering: Answering, sync_token: str | None) -> None:
        """A document that does not say what it is, is what was asked for."""
        document = {name: value for name, value in DOCUMENT.items() if name != "full_sync"}
        url, _ = answering(JSONResponse(document))
        answer = in_session(Todoist(url), lambda session: session.sync("t", sync_token))
        assert answer == {**document, "full_sync": sync_token is None}

    def test_missing_full_sync_after_a_dead_token(self) -> None:
        """After a sync token that Todoist refuses, a document without `full_sync` is the full one asked for then."""
        todoist = LocalTodoist(unknown_sync_token="refuse")
        with running_todoist(todoist) as url:
            todoist_server = TodoistServer(todoist, url)
            user = todoist_server.user(Fault.no_full_sync())
            answer = todoist_server.sync(user, "never-seen")
        assert (answer.document["full_sync"], answer.n_full, answer.n_incremental) == (True, 1, 1)

    @pytest.mark.parametrize("value", [None, "true", 1, 0, []], ids=repr)
    def test_wrong_full_sync(self, answering: Answering, value: object) -> None:
        """A document with anything but a boolean in `full_sync` is a passing fault."""
        url, _ = answering(JSONResponse({**DOCUMENT, "full_sync": value}))
        with pytest.raises(TodoistUnavailable, match="whether they are all"):
            unavailable_at_once(url)


def document_reply(body: str) -> Response:
    return Response(body, media_type="application/json")


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
    def test_longer_than_the_timeout(
        self, todoist_server: TodoistServer, fault: Fault, seconds: tuple[float, float]
    ) -> None:
        """The client does not wait longer than the total timeout; the error has the requested time."""
        user = todoist_server.user(fault)
        with pytest.raises(TodoistUnavailable) as raised:
            todoist_server.sync(user)
        assert seconds[0] <= raised.value.retry_after <= seconds[1]
        assert len(todoist_server.calls(user)) == 1

    def test_wait(self, todoist_server: TodoistServer) -> None:
        """The second attempt starts after the time in the header, body or date."""
        users = [
            todoist_server.user(Fault.rate_limited(1)),
            todoist_server.user(Fault.rate_limited(1, header="none")),
            todoist_server.user(Fault.rate_limited(1, body="text")),
            todoist_server.user(Fault.rate_limited(0, header_after=1)),
            todoist_server.user(Fault.rate_limited(1, header_after=0)),
            todoist_server.user(
                Fault.rate_limited(0, header="date", header_after=2)
            ),  # a date has no fractions of a second
        ]

        async def run() -> None:
            async with todoist_server.client().session() as session:
                await asyncio.gather(*(session.sync(f"token-{user}", None) for user in users))

        asyncio.run(run())
        for user in users:
            first, second = todoist_server.calls(user)
            assert second.at - first.at >= timedelta(seconds=1)

    def test_timeout_of_all_attempts(self, todoist_server: TodoistServer) -> None:
        """The total timeout applies to the sum of all waits."""
        user = todoist_server.user(*[Fault.rate_limited(1)] * 3)
        with pytest.raises(TodoistUnavailable):
            todoist_server.sync(user, total_timeout=1.8)
        assert len(todoist_server.calls(user)) == 2

    @pytest.mark.parametrize(
        ("header", "body"),
        [
            *((header, None) for header in ("", "-5", "nan", "inf", "1e400", "Tue, 99 Nov 2026 02:00:00 GMT")),
            *(("soon", body) for body in (None, "x", [], {"retry_after": "soon"}, {"retry_after": None})),
        ],
        ids=str,
    )
    def test_nonsense(self, answering: Answering, header: str, body: Any) -> None:
        """An invalid time is ignored."""
        reply = JSONResponse({"error_extra": body}, 429, {"Retry-After": header})
        with pytest.raises(TodoistUnavailable):
            unavailable_at_once(answering(reply)[0])

    @pytest.mark.parametrize(
        ("header", "body"), [("0", 10**400), ("Mon, 01 Jan 99999999999 00:00:00 GMT", 0)], ids=["body", "date"]
    )
    def test_enormous(self, answering: Answering, header: str, body: int) -> None:
        """A time that is too large for a number is ignored."""
        text = json.dumps({"error_extra": {"retry_after": body}})
        with pytest.raises(TodoistUnavailable):
            unavailable_at_once(answering(PlainTextResponse(text, 429, {"Retry-After": header}))[0])


def unavailable_at_once(url: str) -> None:
    in_session(Todoist(url, total_timeout=ONE_ATTEMPT_S), lambda session: session.sync("t", None))


class TestRefusals:
    def test_revoked(self, todoist_server: TodoistServer) -> None:
        """Revoked access is a refused token, without another attempt."""
        user = todoist_server.user()
        todoist_server.todoist.revoke(user)
        with pytest.raises(TokenRefused, match="403"):
            todoist_server.sync(user)
        assert [call.status for call in todoist_server.calls(user)] == [403]

    def test_refused_by_mistake(self, todoist_server: TodoistServer) -> None:
        """A valid token that Todoist refuses once works in the next sync."""
        user = todoist_server.user(Fault.invalid_token())
        with pytest.raises(TokenRefused):
            todoist_server.sync(user)
        assert todoist_server.sync(user).n_full == 1

    def test_unknown_token(self, todoist_server: TodoistServer) -> None:
        """An unknown token is refused with 401."""
        with pytest.raises(TokenRefused, match="401"):
            todoist_server.sync("nobody")

    def test_token_beyond_ascii(self, todoist_server: TodoistServer) -> None:
        """A token with characters that no header can contain is an error without the token."""
        with pytest.raises(TodoistError) as raised:
            in_session(todoist_server.client(), lambda session: session.sync(f"“{CANARY}”", None))
        assert CANARY not in "".join(traceback.format_exception(raised.value))

    @pytest.mark.parametrize("status", [301, 403, 404, 405, 410, 413, 422])
    def test_refused_request(self, answering: Answering, status: int) -> None:
        """Any other refusal has its status and is not retried, even if its body has a time to wait."""
        url, replies = answering(JSONResponse({"error_extra": {"retry_after": 1}, "error_tag": "FORBIDDEN"}, status))
        with pytest.raises(RequestRefused) as raised:
            in_session(Todoist(url), lambda session: session.sync("t", None))
        assert raised.value.status == status
        assert len(replies.requests) == 1

    @pytest.mark.parametrize("body", ["", "forbidden", "[]", "null", '"AUTH_INVALID_TOKEN"'])
    def test_403_without_a_tag(self, answering: Answering, body: str) -> None:
        """A 403 without the tag of an invalid token is not a refused token."""
        url, _ = answering(PlainTextResponse(body, 403))
        with pytest.raises(RequestRefused):
            in_session(Todoist(url), lambda session: session.sync("t", None))


class TestExchange:
    def test_signed_in(self, todoist_server: TodoistServer) -> None:
        """The code of a user who agreed is exchanged once for tokens, which tell whose they are."""
        user = todoist_server.user()
        code, client = todoist_server.todoist.authorize(user), todoist_server.client(app=APP)
        tokens = in_session(client, lambda session: session.exchange(code))
        assert tokens.refresh_token
        owner = in_session(client, lambda session: session.owner(tokens.access_token))
        assert owner.todoist_user_id
        with pytest.raises(TokenRefused, match="the authorization code was refused"):
            in_session(client, lambda session: session.exchange(code))

    def test_owner(self, answering: Answering) -> None:
        """Of Todoist's user object only id, email and time zone are read: it can hold the user's own token."""
        user = {"id": 7, "email": "a@x.org", "tz_info": {"timezone": "Europe/Berlin"}, "token": CANARY}
        url, _ = answering(JSONResponse(user))
        owner = in_session(Todoist(url), lambda session: session.owner("t"))
        assert (owner.todoist_user_id, owner.email, owner.timezone) == ("7", "a@x.org", "Europe/Berlin")
        assert CANARY not in repr(owner)

    @pytest.mark.parametrize(
        ("reply", "error"),
        [
            (JSONResponse({}, 503), TodoistUnavailable),
            (JSONResponse({"error": "bad_authorization_code"}, 400), TokenRefused),
            (JSONResponse({"error": "invalid_client"}, 400), RequestRefused),
            (JSONResponse({"token_type": "Bearer"}), TodoistUnavailable),
        ],
    )
    def test_refused(self, answering: Answering, reply: Any, error: type[Exception]) -> None:
        """A refused code, a refused app and an unavailable Todoist are different errors."""
        url, _ = answering(reply)
        with pytest.raises(error):
            in_session(Todoist(url, app=APP), lambda session: session.exchange("code"))

    @pytest.mark.parametrize("reply", [JSONResponse({}), JSONResponse([]), JSONResponse({"id": None})])
    def test_no_owner(self, answering: Answering, reply: Any) -> None:
        """A response that does not say whose token it is is no answer."""
        url, _ = answering(reply)
        with pytest.raises(TodoistUnavailable):
            in_session(Todoist(url), lambda session: session.owner("t"))


class TestRenewal:
    @pytest.fixture
    def granted(self, todoist_server: TodoistServer) -> tuple[str, Credentials]:
        """A user that granted access to the product, and the granted tokens."""
        user = todoist_server.user()
        form = {"client_id": APP.client_id, "code": todoist_server.todoist.authorize(user)}
        tokens = httpx.post(f"{todoist_server.url}/oauth/access_token", data=form).json()
        return user, Credentials(tokens["access_token"], tokens["refresh_token"])

    def test_rotation(self, todoist_server: TodoistServer, granted: tuple[str, Credentials]) -> None:
        """Renewed tokens are valid, and the old refresh token is not."""
        _, old = granted
        client = todoist_server.client(app=APP)
        new = in_session(client, lambda session: session.renew(old))
        assert not {new.access_token, new.refresh_token} & {old.access_token, old.refresh_token}
        assert in_session(client, lambda session: counted_sync(session, new.access_token)).n_full == 1
        with pytest.raises(TokenRefused, match="400"):
            in_session(client, lambda session: session.renew(old))

    def test_request(self, answering: Answering) -> None:
        """The request follows OAuth, and a response without a refresh token keeps the previous one."""
        url, replies = answering(JSONResponse({"access_token": "new"}))
        new = in_session(Todoist(url, app=APP), lambda session: session.renew(Credentials("old", "refresh")))
        assert new == Credentials("new", "refresh")
        [(path, form, headers)] = replies.requests
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
    def test_renewal_is_impossible(
        self, todoist_server: TodoistServer, app: OAuthApp | None, refresh: str | None, error: type[Exception]
    ) -> None:
        """Without an app or a refresh token no call is made; a missing app does not disconnect users."""
        n_calls = len(todoist_server.todoist.calls)
        with pytest.raises(error):
            in_session(todoist_server.client(app=app), lambda session: session.renew(Credentials("t", refresh)))
        assert len(todoist_server.todoist.calls) == n_calls

    def test_revoked(self, todoist_server: TodoistServer, granted: tuple[str, Credentials]) -> None:
        """A revoked refresh token is refused."""
        user, old = granted
        todoist_server.todoist.revoke(user)
        with pytest.raises(TokenRefused):
            in_session(todoist_server.client(app=APP), lambda session: session.renew(old))

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524])
    def test_outage(self, answering: Answering, status: int) -> None:
        """If Todoist is temporarily unable to renew tokens, it is unavailable."""
        url, _ = answering(PlainTextResponse("later", status))
        with pytest.raises(TodoistUnavailable):
            in_session(
                Todoist(url, app=APP, total_timeout=ONE_ATTEMPT_S),
                lambda session: session.renew(Credentials("t", "r")),
            )

    @pytest.mark.parametrize(
        ("status", "error", "expected"),
        [
            (400, "invalid_grant", TokenRefused),
            (401, None, TokenRefused),
            (403, [], TokenRefused),
            (400, "invalid_client", RequestRefused),
            (401, "unauthorized_client", RequestRefused),
            (302, None, RequestRefused),
            (404, None, RequestRefused),
            (422, None, RequestRefused),
        ],
    )
    def test_refusal(self, answering: Answering, status: int, error: object, expected: type[TodoistError]) -> None:
        """Only a refusal of the refresh token disconnects users: a wrong app or address is not their fault."""
        url, _ = answering(JSONResponse({"error": error}, status))
        with pytest.raises(expected):
            in_session(Todoist(url, app=APP), lambda session: session.renew(Credentials("t", "r")))

    def test_unreachable(self) -> None:
        """A Todoist that cannot be reached is unavailable."""
        client = Todoist("http://127.0.0.1:9", app=APP, total_timeout=ONE_ATTEMPT_S)
        with pytest.raises(TodoistUnavailable):
            in_session(client, lambda session: session.renew(Credentials("t", "r")))

    @pytest.mark.parametrize("answer", [{}, {"error": "x"}, {"access_token": None}, {"access_token": 5}], ids=str)
    def test_response_without_a_token(self, answering: Answering, answer: dict[str, Any]) -> None:
        """A response without an access token is an error."""
        url, _ = answering(JSONResponse(answer))
        with pytest.raises(TodoistError):
            in_session(
                Todoist(url, app=APP, total_timeout=ONE_ATTEMPT_S),
                lambda session: session.renew(Credentials("t", "r")),
            )

    @pytest.mark.parametrize("body", ["", "<html>", "[]", "null"])
    def test_response_without_an_object(self, answering: Answering, body: str) -> None:
        """If the response is not a JSON object, Todoist is unavailable."""
        url, _ = answering(PlainTextResponse(body))
        with pytest.raises(TodoistUnavailable):
            in_session(
                Todoist(url, app=APP, total_timeout=ONE_ATTEMPT_S),
                lambda session: session.renew(Credentials("t", "r")),
            )


class TestSecrets:
    def test_no_secrets(
        self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], answering: Answering
    ) -> None:
        """No log, output or error contains a token, secret or text, even at level DEBUG."""
        caplog.set_level(logging.DEBUG)
        todoist = LocalTodoist(unknown_sync_token="refuse")
        token, messages = f"access-{CANARY}", list[str]()
        with running_todoist(todoist) as url:
            todoist.load(token, DOCUMENT, user="ann", refresh_token=f"refresh-{CANARY}")
            client = Todoist(url, app=APP, total_timeout=2, attempt_timeout=0.3)
            messages += error_texts(client, lambda session: session.sync(token, f"sync-{CANARY}"))
            for fault in [*TRANSIENT.values(), *ACCEPTED.values(), Fault.invalid_token()]:
                todoist.fail("ann", fault)
                one_attempt = Todoist(url, app=APP, total_timeout=ONE_ATTEMPT_S, attempt_timeout=0.1)
                messages += error_texts(one_attempt, lambda session: session.sync(token, None))
            todoist.fail("ann", Fault.server_error(503))
            messages += error_texts(client, lambda session: session.sync(token, None))
            todoist.revoke("ann")
            messages += error_texts(client, lambda session: session.sync(token, None))
            messages += error_texts(client, lambda session: session.renew(Credentials(token, f"refresh-{CANARY}")))
        assert len(todoist.calls) > len(TRANSIENT) + len(ACCEPTED)
        for status in (200, 400, 403, 429, 500):
            url, _ = answering(JSONResponse({"error": CANARY, "access_token": CANARY, "items": CANARY}, status))
            client = Todoist(url, app=APP, total_timeout=ONE_ATTEMPT_S)
            messages += error_texts(client, lambda session: session.sync(token, None))
            messages += error_texts(client, lambda session: session.renew(Credentials(token, f"refresh-{CANARY}")))
        assert len(messages) > 3 * len(TRANSIENT)
        assert [record for record in caplog.records if record.name.startswith("httpcore")]
        outputs = [*messages, caplog.text, *capfd.readouterr(), *map(str, map(vars, caplog.records))]
        assert not [output for output in outputs if CANARY in output]

    def test_credentials_are_not_shown(self) -> None:
        """The representations of credentials and of the app contain no secret."""
        assert CANARY not in f"{Credentials(CANARY, CANARY)} {OAuthApp(CANARY, CANARY)!r}"


def error_texts(todoist: Todoist, call: Callable[[TodoistSession], Awaitable[Any]]) -> list[str]:
    """Return the texts of a call's error: traceback, representation and attributes."""
    try:
        in_session(todoist, call)
    except TodoistError as error:
        return ["".join(traceback.format_exception(error)), repr(error), str(vars(error))]
    return []
