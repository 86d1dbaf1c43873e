"""Fetches of many users, some of them with failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from contexts.settings import OAuthApp
from contexts.todoist.accounts import Account
from contexts.todoist.client import ResponseUnreadable, Todoist, TodoistUnavailable, TokenRefused
from contexts.todoist.credentials import Credentials
from contexts.todoist.fetch import Failed, Fetched, fetch
from contexts.todoist.mirror import Directory, Mirror, TodoistTask
from local.server import running_server
from local.todoist import Fault, LocalTodoist, running_todoist

CANARY = "canary-4711"
APP = OAuthApp("the-app", f"secret-{CANARY}")
Make = Callable[..., dict[str, Any]]
ODD_VALUES = [
    None, True, -1, 10**18, 10**400, 1e308, 0.5, "", "\x00", "\ud800", "x" * 10_000, "٣", [], [[]], [None], {},
    {"": {}}, {"id": []}, {"date": "9999-12-31T23:59:59Z"}, {"date": "2026-11-23", "timezone": "/"},
    {"amount": 10**400},
    {"tz_info": {"timezone": "a" * 5_000}, "lang": "\ud800"},
]  # fmt: skip


def new_account(user: str, *, access: str | None = None, refresh: str | None = None) -> Account:
    """Return an account that was never fetched."""
    return Account(user, 1, Credentials(access or f"token-{user}", refresh), None, Directory(), "UTC")


@dataclass
class Product:
    """The product's state: accounts, mirrors and renewed credentials.

    renewed: user, new credentials, and the number of earlier calls of the user.
    """

    todoist: LocalTodoist
    client: Todoist
    accounts: dict[str, Account] = field(default_factory=dict)
    mirrors: dict[str, Mirror] = field(default_factory=dict)
    renewed: list[tuple[str, Credentials, int]] = field(default_factory=list)

    def add(self, user: str, document: Mapping[str, Any]) -> None:
        self.todoist.load(f"token-{user}", document, user=user)
        self.accounts[user] = new_account(user)

    def fetch(self, *users: str) -> dict[str, Fetched | Failed]:
        """Fetch some users, or all, without storing the results."""
        accounts = [self.accounts[user] for user in users or self.accounts]
        outcomes = fetch(self.client, accounts, self.mirrors, self._save_credentials)
        return {outcome.account.user_id: outcome for outcome in outcomes}

    def store(self, outcomes: Mapping[str, Fetched | Failed]) -> None:
        """Store the mirrors, then the sync states."""
        for user, outcome in outcomes.items():
            if isinstance(outcome, Fetched):
                self.mirrors[user] = Mirror(tasks=outcome.mirror.tasks)
                state = outcome.sync_state
                self.accounts[user] = replace(
                    self.accounts[user], sync_token=state.sync_token, directory=state.directory
                )

    def titles(self, user: str) -> set[str]:
        return {task.content for task in self.mirrors[user].tasks.values()}

    def full_syncs(self, user: str) -> list[bool]:
        """Return for every call of a user whether it was a full sync."""
        return [call.full for call in self.todoist.calls if call.user == user and call.path == "/api/v1/sync"]

    def _save_credentials(self, account: Account, credentials: Credentials) -> None:
        user = account.user_id
        self.renewed.append((user, credentials, len(self.full_syncs(user))))
        self.accounts[user] = replace(self.accounts[user], credentials=credentials)


@pytest.fixture
def product() -> Iterator[Product]:
    todoist = LocalTodoist(unknown_sync_token="refuse")
    with running_todoist(todoist) as url:
        yield Product(todoist, Todoist(url, total_timeout=10, attempt_timeout=10, app=APP))


def test_one_call_each(product: Product, account: Make) -> None:
    """Each user needs one call: first a full sync, then an incremental one."""
    product.add("ann", account("Buy milk", timezone="Asia/Tokyo", lang="de"))
    product.add("bob", account("Call Cem", "Pay rent"))
    first = product.fetch()
    product.store(first)
    assert {user: (each.n_full, each.n_incremental, each.n_skipped) for user, each in first.items()} == {
        "ann": (1, 0, 0),
        "bob": (1, 0, 0),
    }
    assert first["ann"].mirror.directory.timezone == "Asia/Tokyo"
    product.todoist.advance("ann", {"items": [{"id": "t0", "content": "Buy milk", "checked": True}]})
    second = product.fetch()
    product.store(second)
    assert (second["ann"].n_full, second["ann"].n_incremental) == (0, 1)
    assert (product.titles("ann"), product.titles("bob")) == (set(), {"Call Cem", "Pay rent"})
    assert product.full_syncs("ann") == product.full_syncs("bob") == [True, False]


def test_no_users() -> None:
    """Without users there is no call and no error."""
    assert fetch(Todoist("http://127.0.0.1:9"), [], {}, lambda *_: None) == []


def test_lost_mirror(product: Product, account: Make) -> None:
    """A user without a stored mirror gets a full sync, even with a sync token."""
    product.add("ann", account("Buy milk"))
    product.store(product.fetch())
    product.mirrors.clear()
    product.store(product.fetch())
    assert product.titles("ann") == {"Buy milk"}
    assert product.full_syncs("ann") == [True, True]


def test_empty_account(product: Product, account: Make) -> None:
    """A user without tasks has an empty mirror, and the next sync is incremental."""
    product.add("ann", account())
    product.store(product.fetch())
    product.store(product.fetch())
    assert product.mirrors["ann"] == Mirror()
    assert product.full_syncs("ann") == [True, False]


def test_failing_users(product: Product, account: Make) -> None:
    """Failed fetches are reported with their errors, and do not affect other users."""
    for user in ("ann", "revoked", "limited", "bob"):
        product.add(user, account(f"Task of {user}"))
    product.todoist.revoke("revoked")
    product.todoist.fail("limited", Fault.rate_limited(600))
    outcomes = product.fetch()
    product.store(outcomes)
    assert product.mirrors.keys() == {"ann", "bob"}
    assert isinstance(outcomes["revoked"].error, TokenRefused)
    assert isinstance(outcomes["limited"].error, TodoistUnavailable)
    assert outcomes["limited"].error.retry_after == 600


def test_broken_items(product: Product, account: Make) -> None:
    """Invalid items are counted, and the user's other tasks are fetched."""
    broken = [None, 5, {"content": "no id"}, {"id": "b", "content": None}]
    product.add("ann", account({"id": "t", "content": "Buy milk"}, *broken))
    outcome = product.fetch()["ann"]
    assert outcome.n_skipped == 4
    assert set(outcome.mirror.tasks) == {"t"}


def test_unusual_titles(product: Product, account: Make) -> None:
    """Titles with NUL bytes, lone surrogates, emoji and right-to-left text become usable texts."""
    product.add("ann", account("nul\x00byte", "half \ud83d", "🧹 שלום"))
    product.store(product.fetch())
    assert product.titles("ann") == {"nul byte", "half ?", "🧹 שלום"}


def test_unexpected_full_response(product: Product, account: Make) -> None:
    """A full response to an incremental request replaces the mirror."""
    product.add("ann", account("old"))
    product.store(product.fetch())
    product.mirrors["ann"] = Mirror(
        tasks={**product.mirrors["ann"].tasks, "ghost": TodoistTask("ghost", "not there")}
    )
    product.todoist.fail("ann", Fault.unexpected_full_sync())
    product.store(product.fetch())
    assert set(product.mirrors["ann"].tasks) == {"t0"}


def test_forgotten_sync_token(product: Product, account: Make) -> None:
    """A sync token that Todoist has forgotten leads to a full sync in a second call."""
    product.add("ann", account("Buy milk"))
    product.store(product.fetch())
    product.todoist.forget_sync_tokens("ann")
    product.todoist.advance("ann", {"items": [{"id": "t0", "is_deleted": True}]})
    outcomes = product.fetch()
    product.store(outcomes)
    assert (outcomes["ann"].n_full, outcomes["ann"].n_incremental) == (1, 1)
    assert product.titles("ann") == set()


def test_empty_sync_token(product: Product, account: Make) -> None:
    """A response without a sync token keeps the previous one, which remains valid."""
    product.add("ann", account("Buy milk"))
    product.store(product.fetch())
    token = product.accounts["ann"].sync_token
    product.todoist.fail("ann", Fault.empty_sync_token())
    product.store(product.fetch())
    assert product.accounts["ann"].sync_token == token is not None
    product.store(product.fetch())
    assert product.full_syncs("ann") == [True, False, False]


def test_interrupted_run(product: Product, account: Make) -> None:
    """A run that stops between storing the data and the sync token has the same result when repeated."""
    product.add("ann", account("Buy milk", "Call Cem"))
    product.store(product.fetch())
    before = product.accounts["ann"]
    product.todoist.advance("ann", {"items": [{"id": "t0", "is_deleted": True}, {"id": "n", "content": "New"}]})
    product.store(first := product.fetch())
    product.accounts["ann"] = before
    product.store(second := product.fetch())
    assert second["ann"].mirror == first["ann"].mirror
    assert product.titles("ann") == {"Call Cem", "New"}


def test_project_from_the_archive(product: Product, account: Make) -> None:
    """Tasks of an archived project are removed; after its return, the next fetch is a full sync and has them."""
    home = {"id": "p", "name": "Home", "is_archived": False, "is_deleted": False}
    product.add("ann", account({"id": "t", "content": "Sweep", "project_id": "p"}, projects=[home]))
    product.store(product.fetch())
    product.todoist.advance("ann", {"projects": [{**home, "is_archived": True}]})
    product.store(product.fetch())
    assert product.titles("ann") == set()
    product.todoist.advance("ann", {"projects": [home]})
    product.store(product.fetch())
    product.store(product.fetch())
    assert product.titles("ann") == {"Sweep"}
    assert product.full_syncs("ann") == [True, False, False, True]


class TestRenewal:
    @pytest.fixture
    def granted(self, product: Product, account: Make) -> Product:
        """Ann granted access through the product's app, and the access token has expired."""
        product.todoist.load("unused", account("Buy milk"), user="ann")
        form = {"client_id": APP.client_id, "code": product.todoist.authorize("ann")}
        given = httpx.post(f"{product.client.base_url}/oauth/access_token", data=form).json()
        product.accounts["ann"] = new_account("ann", access=given["access_token"], refresh=given["refresh_token"])
        product.todoist.set_clock(product.todoist.now() + timedelta(hours=2))
        return product

    def test_expired_token(self, granted: Product) -> None:
        """An expired token is renewed, stored before its use, and the user is fetched in the same run."""
        old = granted.accounts["ann"].credentials
        granted.store(granted.fetch())
        assert granted.titles("ann") == {"Buy milk"}
        [(user, new, n_calls_before)] = granted.renewed
        assert (user, n_calls_before) == ("ann", 1)
        assert new.access_token != old.access_token
        assert new.refresh_token not in (old.refresh_token, None)
        granted.store(granted.fetch())
        assert len(granted.renewed) == 1

    def test_revoked_access(self, granted: Product) -> None:
        """If the refresh token is refused as well, the user has to reconnect and nothing is stored."""
        granted.todoist.revoke("ann")
        assert isinstance(granted.fetch()["ann"].error, TokenRefused)
        assert granted.renewed == []

    def test_failing_after_renewal(self, granted: Product) -> None:
        """A fetch that fails after a renewal keeps the new tokens, because the old refresh token is invalid."""
        granted.todoist.fail("ann", Fault.rate_limited(600))
        assert isinstance(granted.fetch()["ann"].error, TodoistUnavailable)
        granted.store(granted.fetch())
        assert granted.titles("ann") == {"Buy milk"}
        assert len(granted.renewed) == 1

    def test_personal_token(self, product: Product, account: Make) -> None:
        """Without a refresh token, a refused token fails after one call."""
        product.add("ann", account("Buy milk"))
        product.todoist.revoke("ann")
        assert isinstance(product.fetch()["ann"].error, TokenRefused)
        assert product.full_syncs("ann") == [True]


class TestIsolation:
    def test_deep_document(self, product: Product, account: Make) -> None:
        """A document that exhausts the parser fails its user after one call, and other users are fetched."""
        for user in ("ann", "bob", "cem"):
            product.add(user, account("Buy milk"))
        product.todoist.fail("bob", Fault.deep_json())
        outcomes = product.fetch()
        assert {user: type(each) for user, each in outcomes.items()} == {
            "ann": Fetched,
            "bob": Failed,
            "cem": Fetched,
        }
        assert isinstance(outcomes["bob"].error, ResponseUnreadable)
        assert (outcomes["bob"].n_full, outcomes["bob"].n_incremental) == (1, 0)

    def test_unforeseen_exception(self, product: Product, account: Make, caplog: pytest.LogCaptureFixture) -> None:
        """An exception while a response is folded fails its user without the exception's text, and no other user."""
        for user in ("ann", "bob"):
            product.add(user, account("Buy milk"))
        product.store(product.fetch())
        broken = Directory(projects=[CANARY], sections={})  # no projects by id
        product.accounts["ann"] = replace(product.accounts["ann"], directory=broken)
        outcomes = product.fetch()
        assert isinstance(outcomes["bob"], Fetched)
        assert isinstance(outcomes["ann"].error, ResponseUnreadable)
        assert (outcomes["ann"].n_full, outcomes["ann"].n_incremental) == (0, 1)
        [message] = [record.getMessage() for record in caplog.records if "user ann" in record.getMessage()]
        assert "TypeError" in message
        assert CANARY not in caplog.text

    @pytest.mark.parametrize("odd", ODD_VALUES, ids=lambda value: repr(value)[:20])
    def test_odd_values(self, product: Product, account: Make, odd: Any) -> None:
        """A value of any type in any place costs at most its own item; everything else of the user is fetched."""
        fields = ("id", "content", "description", "priority", "due", "deadline", "duration", "labels", "project_id")
        items = [{"id": f"odd{n}", "content": "odd", name: odd} for n, name in enumerate(fields)]
        document = account(
            {"id": "t", "content": "Buy milk"}, *items, {"id": "d", "content": "x", "due": {"date": odd}}
        )
        product.add("ann", {**document, "projects": [odd, {"id": "p", "name": odd}], "sections": odd, "user": odd})
        outcome = product.fetch()["ann"]
        assert isinstance(outcome, Fetched)
        assert outcome.mirror.tasks["t"].content == "Buy milk"

    def test_deep_document_between_full_ones(self, product: Product, account: Make) -> None:
        """A user with an unreadable document keeps the sync token: the next fetch has the same delta."""
        product.add("ann", account("Buy milk"))
        product.store(product.fetch())
        product.todoist.advance("ann", {"items": [{"id": "n", "content": "New"}]})
        product.todoist.fail("ann", Fault.deep_json())
        product.store(product.fetch())
        assert product.titles("ann") == {"Buy milk"}
        product.store(product.fetch())
        assert product.titles("ann") == {"Buy milk", "New"}
        assert product.full_syncs("ann") == [True, False, False]

    def test_tokens_that_cannot_be_stored(self, account: Make) -> None:
        """If a user's renewed tokens cannot be stored, the fetch fails once all other renewals are stored."""
        stored = []

        def save(account: Account, _: Credentials) -> None:
            if account.user_id == "ann":
                raise OSError("the database is gone")
            stored.append(account.user_id)

        with running_server(todoist_with_slow_renewal(account("Buy milk")), 0) as url:
            expired = [new_account(user, access="expired", refresh=user) for user in ("ann", "bob")]
            with pytest.raises(OSError, match="the database is gone"):
                fetch(Todoist(url, app=APP), expired, {}, save)
        assert stored == ["bob"]

    def test_token_beyond_ascii(self, product: Product, account: Make) -> None:
        """A token with a typographic quote fails, and other users are fetched."""
        product.add("ann", account("Buy milk"))
        product.accounts["bob"] = new_account("bob", access="“token”")
        outcomes = product.fetch()
        assert isinstance(outcomes["ann"], Fetched)
        assert isinstance(outcomes["bob"], Failed)

    def test_failed_renewal(self, account: Make) -> None:
        """A renewal that times out fails, and other users are fetched."""
        with running_server(todoist_with_hanging_renewal(account("Buy milk")), 0) as url:
            client = Todoist(url, app=APP, total_timeout=1e-6, attempt_timeout=0.3)
            ann, bob = new_account("ann"), new_account("bob", access="expired", refresh="r")
            outcomes = fetch(client, [ann, bob], {}, lambda *_: None)
        assert [type(each) for each in outcomes] == [Fetched, Failed]
        assert isinstance(outcomes[1].error, TodoistUnavailable)


def todoist_with_slow_renewal(document: Mapping[str, Any]) -> Starlette:
    """Return a Todoist with an expired token and a renewal that takes its time for the user bob."""

    async def sync(request: Request) -> Response:
        expired = request.headers["authorization"] == "Bearer expired"
        return JSONResponse({}, 401) if expired else JSONResponse(document)

    async def renew(request: Request) -> Response:
        user = (await request.form())["refresh_token"]
        await asyncio.sleep(0.3 if user == "bob" else 0)
        return JSONResponse({"access_token": f"new-{user}"})

    return Starlette(
        routes=[Route("/api/v1/sync", sync, methods=["POST"]), Route("/oauth/access_token", renew, methods=["POST"])]
    )


def todoist_with_hanging_renewal(document: Mapping[str, Any]) -> Starlette:
    """Return a Todoist with an expired token and a renewal that hangs."""

    async def sync(request: Request) -> Response:
        expired = request.headers["authorization"] == "Bearer expired"
        return JSONResponse({}, 401) if expired else JSONResponse(document)

    async def renew(request: Request) -> Response:
        await asyncio.sleep(1)
        return Response()

    return Starlette(
        routes=[Route("/api/v1/sync", sync, methods=["POST"]), Route("/oauth/access_token", renew, methods=["POST"])]
    )


def test_concurrency(account: Make) -> None:
    """At most `concurrency` users are fetched at the same time, and all users are fetched."""
    n_active, max_active = 0, 0

    async def sync(request: Request) -> Response:
        nonlocal n_active, max_active
        n_active += 1
        max_active = max(max_active, n_active)
        await asyncio.sleep(0.02)
        n_active -= 1
        return JSONResponse(account("Buy milk"))

    with running_server(Starlette(routes=[Route("/api/v1/sync", sync, methods=["POST"])]), 0) as url:
        outcomes = fetch(Todoist(url, concurrency=3), [new_account(f"u{n}") for n in range(12)], {}, lambda *_: None)
    assert [type(each) for each in outcomes] == [Fetched] * 12
    assert max_active == 3


def test_no_secrets_in_logs(
    product: Product, account: Make, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The log names users and items by id, and contains neither tokens nor texts."""
    caplog.set_level(logging.DEBUG)
    texts = [CANARY, {"id": "b7", "content": None, "description": CANARY}, {"content": CANARY}, [CANARY]]
    product.todoist.load(f"token-{CANARY}", account(*texts), user="ann")
    product.accounts["ann"] = new_account("ann", access=f"token-{CANARY}", refresh=f"refresh-{CANARY}")
    product.store(product.fetch())
    product.todoist.revoke("ann")
    product.fetch()
    messages = [record.getMessage() for record in caplog.records if record.name == "contexts.todoist.fetch"]
    assert sum("user ann" in message for message in messages) == 4
    assert sum("b7" in message for message in messages) == 1
    outputs = [caplog.text, *capfd.readouterr(), *(str(vars(record)) for record in caplog.records)]
    assert not [output for output in outputs if CANARY in output]
