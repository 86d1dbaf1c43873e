"""Refused tokens over a whole run: single accounts, and an outage, over several shards."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from world import NOON, World, run_step

from assets.definitions import GRAPH
from assets.steps import StepRunner
from contexts.todoist.client import TodoistUnavailable
from contexts.todoist.refusals import MostRefused, RefusalVerdict
from local.todoist import Fault

STEP = "fetch_signals"
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
USERS = [f"user-{number}" for number in range(8)]


@pytest.fixture
def users(world: World, account: Any) -> list[str]:
    """Eight users in four shards, after a first night; no shard has five of them."""
    world.n_shards = 4
    for user in USERS:
        world.add(user, account("call the dentist"))
    world.night(NOON)
    assert max(footer.n_users for footer in world.shards.footers(GRAPH["todoist_tasks"])) < 5
    return USERS


def refuse_once(world: World, users: list[str]) -> None:
    """Let Todoist refuse the valid tokens of these users in their next call."""
    for user in users:
        world.todoist.fail(user, Fault.invalid_token())


def night(world: World, at: datetime) -> RefusalVerdict:
    """Run all steps; return the verdict of the fetch."""
    return RefusalVerdict.of(result.counts for result in world.night(at)["todoist_tasks"])


def disconnected(world: World) -> list[str]:
    return [user["user_id"] for user in world.accounts.all() if not user["connected"]]


def test_everybody_refused(world: World, users: list[str]) -> None:
    """If Todoist refuses everybody, in runs minutes or days apart, nobody is disconnected and each run says so."""
    for at in (NOON + 10 * MINUTE, NOON + 20 * MINUTE, NOON + DAY, NOON + 2 * DAY, NOON + 3 * DAY):
        refuse_once(world, users)
        with pytest.raises(MostRefused, match="of 8 of 8 accounts, and 0 could be fetched"):
            night(world, at).raise_if_outage()
    assert disconnected(world) == []
    assert {user["auth_failures"] for user in world.accounts.all()} == {0}
    assert not night(world, NOON + 4 * DAY).is_outage
    assert {row["fetched_at"] for row in world.stored().values()} == {NOON + 4 * DAY}


def test_the_others_are_published(world: World, users: list[str]) -> None:
    """In an outage the users who could be fetched have their new contexts, and the refused ones keep theirs."""
    for user in users:
        world.todoist.advance(user, {"items": [{"id": "n", "content": "buy milk"}]})
    refuse_once(world, users[:5])
    assert night(world, NOON + DAY).is_outage
    for user, row in world.stored().items():
        was_refused = user in users[:5]
        assert row["fetched_at"] == (NOON if was_refused else NOON + DAY)
        assert ("buy milk" in row["context_json"]) is not was_refused
    night(world, NOON + DAY + MINUTE)
    assert all("buy milk" in row["context_json"] for row in world.stored().values())


def test_refused_and_unavailable_in_turn(world: World, users: list[str]) -> None:
    """If Todoist refuses some and is unavailable for the others, nobody is disconnected."""
    for days in (1, 2):
        refuse_once(world, users[:3])
        for user in users[3:]:
            world.todoist.fail(user, Fault.rate_limited(600))
        assert night(world, NOON + days * DAY).is_outage
    assert disconnected(world) == []


def test_single_accounts(world: World, users: list[str]) -> None:
    """Accounts that are refused beside others are disconnected by the run of another day, whatever their number."""
    revoked = users[:4]
    for user in revoked:
        world.todoist.revoke(user)
    for at in (NOON + DAY, NOON + DAY + 10 * MINUTE):
        assert not night(world, at).is_outage
        assert disconnected(world) == []
    night(world, NOON + 2 * DAY)
    assert disconnected(world) == revoked
    n_calls = len(world.todoist.calls)
    night(world, NOON + 3 * DAY)
    assert {call.user for call in world.todoist.calls[n_calls:]} == set(users[4:])


def test_a_fetch_in_between(world: World, users: list[str]) -> None:
    """A successful fetch between two refusals starts the count again."""
    for days in (1, 3, 5):
        refuse_once(world, users[:1])
        night(world, NOON + days * DAY)
        night(world, NOON + (days + 1) * DAY)
    assert disconnected(world) == []


def test_few_accounts(world: World, account: Any) -> None:
    """A run over fewer than five accounts is no evidence of an outage: each is judged alone, on different days."""
    for user in USERS[:4]:
        world.add(user, account("call the dentist"))
    for at, expected in ((NOON, []), (NOON + MINUTE, []), (NOON + DAY, USERS[:4])):
        refuse_once(world, USERS[:4])
        night(world, at).raise_if_outage()
        assert disconnected(world) == expected
    assert world.accounts.reconnect() == USERS[:4]
    night(world, NOON + DAY + MINUTE)
    assert set(world.stored()) == set(USERS[:4])


def runner_of(world: World, at: datetime) -> StepRunner:
    return StepRunner(GRAPH, world.runtime, world.resources, at)


def test_a_run_that_died(world: World, users: list[str]) -> None:
    """Refusals of runs that died before their end have no consequences, however many there are."""
    for days in range(1, 5):
        refuse_once(world, users[:1])
        runner = runner_of(world, NOON + days * DAY)
        list(runner.materialize_shards(STEP, runner.plan(STEP)[0].by_shard))
    assert disconnected(world) == []
    refuse_once(world, users[:1])
    night(world, NOON + 5 * DAY)
    assert disconnected(world) == []


def test_a_run_that_saw_few(world: World, users: list[str]) -> None:
    """An unfinished run that looked at few accounts proves nothing about them."""
    for days in range(1, 4):
        refuse_once(world, users)
        runner = runner_of(world, NOON + days * DAY)
        shard, names = next(iter(runner.plan(STEP)[0].by_shard.items()))
        results = list(runner.materialize_shards(STEP, {shard: names}))
        runner.finish(STEP, f"run {days}", runner.now, results, is_complete=False)
        refused = sum(result.counts.get("users_refused", 0) for result in results)
        assert 0 < refused < 5
        for user in users:  # the faults that were not used up
            world.todoist.heal(user)
    assert disconnected(world) == []


def test_a_repeated_end(world: World, users: list[str]) -> None:
    """The end of a run that is retried counts a refusal once."""
    refuse_once(world, users[:1])
    runner = runner_of(world, NOON + DAY)
    results, _ = run_step(runner, STEP, "run")
    for _ in range(3):
        runner.finish(STEP, "run", runner.now, results)
    [user] = [user for user in world.accounts.all() if user["user_id"] == users[0]]
    assert (user["auth_failures"], user["connected"]) == (1, True)


def test_an_unavailable_todoist_is_no_refusal(world: World, account: Any) -> None:
    """If nobody of a shard can be fetched because Todoist is down, the shard fails as before."""
    world.n_shards = 1
    for user in USERS:
        world.add(user, account("call the dentist"))
        world.todoist.fail(user, Fault.rate_limited(600))
    with pytest.raises(TodoistUnavailable):
        night(world, NOON)
    assert disconnected(world) == []
