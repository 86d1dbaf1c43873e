"""Tips written ahead: for whom, from which context, within which budget, and what a run without the LLM does."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from scribe import Scribe, ask_daily
from world import NOON, World

from assets.options import RunOptions
from assets.reports import estimate_table
from assets.steps import StepRunner
from assets.tips_ahead import AheadSettings
from contexts.todoist.credentials import Credentials

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def scribe(world: World) -> Scribe:
    """The LLM of the world's pipeline, whose clock stands still."""
    scribe = Scribe()
    world.new_generator, world.clock = (lambda: scribe), (lambda: NOON)
    return scribe


def sets_of(world: World, user: str) -> list[tuple[Any, ...]]:
    """The author, origin and context of each set of a user, oldest first."""
    return world.connection.execute(
        "SELECT author, origin, context_hash FROM candidate_sets WHERE user_id = %s ORDER BY made_at", (user,)
    ).fetchall()


def ask(world: World, user: str, at: datetime) -> None:
    """Record a request for a tip."""
    values = "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (%s, %s, %s)"
    world.connection.execute(values, (uuid4(), user, at))


def record_call(world: World, user: str) -> None:
    """Record a call of the LLM for a user a month ago, so that the next set is not the first one."""
    world.connection.execute(
        "INSERT INTO llm_calls (called_at, user_id, model, outcome, n_requests, seconds, place)"
        " VALUES (%s, %s, 'test:scribe', 'answered', 1, 0.5, 'ahead')",
        (NOON - 30 * DAY, user),
    )


def counts(night: dict[str, Any]) -> dict[str, int]:
    """The counts of the asset that are not 0, over all shards."""
    sums: dict[str, int] = {}
    for result in night["tip_candidates"]:
        for name, n in result.counts.items():
            sums[name] = sums.get(name, 0) + n
    return {name: n for name, n in sums.items() if n}


def test_probable_users(world: World, account: Any, scribe: Scribe) -> None:
    """Users who usually ask before the next run get a set from their stored context; others get no second one."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
    ask_daily(world, "ann", NOON + HOUR)
    ask_daily(world, "bob", NOON + 9 * HOUR)
    record_call(world, "bob")
    night = world.night(NOON)
    context_hash = world.stored()["ann"]["context_hash"]
    assert sets_of(world, "ann") == [("llm", "ahead", context_hash)]
    assert sets_of(world, "bob") == []
    assert counts(night) == {"tips_written": 1}
    [row] = world.rows("tip_candidates")
    assert (row["user_id"], row["context_hash"], row["n_tips"]) == ("ann", context_hash, 2)
    calls = world.connection.execute("SELECT user_id, place, candidate_set_id::TEXT FROM llm_calls").fetchall()
    assert ("ann", "ahead", row["candidate_set_id"]) in calls
    assert len(calls) == 2


def test_first_set(world: World, account: Any, scribe: Scribe) -> None:
    """A user for whom the LLM was never called gets a set, however improbable a request is, but only once."""
    world.add("ann", account("call the dentist"))
    world.connection.execute("UPDATE users SET created_at = %s", (NOON - 60 * DAY,))
    assert world.runtime.tip_writer.probabilities(NOON, NOON + 4 * HOUR) == {"ann": 0}
    assert counts(world.night(NOON)) == {"tips_written": 1}
    assert counts(world.night(NOON + 4 * DAY)) == {}
    assert len(sets_of(world, "ann")) == len(scribe.asked) == 1


def test_first_set_that_failed(world: World, account: Any, scribe: Scribe) -> None:
    """A first set that the LLM failed to write costs one call, and no other in later runs."""
    world.add("ann", account("call the dentist"))
    scribe.broken_words = "dentist"
    assert counts(world.night(NOON)) == {"tips_failed": 1}
    assert counts(world.night(NOON + 4 * HOUR)) == {}
    assert len(scribe.asked) == 1


def test_once(world: World, account: Any, scribe: Scribe) -> None:
    """A set whose tips are still valid is not written again; after a request and a change of its task it is."""
    world.add("ann", account("call the dentist"))
    ask_daily(world, "ann", NOON + HOUR)
    world.night(NOON)
    ask(world, "ann", NOON + timedelta(minutes=5))
    assert counts(world.night(NOON + timedelta(minutes=10))) == {"tips_still_valid": 1}
    world.todoist.advance("ann", {"items": [{"id": "t0", "content": "call the surgeon", "added_by_uid": "1"}]})
    assert counts(world.night(NOON + timedelta(minutes=20)))["tips_written"] == 1
    assert len(scribe.asked) == 2


def change_task(world: World, content: str) -> None:
    """Let the only task of ann say something else, which makes tips about it invalid."""
    world.todoist.advance("ann", {"items": [{"id": "t0", "content": content, "added_by_uid": "1"}]})


def test_invalid_before_the_request(world: World, account: Any, scribe: Scribe) -> None:
    """A set whose task changes before the request on its day is written again."""
    world.add("ann", account("call the dentist"))
    ask_daily(world, "ann", NOON + HOUR)
    world.night(NOON)
    assert counts(world.night(NOON + timedelta(minutes=10))) == {"tips_still_valid": 1}
    change_task(world, "call the surgeon")
    assert counts(world.night(NOON + timedelta(minutes=20)))["tips_written"] == 1


def test_too_few_tips(world: World, account: Any, scribe: Scribe) -> None:
    """A set with too few valid tips is not written again on its day until the context changes."""
    world.add("ann", account("call the dentist"))
    ask_daily(world, "ann", NOON + HOUR)
    world.night(NOON)
    world.connection.execute("UPDATE candidate_sets SET subject_hashes = ARRAY['', '']")
    assert counts(world.night(NOON + timedelta(minutes=10))) == {"tips_still_valid": 1}
    change_task(world, "call the surgeon")
    assert counts(world.night(NOON + timedelta(minutes=20)))["tips_written"] == 1


def test_set_that_nobody_saw(world: World, account: Any, scribe: Scribe) -> None:
    """After a day without the request for which a set was written no other set follows, until the user asks again."""
    world.add("ann", account("call the dentist"))
    ask_daily(world, "ann", NOON + HOUR)
    world.night(NOON)
    change_task(world, "call the surgeon")
    assert counts(world.night(NOON + DAY)) == {}
    ask(world, "ann", NOON + DAY + timedelta(minutes=10))
    world.clock = lambda: NOON + DAY
    assert counts(world.night(NOON + DAY + timedelta(minutes=20)))["tips_written"] == 1


def test_second_request_of_a_day(world: World, account: Any, scribe: Scribe) -> None:
    """A user who asked on the day of a set, but before it was written, gets another set for the next day."""
    world.add("ann", account("call the dentist"))
    for hour in (-3, 1):
        ask_daily(world, "ann", NOON + hour * HOUR)
    ask(world, "ann", NOON - 3 * HOUR)
    world.night(NOON)
    change_task(world, "call the surgeon")
    tomorrow = NOON + 20 * HOUR
    world.clock = lambda: tomorrow
    assert counts(world.night(tomorrow))["tips_written"] == 1


def test_day_of_the_request(world: World, account: Any, scribe: Scribe) -> None:
    """A set for a request after the user's midnight is written from the context of that day."""
    world.add("ann", account({"id": "t0", "content": "call", "due": {"date": "2026-11-24"}}))
    before_midnight = NOON + 10 * HOUR
    world.clock = lambda: before_midnight
    ask_daily(world, "ann", NOON + 13 * HOUR)
    world.night(before_midnight)
    [(context, today)] = scribe.asked
    assert today == date(2026, 11, 24)
    assert list(context.tasks) == ["today"]
    [(_, _, context_hash)] = sets_of(world, "ann")
    world.night(NOON + 13 * HOUR)
    assert world.stored()["ann"]["context_hash"] == context_hash


def test_budget_of_calls(world: World, account: Any, scribe: Scribe) -> None:
    """After the last call of a day's budget nothing more is written ahead, until the next day."""
    world.ahead = AheadSettings(max_calls=1)
    for user in ("ann", "bob", "cem"):
        world.add(user, account(f"call the dentist of {user}"))
        ask_daily(world, user, NOON + HOUR)
    world.n_shards = 1
    assert counts(world.night(NOON)) == {"tips_written": 1, "tips_left_out": 2}
    assert "tips_written" not in counts(world.night(NOON + timedelta(minutes=10)))
    world.clock = lambda: NOON + DAY
    assert counts(world.night(NOON + DAY))["tips_written"] == 1


def test_budget_of_dollars(world: World, account: Any, scribe: Scribe) -> None:
    """The known cost of a day's calls ends writing ahead, too."""
    world.ahead, world.n_shards = AheadSettings(max_cost_usd=0.004, concurrency=1), 1
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
        ask_daily(world, user, NOON + HOUR)
    assert counts(world.night(NOON)) == {"tips_written": 1, "tips_left_out": 1}


def test_provider_down(world: World, account: Any, scribe: Scribe) -> None:
    """If the LLM does not answer, contexts are stored as ever, and a later run writes the tips."""
    world.add("ann", account("call the dentist"))
    ask_daily(world, "ann", NOON + HOUR)
    scribe.is_down = True
    assert counts(world.night(NOON)) == {"tips_left_out": 1}
    assert world.stored()["ann"]["fetched_at"] == NOON
    scribe.is_down = False
    assert counts(world.night(NOON + timedelta(minutes=10)))["tips_written"] == 1


def test_unstorable_tips(world: World, account: Any, scribe: Scribe) -> None:
    """A set that Postgres refuses costs that user's tips only, and its call is recorded."""
    for user in ("ann", "bob"):
        world.add(user, account(f"call the dentist of {user}"))
        ask_daily(world, user, NOON + HOUR)
    world.n_shards, scribe.broken_words = 1, "of ann"
    assert counts(world.night(NOON)) == {"tips_written": 1, "tips_failed": 1}
    assert [row["user_id"] for row in world.rows("tip_candidates")] == ["bob"]
    assert world.connection.execute("SELECT count(*) FROM llm_calls").fetchone() == (2,)


def test_paid_once(world: World, account: Any, scribe: Scribe) -> None:
    """A run that died after the LLM had written a set leaves it stored: the next run adopts it without a call."""
    world.add("ann", account("call the dentist"))
    ask_daily(world, "ann", NOON + HOUR)
    world.night(NOON)
    for path in (world.root / "tip_candidates").rglob("*.parquet"):
        path.unlink()
    ask(world, "ann", NOON + timedelta(minutes=5))
    assert counts(world.night(NOON + timedelta(minutes=10))) == {"tips_still_valid": 1}
    assert [row["user_id"] for row in world.rows("tip_candidates")] == ["ann"]
    assert len(scribe.asked) == 1


def test_replaced_account(world: World, account: Any, scribe: Scribe) -> None:
    """A set for an earlier account of a user is none for the present one."""
    world.add("ann", account("call the dentist"))
    ask_daily(world, "ann", NOON + HOUR)
    world.night(NOON)
    world.todoist.load("another-token", account("call the dentist"), user="ann-2")
    world.accounts.add("ann", email="ann@example.org", timezone="UTC", credentials=Credentials("another-token"))
    world.connection.execute("UPDATE todoist_accounts SET connected_at = %s", (NOON + timedelta(minutes=1),))
    assert counts(world.night(NOON + timedelta(minutes=10)))["tips_written"] == 1


def test_removed_user(world: World, account: Any, scribe: Scribe) -> None:
    """A removed user's row disappears with the next night, also without any demand."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
        ask_daily(world, user, NOON + HOUR)
    world.night(NOON)
    world.accounts.remove("bob")
    world.new_generator = None
    world.night(NOON + 4 * HOUR)
    assert [row["user_id"] for row in world.rows("tip_candidates")] == ["ann"]


def test_users_of_no_account(world: World, account: Any, scribe: Scribe) -> None:
    """No text of an inactive or refused user goes to the LLM."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
        ask_daily(world, user, NOON + HOUR)
    world.ahead = replace(world.ahead, max_calls=0)
    world.night(NOON)
    world.ahead = AheadSettings()
    world.accounts.set_active("ann", active=False)
    world.connection.execute("UPDATE todoist_accounts SET auth_failures = 1 WHERE user_id = 'bob'")
    assert world.runtime.tip_writer.demand(NOON, NOON + 4 * HOUR, shards=None, n_shards=2) == {}


def test_somebody_who_never_asked(world: World, account: Any, scribe: Scribe) -> None:
    """A user without a request is expected at once, if enough others usually ask at this time of day."""
    for user in ("ann", "bob", "cem", "new"):
        world.add(user, account("call the dentist"))
    for user in ("ann", "bob", "cem"):
        ask_daily(world, user, NOON + HOUR)
    world.connection.execute("UPDATE users SET created_at = %s WHERE user_id = 'new'", (NOON - HOUR,))
    record_call(world, "new")
    assert world.runtime.tip_writer.demand(NOON, NOON + 2 * HOUR, shards=None, n_shards=2)["new"] == NOON
    assert counts(world.night(NOON)) == {"tips_written": 4}
    assert [origin for _, origin, _ in sets_of(world, "new")] == ["ahead"]


def test_without_an_llm(world: World, account: Any) -> None:
    """Without LLM_MODEL the step plans nothing, whoever will ask."""
    world.add("ann", account("call the dentist"))
    ask_daily(world, "ann", NOON + HOUR)
    assert world.night(NOON)["tip_candidates"] == []


def test_price(world: World, account: Any, scribe: Scribe) -> None:
    """A plan shows how many sets a run writes at most, and their price by the mean cost of past calls."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
        ask_daily(world, user, NOON + HOUR)
    world.night(NOON)
    for user in ("ann", "bob"):
        ask(world, user, NOON + HOUR)
    runner = StepRunner(world.graph, world.runtime, world.resources, NOON + DAY, RunOptions())
    line = [line for line in estimate_table(runner.estimate(*runner.forecast(), world.graph)) if "tip_cand" in line]
    assert "demand" in line[0]
    assert "at most 2 tips written" in line[0]
    assert "$0.01" in line[0]


class TestProbability:
    def probability(self, world: World, user: str) -> float:
        """The probability that a user asks between noon and 14:00."""
        return world.runtime.tip_writer.probabilities(NOON, NOON + 2 * HOUR)[user]

    def test_daily(self, world: World, account: Any, scribe: Scribe) -> None:
        """Somebody who asks every day at that time will nearly certainly ask, and at that time."""
        world.add("ann", account())
        ask_daily(world, "ann", NOON + HOUR, n_days=21)
        assert self.probability(world, "ann") > 0.95
        assert world.runtime.tip_writer.demand(NOON, NOON + 2 * HOUR, shards=None, n_shards=2) == {"ann": NOON + HOUR}

    def test_stopped(self, world: World, account: Any, scribe: Scribe) -> None:
        """Nothing more is written for somebody who asked daily and stopped a week ago."""
        world.add("ann", account("call"))
        ask_daily(world, "ann", NOON + HOUR)
        world.night(NOON)
        assert sets_of(world, "ann")
        later = NOON + 7 * DAY
        assert world.runtime.tip_writer.probabilities(later, later + 2 * HOUR)["ann"] > 0.1
        assert world.runtime.tip_writer.demand(later, later + 2 * HOUR, shards=None, n_shards=2) == {}

    def test_new(self, world: World, account: Any, scribe: Scribe) -> None:
        """For somebody new the share of all users counts."""
        for user in ("ann", "bob", "cem", "new"):
            world.add(user, account())
        for user in ("ann", "bob", "cem"):
            ask_daily(world, user, NOON + HOUR)
        world.connection.execute("UPDATE users SET created_at = %s WHERE user_id = 'new'", (NOON - HOUR,))
        assert 0.3 < self.probability(world, "new") < 0.8

    def test_users_who_left(self, world: World, account: Any, scribe: Scribe) -> None:
        """The requests of users who are inactive by now do not count for somebody new."""
        for user in ("ann", "new"):
            world.add(user, account())
        ask_daily(world, "ann", NOON + HOUR)
        world.connection.execute("UPDATE users SET created_at = %s WHERE user_id = 'new'", (NOON - HOUR,))
        assert self.probability(world, "new") > 0.2
        world.accounts.set_active("ann", active=False)
        assert self.probability(world, "new") == 0

    def test_local_time(self, world: World, account: Any, scribe: Scribe) -> None:
        """The time of the request is that of the user's own day, also across a change of summer time."""
        world.add("ann", account(), timezone="Europe/Berlin")
        world.connection.execute("UPDATE users SET created_at = %s, timezone = 'Europe/Berlin'", (NOON - 60 * DAY,))
        march = datetime(2026, 3, 29, 12, tzinfo=NOON.tzinfo)  # summer time began at 01:00 UTC
        for day in range(1, 8):
            world.connection.execute(
                "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (%s, 'ann', %s)",
                (uuid4(), march + HOUR - day * DAY),  # at 14:00 in Berlin, which is noon from now on
            )
        world.connection.execute("UPDATE users SET created_at = %s", (march - 8 * DAY,))
        demand = world.runtime.tip_writer.demand(march, march + HOUR, shards=None, n_shards=2)
        assert demand == {"ann": march}
