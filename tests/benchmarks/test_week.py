"""The week that competitors are measured by: who asks when, how tasks change, and that time goes on in order."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from functools import partial

import pytest

from benchmarks.week.changes import changes
from benchmarks.week.habits import Person, people, requests
from benchmarks.week.reactions import AFTER, reaction
from benchmarks.week.timeline import Clock, Crowd, Timeline
from benchmarks.week.workload import MONDAY, WARM_UP, workload
from contexts.mirror import Mirror, fold
from local.samples import SampleUser, sample_users

DAY = date(2026, 11, 23)
WEEK = [DAY + timedelta(days=n) for n in range(7)]


@pytest.fixture(scope="module")
def users() -> list[SampleUser]:
    return sample_users(60, today=DAY)


def test_who_has_habits(users: list[SampleUser]) -> None:
    """One in ten asks nothing, one in six of the others has no habits, and all others keep to theirs."""
    found = people(users, seed=1)
    assert sum(person.is_idle for person in found) == 6
    assert sum(not person.is_idle and not person.habits for person in found) == 9
    assert all(len(person.habits) == person.n_a_day for person in found if person.habits)
    assert {person.n_a_day for person in found} == set(range(7))


def test_habits_are_kept(users: list[SampleUser]) -> None:
    """Whoever has habits asks within half an hour of them, nine times in ten."""
    found = [person for person in people(users, seed=1) if person.habits]
    lateness = [min(abs(_minute(at, each) - habit) for habit in each.habits) for each in found for at in _week(each)]
    assert sum(late <= 30 for late in lateness) / len(lateness) > 0.98
    assert len(lateness) / (7 * sum(person.n_a_day for person in found)) == pytest.approx(0.9, abs=0.03)


def test_others_ask_at_any_waking_hour(users: list[SampleUser]) -> None:
    """Whoever has no habits asks as often on average, in waking hours only."""
    found = [person for person in people(users, seed=1) if not person.habits and not person.is_idle]
    asked = [(person, at) for person in found for at in _week(person)]
    assert len(asked) / (7 * sum(person.n_a_day for person in found)) == pytest.approx(1.0, abs=0.2)
    assert all(7 * 60 <= _minute(at, person) < 23 * 60 for person, at in asked)


def test_changes_can_be_folded(users: list[SampleUser]) -> None:
    """Every change is of a task that is open, new or done; a list neither runs dry nor grows without end."""
    mirror = fold(Mirror(), users[0].document).mirror
    n_before = len(mirror.tasks)
    for change in changes(users[0], WEEK, seed=1):
        [item] = change.delta["items"]
        assert not item["checked"] or item["id"] in mirror.tasks
        folded = fold(mirror, change.delta)
        assert not folded.skipped
        mirror = folded.mirror
    assert n_before / 2 < len(mirror.tasks) < 2 * n_before


def test_rates_of_change(users: list[SampleUser]) -> None:
    """Six changes a user and weekday, half as many at the weekend; the users' documents stay as they were."""
    before = [len(user.document["items"]) for user in users]
    days = Counter(change.at.date().weekday() >= 5 for user in users for change in changes(user, WEEK, seed=1))
    assert days[False] / 5 / len(users) == pytest.approx(6, rel=0.35)
    assert days[True] / 2 / (days[False] / 5) == pytest.approx(0.5, abs=0.15)
    assert [len(user.document["items"]) for user in users] == before


def test_reactions_depend_on_the_kind() -> None:
    """Most tips are not reacted to; a quick win is done more often than a plan; nobody reacts to an unknown kind."""
    made = {kind: [reaction(kind, "ann", n, seed=1) for n in range(1000)] for kind in (*AFTER, "generic")}
    done = {kind: sum(each is not None and each.name == "done" for each in found) for kind, found in made.items()}
    assert all(found.count(None) > 500 for found in made.values())
    assert done["quick_win"] > done["plan"] > 0
    assert made["generic"] == [None] * 1000


def test_a_workload_is_the_same_again() -> None:
    """Equal seeds give equal weeks; every other user's warm-up is half as long, and history goes on into it."""
    one, same, other = (workload(12, 2, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.requests != other.requests
    assert MONDAY - WARM_UP <= one.requests[0].at < one.history[-1].at < MONDAY - WARM_UP / 2
    assert not {(each.user_id, each.at) for each in one.history} & {(each.user_id, each.at) for each in one.requests}
    assert one.n_requests == sum(MONDAY <= request.at < one.until for request in one.requests)


def test_time_goes_on_in_order() -> None:
    """Events happen by their instants, also those planned meanwhile; the clock shows each, days are told."""
    clock, seen, told = Clock(MONDAY), list[tuple[str, datetime]](), list[str]()
    timeline = Timeline(clock, told.append)

    async def note(name: str) -> None:
        seen.append((name, clock.now()))
        if name == "first":
            timeline.plan(MONDAY + timedelta(hours=2), lambda: note("between"))

    async def play() -> None:
        timeline.plan(MONDAY + timedelta(hours=25), lambda: note("last"))
        timeline.plan(MONDAY + timedelta(hours=1), lambda: note("first"))
        async with asyncio.TaskGroup() as group:
            await timeline.play(Crowd(group, at_most=1, span=timedelta(hours=1), patience=0))

    asyncio.run(play())
    assert seen == [(name, MONDAY + timedelta(hours=n)) for n, name in ((1, "first"), (2, "between"), (25, "last"))]
    assert told == ["  Tuesday"]


def test_a_crowd_waits_for_whoever_asked_long_ago() -> None:
    """The clock stands still while somebody waits who asked more than the span ago; others wait side by side."""
    clock, ended = Clock(MONDAY), dict[str, datetime]()
    timeline = Timeline(clock, str)

    async def slow(user: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended[user] = clock.now()

    async def play() -> None:
        async with asyncio.TaskGroup() as group:
            crowd = Crowd(group, at_most=2, span=timedelta(minutes=30), patience=0)
            for minute, user, seconds in ((0, "ann", 0.05), (20, "bob", 0.2), (40, "cid", 0.0)):
                at, work = MONDAY + timedelta(minutes=minute), partial(slow, user, seconds)
                timeline.plan(at, partial(crowd.ask, user, at, work))
            await timeline.play(crowd)

    asyncio.run(play())
    assert ended == {user: MONDAY + timedelta(minutes=n) for user, n in (("ann", 20), ("bob", 40), ("cid", 40))}


def _week(person: Person) -> list[datetime]:
    return list(requests(person, WEEK, seed=1))


def _minute(at: datetime, person: Person) -> float:
    local = at.astimezone(person.zone)
    assert at.tzinfo is UTC
    return local.hour * 60 + local.minute + local.second / 60
