"""The simulated week: requests, changes of tasks, reactions, and the timeline."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from functools import partial

import pytest

from benchmarks.week.changes import changes_of
from benchmarks.week.coverage import Forecast, calibration
from benchmarks.week.habits import HARDER_WORLD, Person, draw_people, request_times
from benchmarks.week.reactions import REACTION_RATES, draw_reaction
from benchmarks.week.timeline import SimulatedClock, Timeline, WaitingUsers
from benchmarks.week.workload import MONDAY, WARM_UP, generate_workload
from contexts.todoist.mirror import Mirror, fold
from local.samples import SampleUser, plain_users

DAY = date(2026, 11, 23)
WEEK = [DAY + timedelta(days=n) for n in range(7)]


@pytest.fixture(scope="module")
def users() -> list[SampleUser]:
    return plain_users(60, today=DAY)


def test_kinds_of_people(users: list[SampleUser]) -> None:
    """One user in ten is idle, one in six of the others has no habits, and all others have a habit per request."""
    people = draw_people(users, seed=1)
    assert sum(person.is_idle for person in people) == 6
    assert sum(not person.is_idle and not person.habits for person in people) == 9
    assert all(len(person.habits) == person.n_per_day for person in people if person.habits)
    assert {person.n_per_day for person in people} == set(range(7))


def test_habits_are_kept(users: list[SampleUser]) -> None:
    """Users with habits send a request within half an hour of each habit, and skip one in ten."""
    people = [person for person in draw_people(users, seed=1) if person.habits]
    deviations = [
        min(abs(_minute(at, person) - habit) for habit in person.habits) for person in people for at in _week(person)
    ]
    assert sum(minutes <= 30 for minutes in deviations) / len(deviations) > 0.98
    assert len(deviations) / (7 * sum(person.n_per_day for person in people)) == pytest.approx(0.9, abs=0.03)


def test_irregular_requests(users: list[SampleUser]) -> None:
    """Users without habits send their number of requests on average, in waking hours only."""
    people = [person for person in draw_people(users, seed=1) if not person.habits and not person.is_idle]
    requests = [(person, at) for person in people for at in _week(person)]
    assert len(requests) / (7 * sum(person.n_per_day for person in people)) == pytest.approx(1.0, abs=0.2)
    assert all(7 * 60 <= _minute(at, person) < 23 * 60 for person, at in requests)


def test_changes_can_be_folded(users: list[SampleUser]) -> None:
    """Every change adds, edits or completes an open task, and the number of tasks stays about the same."""
    mirror = fold(Mirror(), users[0].document).mirror
    n_before = len(mirror.tasks)
    for change in changes_of(users[0], WEEK, seed=1):
        [item] = change.delta["items"]
        assert not item["checked"] or item["id"] in mirror.tasks
        folded = fold(mirror, change.delta)
        assert not folded.skipped
        mirror = folded.mirror
    assert n_before / 2 < len(mirror.tasks) < 2 * n_before


def test_rates_of_change(users: list[SampleUser]) -> None:
    """A user has six changes per weekday and half as many on weekends; the users' documents are not modified."""
    before = [len(user.document["items"]) for user in users]
    days = Counter(change.at.date().weekday() >= 5 for user in users for change in changes_of(user, WEEK, seed=1))
    assert days[False] / 5 / len(users) == pytest.approx(6, rel=0.35)
    assert days[True] / 2 / (days[False] / 5) == pytest.approx(0.5, abs=0.15)
    assert [len(user.document["items"]) for user in users] == before


def test_reactions_depend_on_the_kind() -> None:
    """Most tips get no reaction, quick wins are done more often than plans, and an unknown kind gets no reaction."""
    reactions = {
        kind: [draw_reaction(kind, "ann", n, seed=1) for n in range(1000)] for kind in (*REACTION_RATES, "generic")
    }
    n_done = {
        kind: sum(reaction is not None and reaction.name == "done" for reaction in drawn)
        for kind, drawn in reactions.items()
    }
    assert all(drawn.count(None) > 500 for drawn in reactions.values())
    assert n_done["quick_win"] > n_done["plan"] > 0
    assert reactions["generic"] == [None] * 1000


def test_a_workload_is_reproducible() -> None:
    """Equal seeds give equal weeks; the history of every other user extends into the first half of the warm-up."""
    first, same, other = (generate_workload(12, 2, seed=seed) for seed in (1, 1, 2))
    assert first == same
    assert first.requests != other.requests
    assert MONDAY - WARM_UP <= first.requests[0].at < first.history[-1].at < MONDAY - WARM_UP / 2
    history, simulated = ({(each.user_id, each.at) for each in part} for part in (first.history, first.requests))
    assert not history & simulated
    assert first.n_requests == sum(MONDAY <= request.at < first.until for request in first.requests)


def test_the_harder_world(users: list[SampleUser]) -> None:
    """In the harder world some users join, some stop, and some ask on one to three days; the others are as before."""
    steady, harder = draw_people(users, seed=1), draw_people(users, seed=1, world=HARDER_WORLD, week=WEEK)
    joining, stopping, few_days = (
        [person for person in harder if getattr(person, name)]
        for name in ("joins_on", "stops_on", "asks_on_few_days")
    )
    assert (len(joining), len(stopping), len(few_days)) == (6, 9, 18)
    assert all(not person.is_idle for person in [*joining, *stopping, *few_days])
    assert sum(each in steady for each in harder) == 60 - 6 - 9 - 18
    for person in joining:
        assert all(at.astimezone(person.zone).date() >= person.joins_on for at in _week(person))
    for person in stopping:
        assert all(at.astimezone(person.zone).date() < person.stops_on for at in _week(person))
    days = [len({at.astimezone(person.zone).date() for at in _week(person)}) for person in few_days]
    assert max(days) <= 3


def test_joins_come_before_requests() -> None:
    """A user who joins connects the account two minutes before the first request, and has no earlier one."""
    workload = generate_workload(40, 7, seed=1, world=HARDER_WORLD)
    assert workload.joins
    for user, at in workload.joins.items():
        mine = [request.at for request in (*workload.history, *workload.requests) if request.user_id == user]
        assert min(mine) == at + timedelta(minutes=2)


def test_calibration() -> None:
    """Forecasts are compared with what happened between the two runs, in bins of similar probabilities."""
    hour = timedelta(hours=1)
    forecasts = [
        Forecast(MONDAY, MONDAY + hour, {"ann": 0.95, "bob": 0.93, "cem": 0.2}),
        Forecast(MONDAY + hour, MONDAY + 2 * hour, {"ann": 0.2}),
    ]
    low, high = calibration(forecasts, [("ann", MONDAY), ("cem", MONDAY + hour), ("ann", MONDAY + 2 * hour)])
    assert (low.n, low.forecast, low.came_true) == (2, pytest.approx(0.2), 0.0)
    assert (high.n, high.forecast, high.came_true) == (2, pytest.approx(0.94), 0.5)


def test_events_run_in_order() -> None:
    """Events run in order of time, including events added meanwhile; the clock shows each, and days are printed."""
    clock, events, lines = SimulatedClock(MONDAY), list[tuple[str, datetime]](), list[str]()
    timeline = Timeline(clock, lines.append)

    async def record(name: str) -> None:
        events.append((name, clock.now()))
        if name == "first":
            timeline.schedule(MONDAY + timedelta(hours=2), lambda: record("between"))

    async def simulate() -> None:
        timeline.schedule(MONDAY + timedelta(hours=25), lambda: record("last"))
        timeline.schedule(MONDAY + timedelta(hours=1), lambda: record("first"))
        async with asyncio.TaskGroup() as group:
            await timeline.run(WaitingUsers(group, max_users=1, max_wait=timedelta(hours=1), head_start_s=0))

    asyncio.run(simulate())
    assert events == [(name, MONDAY + timedelta(hours=n)) for n, name in ((1, "first"), (2, "between"), (25, "last"))]
    assert lines == ["  Tuesday"]


def test_the_clock_waits_for_old_requests() -> None:
    """The clock does not advance past the maximum wait of a request in progress; newer requests run concurrently."""
    clock, ended = SimulatedClock(MONDAY), dict[str, datetime]()
    timeline = Timeline(clock, str)

    async def answer(user: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended[user] = clock.now()

    async def simulate() -> None:
        async with asyncio.TaskGroup() as group:
            waiting_users = WaitingUsers(group, max_users=2, max_wait=timedelta(minutes=30), head_start_s=0)
            for minute, user, seconds in ((0, "ann", 0.05), (20, "bob", 0.2), (40, "cid", 0.0)):
                at, request = MONDAY + timedelta(minutes=minute), partial(answer, user, seconds)
                timeline.schedule(at, partial(waiting_users.ask, user, at, request))
            await timeline.run(waiting_users)

    asyncio.run(simulate())
    assert ended == {user: MONDAY + timedelta(minutes=n) for user, n in (("ann", 20), ("bob", 40), ("cid", 40))}


def _week(person: Person) -> list[datetime]:
    return list(request_times(person, WEEK, seed=1))


def _minute(at: datetime, person: Person) -> float:
    local = at.astimezone(person.zone)
    assert at.tzinfo is UTC
    return local.hour * 60 + local.minute + local.second / 60
