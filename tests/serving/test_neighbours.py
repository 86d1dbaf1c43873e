"""One user's trouble is one user's: hanging accounts, large responses and odd data do not hold up others."""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import pairwise
from typing import Any

import pytest
from service import Service, ServiceHarness

from local.todoist import Fault

HANGING = Fault.slow(delay_s=60)


@pytest.fixture
def users(harness: ServiceHarness, account: Any) -> list[str]:
    """Users with stale contexts."""
    users = ["ann", *(f"user-{n}" for n in range(6))]
    for user in users:
        harness.add_with_context(user, account("call bob"))
    harness.clock.forward(hours=7)
    return users


def test_hanging_account(harness: ServiceHarness, users: list[str]) -> None:
    """An account that hangs however often it is asked is soon asked no more, and others are assembled meanwhile."""
    service = harness.open(todoist_timeout=0.6)
    harness.todoist.fail("ann", *[HANGING] * 9)
    assert [service.tip("ann").body["source"] for _ in range(9)] == ["stale"] * 9
    assert harness.calls()[0] == 5
    assert [service.tip(user).body["source"] for user in users[1:]] == ["inline"] * 6


def test_outage(harness: ServiceHarness, users: list[str]) -> None:
    """If five users in a row get no answer, nobody waits for Todoist."""
    service = harness.open(todoist_timeout=0.6)
    for user in users:
        harness.todoist.fail(user, HANGING)
    harness.together(*(service.tip_async(user) for user in users[:5]))
    assert harness.calls()[0] == 5
    assert service.tip(users[5]).body["source"] == "stale"
    assert harness.calls()[0] == 5


def large_document(account: Any, n_tasks: int) -> dict[str, Any]:
    items = [{"id": f"t{n}", "content": f"Call number {n}", "description": "x" * 400} for n in range(n_tasks)]
    return account(*items)


def test_large_account(harness: ServiceHarness, service: Service, users: list[str], account: Any) -> None:
    """An account up to the limit is assembled, and every task of it counts."""
    harness.todoist.load("token-of-ann", large_document(account, 4000), user="ann")
    service = harness.open(todoist_timeout=60, request_budget=120, context_token_budget=2000)
    assert service.tip("ann").body["source"] == "inline"
    assert service.context("ann")["counts"]["open"] == 4000


def test_too_large_account(harness: ServiceHarness, users: list[str], account: Any) -> None:
    """An account over the limit gets its stale context at once and is left alone for a while, unlike others."""
    harness.todoist.load("token-of-ann", large_document(account, 1000), user="ann")
    service = harness.open(inline_max_response=2**16)
    assert [service.tip("ann").body["source"] for _ in range(3)] == ["stale"] * 3
    assert harness.calls()[0] == 1
    assert service.tip(users[1]).body["source"] == "inline"


def test_loop_goes_on(harness: ServiceHarness, users: list[str], account: Any) -> None:
    """While a large account is read, the event loop turns many times."""
    harness.todoist.load("token-of-ann", large_document(account, 6000), user="ann")
    service = harness.open(todoist_timeout=60, request_budget=120)
    turns = []

    async def turn(tip: asyncio.Task[Any]) -> None:
        while not tip.done():
            turns.append(time.thread_time())
            await asyncio.sleep(0.001)

    async def ask() -> Any:
        tip = asyncio.create_task(service.tip_async("ann"))
        await turn(tip)
        return await tip

    [response] = harness.together(ask())
    assert response.body["source"] == "inline"
    # Seconds of the loop's own thread: other processes of the machine, and the thread that reads, do not count.
    longest = max(later - earlier for earlier, later in pairwise(turns))
    assert longest < (turns[-1] - turns[0]) / 2 and len(turns) > 20


def test_odd_data(
    harness: ServiceHarness, service: Service, users: list[str], account: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An unforeseen error about one user's data is logged by its type and place, and the stale context is used."""
    caplog.set_level(logging.INFO)
    harness.todoist.load("token-of-ann", account("call bob", user={"id": "1"}), user="ann")
    harness.connection.execute("UPDATE users SET timezone = 'Mars/Secret' WHERE user_id = 'ann'")
    assert service.tip("ann").body["source"] == "stale"
    assert "user ann: context not assembled, ZoneInfoNotFoundError in " in caplog.text
    assert "Secret" not in caplog.text
    assert service.tip(users[1]).body["source"] == "inline"


@pytest.mark.parametrize("depth", [50, 500, 900, 5_000, 200_000])
def test_nested(harness: ServiceHarness, service: Service, users: list[str], depth: int) -> None:
    """However deep a document is nested, the answer is a tip and no error."""
    harness.todoist.fail("ann", Fault.deep_json(depth))
    assert service.tip("ann").body["source"] in ("stale", "inline")
    assert service.tip(users[1]).body["source"] == "inline"
    assert harness.one("SELECT count(*) FROM decisions") == 2
