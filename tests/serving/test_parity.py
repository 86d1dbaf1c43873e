"""The night and the request make the same bytes of a user, whichever way each of them came to know the tasks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service import House, Service
from world import NOON

from local.samples import changed_users, night_changes, sample_users
from local.todoist import LocalTodoist

DAY = timedelta(days=1)

# Among them zones whose clocks change at midnight, and the ones farthest from UTC.
ZONES = [
    "UTC", "Europe/Berlin", "America/Santiago", "Africa/Cairo", "Asia/Kathmandu", "Pacific/Kiritimati",
    "Pacific/Marquesas", "Etc/GMT+12",
]  # fmt: skip
COLUMNS = "user_id, context_json, context_hash, valid_until, themes, row_version"

_numbers = itertools.count()


@dataclass(frozen=True)
class Life:
    """A user: the account when the first night sees it, what changes afterwards, what they made of tips.

    reactions: kind, theme, reaction, and how long before the second night.
    """

    timezone: str
    document: dict[str, Any]
    changes: tuple[dict[str, Any], ...]
    reactions: tuple[tuple[str, str, str, timedelta], ...]


ids = st.sampled_from([f"t{n}" for n in range(12)])
projects = st.sampled_from(["p0", "p1", "p2"])
sections = st.sampled_from(["s0", "s1", "s2"])
phrases = st.sampled_from(
    [
        f"{what} {which}"
        for what in ("paint the old fence", "call the dentist about")
        for which in ("one", "two", "it")
    ]
)
days = st.dates(date(2026, 11, 10), date(2026, 12, 10)).map(str)
fractions = st.sampled_from(["", ".000000", ".5"])
times = st.times().map(lambda at: at.replace(microsecond=0).isoformat())
whole_days = st.fixed_dictionaries({"date": days, "is_recurring": st.booleans()})
local_times = st.fixed_dictionaries({"date": st.builds("{}T{}{}".format, days, times, fractions)})
instants = st.fixed_dictionaries(
    {"date": st.builds("{}T{}{}Z".format, days, times, fractions), "timezone": st.sampled_from(ZONES)}
)
flags = st.sampled_from([{}, {}, {}, {"checked": True}, {"is_deleted": True}, {"is_archived": True}])
durations = st.fixed_dictionaries({"amount": st.integers(1, 600), "unit": st.sampled_from(["minute", "day"])})
items = st.builds(
    lambda flag, item: item | flag,
    flags,
    st.fixed_dictionaries(
        {
            "id": ids,
            "content": phrases | st.text(max_size=20),
            "description": st.sampled_from(["", "soon"]),
            "priority": st.integers(1, 4),
            "project_id": st.none() | projects,
            "section_id": st.none() | sections,
            "parent_id": st.none() | ids,
            "labels": st.lists(st.sampled_from(["home", "büro", "仕事"]), max_size=3),
            "due": st.none() | whole_days | local_times | instants | st.just({"date": "someday"}),
            "deadline": st.none() | st.fixed_dictionaries({"date": days}),
            "duration": st.none() | durations,
        }
    ),
)
places = st.fixed_dictionaries({"name": st.sampled_from(["Home", "Work", "دار"])})
archived = st.builds(lambda place, flag: place | {"is_archived": flag}, places, st.booleans())
names = st.fixed_dictionaries({"name": st.sampled_from(["Now", "Later"])})
owners = st.fixed_dictionaries(
    {
        "lang": st.sampled_from(["en", "de", "ar"]),
        "tz_info": st.fixed_dictionaries({"timezone": st.sampled_from([*ZONES, "Mars/Base"])}),
    }
)


def each_once(objects: st.SearchStrategy[dict[str, Any]], n: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(objects, max_size=n, unique_by=lambda each: each["id"])


def with_ids(ids: st.SearchStrategy[str], objects: st.SearchStrategy[dict[str, Any]]) -> Any:
    return each_once(st.builds(lambda id, each: {"id": id, **each}, ids, objects), 3)


def answers(places: st.SearchStrategy[dict[str, Any]]) -> Any:
    kinds = {"items": each_once(items, 12), "projects": with_ids(projects, places)}
    return st.fixed_dictionaries({**kinds, "sections": with_ids(sections, names)}, optional={"user": owners})


reactions = st.tuples(
    st.sampled_from(["focus", "plan", "theme"]),
    st.sampled_from(["", "a-theme", "another"]),
    st.sampled_from(["done", "accepted", "snoozed", "dismissed", "ignored"]),
    st.timedeltas(timedelta(0), timedelta(days=80)),
)
lives = st.builds(
    Life,
    st.sampled_from(ZONES),
    answers(places),
    st.lists(answers(archived), max_size=2).map(tuple),
    st.lists(reactions, max_size=6).map(tuple),
)


def settle(house: House, lives: list[Life], at: datetime) -> None:
    """These users and nobody else; at the first night, a day before `at`, their accounts are as they begin."""
    house.connection.execute("TRUNCATE users, context_store CASCADE")
    house.let_answer(LocalTodoist(full_limit=10_000, incremental_limit=10_000))
    house.world.todoist, house.world.root = house.todoist, house.world.root.parent / f"data-{next(_numbers)}"
    for number, life in enumerate(lives):
        house.world.add(f"user-{number}", {"full_sync": True, "sync_token": "x", **life.document}, life.timezone)
    house.world.night(at - DAY)


def live_on(house: House, lives: list[Life], at: datetime) -> None:
    """What the users then change and make of tips, until the night at `at`, which knows of it by deltas.

    There is one before it, because a project that comes back from the archive brings its tasks one fetch later.
    """
    for number, life in enumerate(lives):
        for changes in life.changes:
            house.todoist.advance(f"user-{number}", changes)
        for kind, theme, reaction, before in life.reactions:
            decision_id, then = UUID(int=next(_numbers)), at - before
            house.connection.execute(
                "INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, theme)"
                " VALUES (%s, %s, %s, %s, %s)",
                [decision_id, f"user-{number}", then, kind, theme],
            )
            house.connection.execute(
                "INSERT INTO reactions (decision_id, reaction, reacted_at) VALUES (%s, %s, %s)",
                [decision_id, reaction, then],
            )
    house.world.night(at - timedelta(minutes=1))
    house.world.night(at)


def assembled(house: House, service: Service, user: str, at: datetime) -> tuple[Any, ...]:
    """The user's row after a request at `at` that found it stale; like the night's, but for its freshness."""
    house.connection.execute("UPDATE context_store SET materialized_at = '2026-01-01' WHERE user_id = %s", [user])
    house.clock.at = at
    assert service.tip(user).body["source"] == "inline"
    [row] = house.rows(f"SELECT {COLUMNS} FROM context_store WHERE user_id = %s", user)
    return row


def within(zone: str, at: datetime, share: float) -> datetime:
    """An instant of the day that it is at `at` in a zone: its beginning for 0, almost its end for 1."""
    day = at.astimezone(ZoneInfo(zone)).date()
    begins, ends = (datetime.combine(each, time(), ZoneInfo(zone)).astimezone(UTC) for each in (day, day + DAY))
    return begins + (ends - begins - timedelta(seconds=1)) * share


@pytest.fixture
def service(house: House) -> Service:
    return house.open(llm_model=None, todoist_timeout=5, request_budget=10)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lives=st.lists(lives, min_size=2, max_size=4),
    at=st.datetimes(datetime(2026, 11, 23), datetime(2026, 11, 26), timezones=st.just(UTC)),
    share=st.floats(0, 1),
)
def test_parity(house: House, service: Service, lives: list[Life], at: datetime, share: float) -> None:
    """For any users and histories the context of a night, which came by deltas, and that of a request, which asks for
    everything, are the same bytes: at the same instant, and at any other of the user's day.
    """
    settle(house, lives, at)
    live_on(house, lives, at)
    calls = [call.full for call in house.todoist.calls]
    for row in house.rows(f"SELECT {COLUMNS} FROM context_store ORDER BY user_id"):
        zone = house.one("SELECT timezone FROM users WHERE user_id = %s", row[0])
        assert assembled(house, service, row[0], at) == row
        assert assembled(house, service, row[0], within(zone, at, share)) == row
    assert calls.count(False) >= len(lives)
    assert all(call.full for call in house.todoist.calls[len(calls) :])


def test_samples(house: House, service: Service) -> None:
    """So it is for the sample accounts, with the changes of a night of theirs."""
    users = sample_users(15, today=NOON.date())
    for user in users:
        house.world.add(user.user_id, user.document, user.timezone)
    house.world.night(NOON - DAY)
    for user in changed_users(users, share=0.5, night=1):
        document = house.todoist.document(user.user_id)
        house.todoist.advance(user.user_id, night_changes(user, document, today=NOON.date(), night=1))
    house.world.night(NOON)
    rows = house.rows(f"SELECT {COLUMNS} FROM context_store ORDER BY user_id")
    assert len(rows) == 15
    assert [assembled(house, service, row[0], NOON) for row in rows] == rows


def test_night_after_a_request(house: House, service: Service, account: Any) -> None:
    """A night that finds what a request wrote, and nothing new, writes nothing: it only makes the row fresh again."""
    house.world.add("ann", account("paint the old fence one", "paint the old fence two"))
    house.world.night(NOON - DAY)
    house.todoist.advance("ann", {"items": [{"id": "t9", "content": "paint the old fence it"}]})
    house.world.night(NOON)
    row = assembled(house, service, "ann", NOON + timedelta(hours=1))
    night = house.world.night(NOON + timedelta(hours=2))
    [record] = [each for each in night["context_store"] if each.counts.get("rows_refreshed")]
    assert (record.counts["rows_written"], record.counts["rows_refreshed"]) == (0, 1)
    assert house.rows(f"SELECT {COLUMNS} FROM context_store") == [row]
    assert house.world.stored()["ann"]["materialized_at"] == NOON + timedelta(hours=2)
