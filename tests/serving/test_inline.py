"""Contexts assembled during a request: what goes into them, what is asked of Todoist, and what must not be lost."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from service import House, Service
from world import NOON

from contexts.todoist import Credentials
from contexts.vault import Vault, new_key
from local.todoist import Fault, LocalTodoist

Account = Any

RENEWING = {"todoist_client_id": "ours", "todoist_client_secret": "secret"}


def credentials(house: House) -> Credentials:
    [account] = house.world.accounts.open(["ann"])[0]
    return account.credentials


class TestContext:
    def test_one_full_sync(self, house: House, service: Service, account: Account) -> None:
        """An assembly is one call that asks for everything; what the nights know of the account stays untouched."""
        house.world.add("ann", account("call bob"))
        house.world.night()
        columns = "sync_token, directory, observed_at, auth_failures"
        before = house.rows(f"SELECT {columns} FROM todoist_accounts")
        house.clock.forward(hours=7)
        service.tip()
        assert [(call.path, call.full) for call in house.todoist.calls[1:]] == [("/api/v1/sync", True)]
        assert house.rows(f"SELECT {columns} FROM todoist_accounts") == before

    def test_themes_of_the_last_clustering(self, house: House, service: Service, account: Account) -> None:
        """The themes are those of the last night, with the tasks of them that are still open."""
        texts = ["paint the old fence green", "paint the old fence blue", "paint the old fence red", "call bob"]
        house.world.add("ann", account(*texts))
        house.world.night()
        [before] = service.context()["themes"]
        house.todoist.advance("ann", {"items": [{"id": "t0", "checked": True}, {"id": "t9", "content": "buy milk"}]})
        house.clock.forward(hours=7)
        assert service.tip().body["source"] == "inline"
        context = service.context()
        [after] = context["themes"]
        assert before == {**after, "n_tasks": 3, "task_ids": ["t0", "t1", "t2"]}
        assert after["task_ids"] == ["t1", "t2"]
        assert context["counts"]["open"] == 4

    def test_broken_item(
        self, house: House, service: Service, account: Account, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An item that cannot be read is left out and named by id; the others make a context."""
        caplog.set_level(logging.INFO)
        house.world.add("ann", account({"id": "t0", "content": 5}, {"id": "t1", "content": "caf\u0000e \ud800"}))
        service.tip()
        [[task]] = service.context()["tasks"].values()
        assert task["id"] == "t1"
        assert "user ann: item t0 skipped, its 'content' cannot be read" in caplog.text

    def test_user_without_tasks(self, house: House, service: Service, account: Account) -> None:
        """Who has no open task gets a tip all the same."""
        house.world.add("ann", account())
        answered = service.tip()
        assert answered.body["source"] == "inline"
        assert answered.body["tip"]["task_ids"] == []


class TestRenewal:
    @pytest.fixture
    def ann(self, house: House, account: Account) -> None:
        """A user whose access token has run out, with a refresh token."""
        house.world.add("ann", account("call bob"))
        house.todoist.load("token-of-ann", account("call bob"), user="ann", refresh_token="to-be-renewed")
        expired = Credentials("token-that-ran-out", "to-be-renewed")
        house.world.accounts.add("ann", email="ann@example.org", timezone="UTC", credentials=expired)

    @pytest.mark.usefixtures("ann")
    def test_renewed(self, house: House) -> None:
        """A token that has run out is renewed in the request, and the new one is stored for all that follow."""
        service = house.open(**RENEWING)
        assert service.tip().how == ("inline", "called")
        assert [call.status for call in house.todoist.calls] == [401, 200, 200]
        assert credentials(house).refresh_token not in (None, "to-be-renewed")
        house.clock.forward(hours=7)
        service.tip()
        assert [call.status for call in house.todoist.calls[3:]] == [200]

    @pytest.mark.usefixtures("ann")
    def test_given_up_meanwhile(self, house: House, account: Account) -> None:
        """A renewal that takes longer than the request waits is not lost: the old refresh token is used up by it."""
        service = house.open(**RENEWING, todoist_timeout=0.5)
        slow = LocalTodoist(answer_seconds=(0.3, 0.3))
        slow.load("token-of-ann", account("call bob"), user="ann", refresh_token="to-be-renewed")
        house.let_answer(slow)
        assert service.tip().how == ("none", "fallback")
        house.until(lambda: credentials(house).refresh_token != "to-be-renewed")
        assert service.tip().how == ("inline", "called")

    @pytest.mark.usefixtures("ann")
    def test_without_an_app(self, house: House, service: Service) -> None:
        """Where the product's own app is not set nothing can be renewed; the user is served from what is known."""
        assert service.tip().how == ("none", "fallback")
        assert credentials(house).refresh_token == "to-be-renewed"


@pytest.fixture
def ann(house: House, account: Account) -> None:
    """A user with a stale context."""
    house.prepare("ann", account("call bob", "buy milk"))
    house.clock.forward(hours=7)


@pytest.mark.usefixtures("ann")
class TestFailures:
    def test_waits_as_long_as_asked(self, house: House, service: Service) -> None:
        """Where Todoist asks to wait for an account it is not asked again before, and then at once."""
        house.todoist.fail("ann", Fault.rate_limited(600))
        assert [service.tip().body["source"] for _ in range(3)] == ["stale"] * 3
        house.clock.forward(minutes=9, seconds=59)
        assert service.tip().body["source"] == "stale"
        assert house.calls()[0] == 1
        house.clock.forward(seconds=2)
        assert service.tip().body["source"] == "inline"
        assert house.calls()[0] == 2

    def test_one_account_is_not_all(self, house: House, service: Service, account: Account) -> None:
        """However often single accounts are refused or told to wait, Todoist is asked for the others."""
        for n in range(7):
            house.world.add(f"user-{n}", account("call bob"))
            house.todoist.fail(f"user-{n}", [Fault.rate_limited(600), Fault.invalid_token()][n % 2])
            assert service.tip(f"user-{n}").body["source"] == "none"
        assert service.tip().body["source"] == "inline"

    def test_wrong_key(self, house: House, service: Service, caplog: pytest.LogCaptureFixture) -> None:
        """Credentials that no key opens are told in the log, by the user's id, and the old context is used."""
        sealed = Vault([new_key()]).seal("ann", Credentials("canary-4711"))
        house.connection.execute("UPDATE todoist_accounts SET credentials = %s", [sealed])
        assert service.tip().body["source"] == "stale"
        assert "user ann: not assembled, no key of CREDENTIALS_KEYS opens the credentials of ann" in caplog.text
        assert house.calls()[0] == 0

    def test_credentials_of_another(self, house: House, service: Service, account: Account) -> None:
        """Credentials that were moved to another user's row open nothing."""
        house.world.add("eve", account("steal"))
        hers = "(SELECT credentials FROM todoist_accounts WHERE user_id = 'eve')"
        house.connection.execute(f"UPDATE todoist_accounts SET credentials = {hers}")
        assert service.tip().body["source"] == "stale"
        assert house.calls()[0] == 0

    def test_counted(self, house: House) -> None:
        """Assemblies and every single call of Todoist are counted, those that failed too."""
        service = house.open(todoist_timeout=3)
        house.todoist.fail("ann", Fault.server_error(500))
        assert service.tip().body["source"] == "inline"
        house.clock.forward(hours=7)
        house.todoist.fail("ann", Fault.invalid_token())
        assert service.tip().body["source"] == "stale"
        assert service.metric("inline_assemblies_total", outcome="assembled") == 1
        assert service.metric("inline_assemblies_total", outcome="failed") == 1
        assert service.metric("todoist_calls_total") == house.calls()[0] == 3

    def test_user_is_removed_meanwhile(self, house: House, service: Service) -> None:
        """Of a user who is removed while Todoist answers nothing is stored."""
        house.todoist.fail("ann", Fault.slow(before=0.2))

        async def removed() -> None:
            while not house.todoist.calls:
                await asyncio.sleep(0.005)
            house.world.accounts.remove("ann")

        answered, _ = house.together(service.asking("POST", "/v1/users/ann/tip"), removed())
        assert answered.status == 404
        assert house.rows("SELECT FROM context_store") == []

    def test_clock_of_the_night(self, house: House, service: Service) -> None:
        """A row is as old as Todoist's answer at the earliest: the time is taken before the call, not after it."""
        house.todoist.fail("ann", Fault.slow(before=0.2))
        asked_at = house.clock.at

        async def time_goes_on() -> None:
            while not house.todoist.calls:
                await asyncio.sleep(0.005)
            house.clock.forward(minutes=1)

        house.together(service.tipping(), time_goes_on())
        stored = house.world.stored()["ann"]["materialized_at"]
        assert timedelta(0) <= stored - asked_at < timedelta(seconds=1)
        assert stored > NOON
