"""Many users' mirrors brought up to date, whatever goes wrong with some of them."""

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

from contexts.accounts import Account
from contexts.fetch import Failed, Fetched, fetch
from contexts.mirror import Directory, Mirror, TodoistTask
from contexts.todoist import Credentials, OAuthApp, Todoist, TodoistUnavailable, TokenRefused
from local.server import serving
from local.todoist import Fault, LocalTodoist, running

CANARY = "canary-4711"
APP = OAuthApp("the-app", f"secret-{CANARY}")
Make = Callable[..., dict[str, Any]]


def stranger(user: str, *, access: str | None = None, refresh: str | None = None) -> Account:
    """An account that was never fetched."""
    return Account(user, Credentials(access or f"token-{user}", refresh), None, Directory(), "UTC")


@dataclass
class Product:
    """What we know of the users: accounts, mirrors, and the credentials that were renewed."""

    todoist: LocalTodoist
    client: Todoist
    accounts: dict[str, Account] = field(default_factory=dict)
    mirrors: dict[str, Mirror] = field(default_factory=dict)
    renewed: list[tuple[str, Credentials, int]] = field(default_factory=list)

    def add(self, user: str, document: Mapping[str, Any]) -> None:
        self.todoist.load(f"token-{user}", document, user=user)
        self.accounts[user] = stranger(user)

    def fetch(self, *users: str) -> dict[str, Fetched | Failed]:
        """Fetch these users (or all) without storing anything."""
        chosen = [self.accounts[user] for user in users or self.accounts]
        outcomes = fetch(self.client, chosen, self.mirrors, self._renew)
        return {each.account.user_id: each for each in outcomes}

    def store(self, outcomes: Mapping[str, Fetched | Failed]) -> None:
        """Data first, sync token after."""
        for user, each in outcomes.items():
            if isinstance(each, Fetched):
                self.mirrors[user] = Mirror(tasks=each.mirror.tasks)
                progress = each.progress
                self.accounts[user] = replace(
                    self.accounts[user], sync_token=progress.sync_token, directory=progress.directory
                )

    def titles(self, user: str) -> set[str]:
        return {task.content for task in self.mirrors[user].tasks.values()}

    def asked(self, user: str) -> list[bool]:
        """For every call of a user whether it asked for everything."""
        return [call.full for call in self.todoist.calls if call.user == user and call.path == "/api/v1/sync"]

    def _renew(self, user: str, credentials: Credentials) -> None:
        self.renewed.append((user, credentials, len(self.asked(user))))
        self.accounts[user] = replace(self.accounts[user], credentials=credentials)


@pytest.fixture
def product() -> Iterator[Product]:
    todoist = LocalTodoist(dead_token="refuse")
    with running(todoist) as url:
        yield Product(todoist, Todoist(url, patience=10, read_timeout=10, app=APP))


def test_one_call_each(product: Product, account: Make) -> None:
    """Each user costs one call: a full one at first, then one for what changed."""
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
    assert product.asked("ann") == product.asked("bob") == [True, False]


def test_nobody() -> None:
    """Nobody to fetch is no call and no error."""
    assert fetch(Todoist("http://127.0.0.1:9"), [], {}, lambda *_: None) == []


def test_lost_mirror(product: Product, account: Make) -> None:
    """A user whose tasks are not stored (any more) is asked in full, whatever sync token there is."""
    product.add("ann", account("Buy milk"))
    product.store(product.fetch())
    product.mirrors.clear()
    product.store(product.fetch())
    assert product.titles("ann") == {"Buy milk"}
    assert product.asked("ann") == [True, True]


def test_empty_account_is_known(product: Product, account: Make) -> None:
    """A user without a task has an empty mirror, and is asked for changes the next time."""
    product.add("ann", account())
    product.store(product.fetch())
    product.store(product.fetch())
    assert product.mirrors["ann"] == Mirror()
    assert product.asked("ann") == [True, False]


def test_one_bad_user(product: Product, account: Make) -> None:
    """Users whose fetch fails are named with the reason, and cost the others nothing."""
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
    """Broken items are counted; the user's other tasks are there."""
    broken = [None, 5, {"content": "no id"}, {"id": "b", "content": None}]
    product.add("ann", account({"id": "t", "content": "Buy milk"}, *broken))
    outcome = product.fetch()["ann"]
    assert outcome.n_skipped == 4
    assert set(outcome.mirror.tasks) == {"t"}


def test_titles_from_everywhere(product: Product, account: Make) -> None:
    """Titles with NUL bytes, halves of characters, emoji and right-to-left text come through as usable texts."""
    product.add("ann", account("nul\x00byte", "half \ud83d", "🧹 שלום"))
    product.store(product.fetch())
    assert product.titles("ann") == {"nul byte", "half ?", "🧹 שלום"}


def test_unasked_full_answer(product: Product, account: Make) -> None:
    """An answer that says it is full replaces everything, though a change was asked for."""
    product.add("ann", account("old"))
    product.store(product.fetch())
    product.mirrors["ann"] = Mirror(
        tasks={**product.mirrors["ann"].tasks, "ghost": TodoistTask("ghost", "not there")}
    )
    product.todoist.fail("ann", Fault.unasked_full_sync())
    product.store(product.fetch())
    assert set(product.mirrors["ann"].tasks) == {"t0"}


def test_forgotten_sync_token(product: Product, account: Make) -> None:
    """A sync token that Todoist forgot costs two calls and gives everything."""
    product.add("ann", account("Buy milk"))
    product.store(product.fetch())
    product.todoist.forget_sync_tokens("ann")
    product.todoist.advance("ann", {"items": [{"id": "t0", "is_deleted": True}]})
    outcomes = product.fetch()
    product.store(outcomes)
    assert (outcomes["ann"].n_full, outcomes["ann"].n_incremental) == (1, 1)
    assert product.titles("ann") == set()


def test_empty_sync_token(product: Product, account: Make) -> None:
    """An answer without a sync token leaves the old one, which goes on working."""
    product.add("ann", account("Buy milk"))
    product.store(product.fetch())
    token = product.accounts["ann"].sync_token
    product.todoist.fail("ann", Fault.empty_sync_token())
    product.store(product.fetch())
    assert product.accounts["ann"].sync_token == token is not None
    product.store(product.fetch())
    assert product.asked("ann") == [True, False, False]


def test_run_that_died(product: Product, account: Make) -> None:
    """A run that died after the data and before the sync token is repeated without a trace."""
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
    """Tasks of an archived project are gone; when it comes back, the next fetch asks for everything and has them."""
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
    assert product.asked("ann") == [True, False, False, True]


class TestRenewal:
    @pytest.fixture
    def granted(self, product: Product, account: Make) -> Product:
        """Ann gave access through the product's app, an hour and more ago."""
        product.todoist.load("unused", account("Buy milk"), user="ann")
        form = {"client_id": APP.client_id, "code": product.todoist.authorize("ann")}
        given = httpx.post(f"{product.client.base_url}/oauth/access_token", data=form).json()
        product.accounts["ann"] = stranger("ann", access=given["access_token"], refresh=given["refresh_token"])
        product.todoist.set_clock(product.todoist.now() + timedelta(hours=2))
        return product

    def test_expired_token(self, granted: Product) -> None:
        """An expired token is renewed, stored before it is used, and the user is fetched in the same run."""
        old = granted.accounts["ann"].credentials
        granted.store(granted.fetch())
        assert granted.titles("ann") == {"Buy milk"}
        [(user, new, n_calls_before)] = granted.renewed
        assert (user, n_calls_before) == ("ann", 1)
        assert new.access_token != old.access_token
        assert new.refresh_token not in (old.refresh_token, None)
        granted.store(granted.fetch())
        assert len(granted.renewed) == 1

    def test_access_taken_back(self, granted: Product) -> None:
        """When the refresh token is refused too, the user has to reconnect and nothing is stored."""
        granted.todoist.revoke("ann")
        assert isinstance(granted.fetch()["ann"].error, TokenRefused)
        assert granted.renewed == []

    def test_failing_after_renewal(self, granted: Product) -> None:
        """A fetch that fails after the renewal keeps the new tokens: the old refresh token is used up."""
        granted.todoist.fail("ann", Fault.rate_limited(600))
        assert isinstance(granted.fetch()["ann"].error, TodoistUnavailable)
        granted.store(granted.fetch())
        assert granted.titles("ann") == {"Buy milk"}
        assert len(granted.renewed) == 1

    def test_personal_token(self, product: Product, account: Make) -> None:
        """A refused token without a refresh token is refused after one call."""
        product.add("ann", account("Buy milk"))
        product.todoist.revoke("ann")
        assert isinstance(product.fetch()["ann"].error, TokenRefused)
        assert product.asked("ann") == [True]


class TestOneUserNeverStopsTheOthers:
    def test_token_beyond_ascii(self, product: Product, account: Make) -> None:
        """A user who pasted a token with a typographic quote is not fetched; the others are."""
        product.add("ann", account("Buy milk"))
        product.accounts["bob"] = stranger("bob", access="“token”")
        outcomes = product.fetch()
        assert isinstance(outcomes["ann"], Fetched)
        assert isinstance(outcomes["bob"], Failed)

    def test_renewal_that_breaks_off(self, account: Make) -> None:
        """A user whose tokens cannot be renewed at the moment is not fetched; the others are."""
        with serving(refusing_to_renew(account("Buy milk")), 0) as url:
            client = Todoist(url, app=APP, patience=1e-6, read_timeout=0.3)
            ann, bob = stranger("ann"), stranger("bob", access="expired", refresh="r")
            outcomes = fetch(client, [ann, bob], {}, lambda *_: None)
        assert [type(each) for each in outcomes] == [Fetched, Failed]
        assert isinstance(outcomes[1].error, TodoistUnavailable)


def refusing_to_renew(document: Mapping[str, Any]) -> Starlette:
    """A Todoist that knows one expired token, and hangs when it is to be renewed."""

    async def sync(request: Request) -> Response:
        expired = request.headers["authorization"] == "Bearer expired"
        return JSONResponse({}, 401) if expired else JSONResponse(document)

    async def renew(request: Request) -> Response:
        await asyncio.sleep(1)
        return Response()

    return Starlette(
        routes=[Route("/api/v1/sync", sync, methods=["POST"]), Route("/oauth/access_token", renew, methods=["POST"])]
    )


def test_no_more_than_allowed_at_once(account: Make) -> None:
    """Of many users only so many are asked at the same time, and yet all of them."""
    under_way, most = 0, 0

    async def sync(request: Request) -> Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        return JSONResponse(account("Buy milk"))

    with serving(Starlette(routes=[Route("/api/v1/sync", sync, methods=["POST"])]), 0) as url:
        outcomes = fetch(Todoist(url, concurrency=3), [stranger(f"u{n}") for n in range(12)], {}, lambda *_: None)
    assert [type(each) for each in outcomes] == [Fetched] * 12
    assert most == 3


def test_nothing_is_told(
    product: Product, account: Make, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The log names users and items by their ids, and neither a token nor a text."""
    caplog.set_level(logging.DEBUG)
    texts = [CANARY, {"id": "b7", "content": None, "description": CANARY}, {"content": CANARY}, [CANARY]]
    product.todoist.load(f"token-{CANARY}", account(*texts), user="ann")
    product.accounts["ann"] = stranger("ann", access=f"token-{CANARY}", refresh=f"refresh-{CANARY}")
    product.store(product.fetch())
    product.todoist.revoke("ann")
    product.fetch()
    own = [record.getMessage() for record in caplog.records if record.name == "contexts.fetch"]
    assert sum("user ann" in each for each in own) == 4
    assert sum("b7" in each for each in own) == 1
    everything = [caplog.text, *capfd.readouterr(), *(str(vars(record)) for record in caplog.records)]
    assert not [each for each in everything if CANARY in each]
