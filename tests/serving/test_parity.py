"""The pipeline and the request assemble the same bytes for a user, however each of them fetched the tasks."""

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
from service import Service, ServiceHarness
from world import NOON

from local.samples import changed_users, night_changes, sample_users
from local.todoist import LocalTodoist

DAY = timedelta(days=1)

# They include zones with clock changes at midnight, and the zones farthest from UTC.
ZONES = [
    "UTC", "Europe/Berlin", "America/Santiago", "Africa/Cairo", "Asia/Kathmandu", "Pacific/Kiritimati",
    "Pacific/Marquesas", "Etc/GMT+12",
]  # fmt: skip
COLUMNS = "user_id, context_json, context_hash, valid_until, groups_json, row_version"

_numbers = itertools.count()


@dataclass(frozen=True)
class UserHistory:
    """A user: the account at the first run, later changes, and reactions to tips.

    reactions: kind, theme, reaction, and time before the second run.
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
            "added_by_uid": st.sampled_from([None, "1", "1", "2"]),
            "labels": st.lists(st.sampled_from(["home", "büro", "仕事"]), max_size=3),
            "due": st.none() | whole_days | local_times | instants | st.just({"date": "someday"}),
            "deadline": st.none() | st.fixed_dictionaries({"date": days}),
            "duration": st.none() | durations,
        }
    ),
)
places = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["Home", "Work", "دار"]),
        "is_shared": st.booleans(),
        "workspace_id": st.sampled_from([None, None, "w"]),
    }
)
archived = st.builds(lambda place, flag: place | {"is_archived": flag}, places, st.booleans())
names = st.fixed_dictionaries({"name": st.sampled_from(["Now", "Later"])})
owners = st.fixed_dictionaries(
    {
        "id": st.just("1"),
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
histories = st.builds(
    UserHistory,
    st.sampled_from(ZONES),
    answers(places),
    st.lists(answers(archived), max_size=2).map(tuple),
    st.lists(reactions, max_size=6).map(tuple),
)


def use_todoist(harness: ServiceHarness, todoist: LocalTodoist) -> None:
    """Replace Todoist, and remove all users."""
    harness.connection.execute("TRUNCATE users, context_store CASCADE")
    harness.use_todoist(todoist)
    harness.world.todoist, harness.world.root = harness.todoist, harness.world.root.parent / f"data-{next(_numbers)}"


def install(harness: ServiceHarness, histories: list[UserHistory], at: datetime) -> None:
    """Replace all users by these; a run a day before `at` sees their initial accounts."""
    use_todoist(harness, LocalTodoist(full_limit=10_000, incremental_limit=10_000))
    for number, history in enumerate(histories):
        harness.world.add(
            f"user-{number}", {"full_sync": True, "sync_token": "x", **history.document}, history.timezone
        )
    harness.world.night(at - DAY)


def apply_changes(harness: ServiceHarness, histories: list[UserHistory], at: datetime) -> None:
    """Apply the changes and reactions, and run the pipeline at `at`, which fetches them incrementally.

    Two runs come first: the tasks of a project that leaves the archive arrive one fetch later, and an item that
    cannot be read costs a full fetch.
    """
    for number, history in enumerate(histories):
        for changes in history.changes:
            harness.todoist.advance(f"user-{number}", changes)
        for kind, theme, reaction, before in history.reactions:
            decision_id, then = UUID(int=next(_numbers)), at - before
            harness.connection.execute(
                "INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, theme)"
                " VALUES (%s, %s, %s, %s, %s)",
                [decision_id, f"user-{number}", then, kind, theme],
            )
            harness.connection.execute(
                "INSERT INTO reactions (decision_id, reaction, reacted_at) VALUES (%s, %s, %s)",
                [decision_id, reaction, then],
            )
    harness.world.night(at - timedelta(minutes=2))
    harness.world.night(at - timedelta(minutes=1))
    harness.world.night(at)


def assembled(harness: ServiceHarness, service: Service, user: str, at: datetime) -> tuple[Any, ...]:
    """The user's row after a request at `at` that finds it stale."""
    harness.connection.execute(
        "UPDATE context_store SET materialized_at = '2026-01-01', rows_digest = NULL WHERE user_id = %s", [user]
    )
    harness.clock.at = at
    assert service.tip(user).body["source"] == "inline"
    [row] = harness.rows(f"SELECT {COLUMNS} FROM context_store WHERE user_id = %s", user)
    return row


def instant_of_day(zone: str, at: datetime, share: float) -> datetime:
    """An instant of the local day at `at`: its start for share 0, almost its end for 1."""
    day = at.astimezone(ZoneInfo(zone)).date()
    begins, ends = (datetime.combine(each, time(), ZoneInfo(zone)).astimezone(UTC) for each in (day, day + DAY))
    return begins + (ends - begins - timedelta(seconds=1)) * share


@pytest.fixture
def service(harness: ServiceHarness) -> Service:
    return harness.open(llm_model=None, todoist_timeout=5, request_budget=10)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    histories=st.lists(histories, min_size=2, max_size=4),
    at=st.datetimes(datetime(2026, 11, 23), datetime(2026, 11, 26), timezones=st.just(UTC)),
    share=st.floats(0, 1),
)
def test_parity(
    harness: ServiceHarness, service: Service, histories: list[UserHistory], at: datetime, share: float
) -> None:
    """The contexts of a pipeline run and of a request are the same bytes, for any users and histories.

    The run fetches incrementally, the request in full; it may come at the same instant, or at any other of the user's
    day.
    """
    install(harness, histories, at)
    apply_changes(harness, histories, at)
    calls = [call.full for call in harness.todoist.calls]
    for row in harness.rows(f"SELECT {COLUMNS} FROM context_store ORDER BY user_id"):
        zone = harness.one("SELECT timezone FROM users WHERE user_id = %s", row[0])
        assert assembled(harness, service, row[0], at) == row
        assert assembled(harness, service, row[0], instant_of_day(zone, at, share)) == row
    assert calls.count(False) >= len(histories)
    assert all(call.full for call in harness.todoist.calls[len(calls) :])


@pytest.mark.parametrize("lists_descendants", [True, False])
def test_samples(harness: ServiceHarness, service: Service, lists_descendants: bool) -> None:
    """Parity holds for the sample accounts and their changes, whether or not deltas list archived tasks."""
    use_todoist(harness, LocalTodoist(lists_descendants=lists_descendants))
    users = sample_users(15, today=NOON.date())
    for user in users:
        harness.world.add(user.user_id, user.document, user.timezone)
    harness.world.night(NOON - DAY)
    for user in changed_users(users, share=0.5, night=1):
        document = harness.todoist.document(user.user_id)
        harness.todoist.advance(user.user_id, night_changes(user, document, today=NOON.date(), night=1))
    harness.world.night(NOON)
    rows = harness.rows(f"SELECT {COLUMNS} FROM context_store ORDER BY user_id")
    assert len(rows) == 15
    assert [assembled(harness, service, row[0], NOON) for row in rows] == rows


def test_run_after_a_request(harness: ServiceHarness, service: Service, account: Any) -> None:
    """A run that finds the tasks of a request's context unchanged keeps its bytes, and makes it fresh."""
    harness.world.add("ann", account("paint the old fence one", "paint the old fence two"))
    harness.world.night(NOON - DAY)
    harness.todoist.advance("ann", {"items": [{"id": "t9", "content": "paint the old fence it"}]})
    harness.world.night(NOON)
    row = assembled(harness, service, "ann", NOON + timedelta(hours=1))
    results = harness.world.night(NOON + timedelta(hours=2))
    assert sum(each.counts["contexts_changed"] for each in results["context_store"]) == 0
    assert harness.rows(f"SELECT {COLUMNS} FROM context_store") == [row]
    assert harness.world.stored()["ann"]["fetched_at"] == NOON + timedelta(hours=2)
