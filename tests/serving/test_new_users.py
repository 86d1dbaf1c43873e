"""New users: prepared by the service before their first request."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from service import Service, ServiceHarness

from contexts.__main__ import main
from contexts.todoist.credentials import Credentials
from local.todoist import Fault

SOON_S = 0.05


@pytest.fixture
def service(harness: ServiceHarness) -> Service:
    """A service that looks for new users often."""
    return harness.open(new_users_interval_s=SOON_S)


def prepared(harness: ServiceHarness, service: Service, n: int, outcome: str = "prepared") -> None:
    """Run the service until that many users were prepared."""

    async def is_so() -> bool:
        return n <= await service.metric_async("users_prepared_total", outcome=outcome)

    harness.until(is_so)


def several_looks(harness: ServiceHarness) -> None:
    """Run the services until one of them has prepared a user who was added after all others."""
    harness.world.add("last", {**EMPTY, "user": {"id": "9", "lang": "en", "tz_info": {"timezone": "UTC"}}})
    harness.until(lambda: harness.rows("SELECT FROM context_store WHERE user_id = 'last'"))


EMPTY = {"full_sync": True, "sync_token": "x", "items": [], "projects": [], "sections": [], "labels": []}


class TestPrepared:
    def test_first_request(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """The first request of a new user finds a context and tips of the LLM: it neither assembles nor waits."""
        harness.world.add("ann", account("call bob", "buy milk", "mend the roof"))
        prepared(harness, service, 1)
        harness.until(lambda: harness.rows("SELECT FROM candidate_sets"))
        before = harness.calls()
        assert service.tip().origin == ("stored", "skipped")
        assert harness.calls() == before == (1, 1)
        assert harness.rows("SELECT origin FROM decisions") == [("ahead",)]
        assert harness.rows("SELECT place FROM llm_calls") == [("ahead",)]

    def test_added_by_command(
        self, harness: ServiceHarness, service: Service, account: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`accounts add` needs no other command: the service notices the new account."""
        harness.todoist.load("token-of-bob", account("call ann", "buy bread"), user="bob")
        monkeypatch.setenv("DATABASE_URL", harness.database_url)
        monkeypatch.setenv("CREDENTIALS_KEYS", harness.world.key)
        monkeypatch.setattr(sys, "stdin", io.StringIO("token-of-bob\n"))
        assert main(["accounts", "add", "bob", "--email", "b@x.org", "--timezone", "UTC"]) == 0
        prepared(harness, service, 1)
        assert service.tip("bob").origin == ("stored", "skipped")

    def test_slow_llm(self, harness: ServiceHarness, account: Any) -> None:
        """A set that takes longer than a first request waits is stored as written ahead."""
        service = harness.open(new_users_interval_s=SOON_S, llm_first_wait=0.1)
        harness.llm.seconds = 0.4
        harness.world.add("ann", account("call bob", "buy milk"))
        harness.until(lambda: harness.rows("SELECT FROM candidate_sets WHERE origin = 'ahead'"))
        assert service.tip().origin == ("stored", "skipped")

    def test_without_llm(self, harness: ServiceHarness, account: Any) -> None:
        """Without an LLM the context is assembled all the same."""
        service = harness.open(new_users_interval_s=SOON_S, llm_model=None)
        harness.world.add("ann", account("call bob"))
        prepared(harness, service, 1)
        assert service.tip().origin == ("stored", "fallback")
        assert harness.calls() == (1, 0)

    def test_nothing_ahead(self, harness: ServiceHarness, account: Any) -> None:
        """With TIPS_AHEAD=off the context is assembled, and the LLM gets it at the first request at the earliest."""
        service = harness.open(new_users_interval_s=SOON_S, tips_ahead="off")
        harness.world.add("ann", account("call bob", "buy milk", "mend the roof"))
        prepared(harness, service, 1)
        assert harness.calls() == (1, 0)
        assert service.tip().origin == ("stored", "called")
        assert harness.calls() == (1, 1)
        assert harness.rows("SELECT place FROM llm_calls") == [("request",)]

    def test_replaced_account(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """A user whose account was replaced is new."""
        harness.add_with_context("ann", account("call bob", "buy milk"))
        harness.todoist.load("another-token", account("call eve", "buy bread"), user="other")
        harness.world.accounts.add("ann", email="a@x.org", timezone="UTC", credentials=Credentials("another-token"))
        prepared(harness, service, 1)
        assert "call eve" in service.request("GET", "/v1/users/ann/context").text

    def test_several_processes(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """Two services prepare each user once."""
        other = harness.open(new_users_interval_s=SOON_S)
        names = [f"user-{n}" for n in range(6)]
        for name in names:
            harness.world.add(name, account("call bob", "buy milk"))
        harness.until(lambda: len(harness.rows("SELECT FROM candidate_sets")) == 6)
        several_looks(harness)
        assert {each.metric("users_prepared_total", outcome="failed") for each in (service, other)} == {0}
        called = harness.rows("SELECT user_id FROM llm_calls WHERE user_id <> 'last' ORDER BY user_id")
        assert called == [(name,) for name in names]


class TestLeftAlone:
    def test_users_with_context(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """A user who has a context is not prepared: no call for users whom the pipeline knows."""
        harness.add_with_context("ann", account("call bob", "buy milk"))
        several_looks(harness)
        assert harness.rows("SELECT FROM candidate_sets WHERE user_id = 'ann'") == []

    def test_paused(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """A user who is inactive or not connected is not prepared."""
        harness.world.add("ann", account("call bob"))
        harness.world.add("bob", account("call ann"))
        harness.connection.execute("UPDATE users SET active = FALSE WHERE user_id = 'ann'")
        harness.connection.execute("UPDATE todoist_accounts SET connected = FALSE WHERE user_id = 'bob'")
        several_looks(harness)
        assert harness.rows("SELECT user_id FROM context_store") == [("last",)]

    def test_todoist_down(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """If Todoist does not answer, a user is tried again after five minutes, three times at most."""
        harness.world.add("ann", account("call bob"))
        harness.todoist.fail_at_rate(1.0, Fault.server_error(500))
        for n in (1, 2, 3):
            prepared(harness, service, n, "failed")
            harness.clock.forward(minutes=4)
            calls = len(harness.todoist.calls)
            service.request("GET", "/healthz")
            assert len(harness.todoist.calls) == calls
            harness.clock.forward(minutes=2)
        harness.todoist.fail_at_rate(0.0, Fault.server_error(500))
        several_looks(harness)
        assert harness.rows("SELECT user_id FROM context_store") == [("last",)]
        assert service.tip().origin == ("inline", "called")
