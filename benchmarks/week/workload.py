"""The week as it is played to every competitor: people, what they ask and how their tasks change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from benchmarks.week.changes import Change, changes
from benchmarks.week.habits import Person, people, requests
from local.samples import SampleUser, sample_users

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
"""The week begins here; before it lies the warm-up."""

WARM_UP = timedelta(days=2)
"""Played to the system and not counted: else many would find no candidates when the week begins. Candidates live for
up to two days; as every other user asks on the second of these days only, not all of them are renewed on the same.
"""

HISTORY = timedelta(days=9)
"""So long before the week people had their habits already; the schedule knows what they asked then."""


@dataclass(frozen=True)
class Request:
    """Somebody asks for a tip."""

    at: datetime
    user_id: str


@dataclass(frozen=True)
class Workload:
    """All of it, in order of time. requests and changes: from the warm-up on; history: what is not played of them."""

    seed: int
    until: datetime
    users: Sequence[SampleUser]
    people: Sequence[Person]
    history: Sequence[Request]
    requests: Sequence[Request]
    changes: Sequence[Change]

    @property
    def n_requests(self) -> int:
        """How many there are in the week itself."""
        return sum(request.at >= MONDAY for request in self.requests)

    @property
    def n_days_asked(self) -> int:
        """How many of them are the first of a user's own day."""
        zones = {person.user_id: person.zone for person in self.people}
        asked = [(each.user_id, each.at, each.at.astimezone(zones[each.user_id]).date()) for each in self.requests]
        firsts = {(user_id, day): at for user_id, at, day in reversed(asked)}
        return sum(at >= MONDAY for at in firsts.values())


def workload(n_users: int, n_days: int, *, seed: int) -> Workload:
    """A week (or some days of it) of so many users."""
    began, until = MONDAY - WARM_UP, MONDAY + timedelta(days=n_days)
    users = sample_users(n_users, today=began.date())
    persons = people(users, seed=seed)
    # A day of somebody's calendar begins up to 14 hours before UTC's and ends up to 12 after it.
    days = list(_days((MONDAY - HISTORY).date() - timedelta(days=1), until.date()))
    asked = [Request(at, each.user_id) for each in persons for at in requests(each, days, seed=seed)]
    played_from = {each.user_id: began + n % 2 * WARM_UP / 2 for n, each in enumerate(persons)}
    lived = [day for day in days if day >= began.date() - timedelta(days=1)]
    changed = [each for user in users for each in changes(user, lived, seed=seed)]
    return Workload(
        seed=seed,
        until=until,
        users=users,
        people=persons,
        history=_ordered(each for each in asked if MONDAY - HISTORY <= each.at < played_from[each.user_id]),
        requests=_ordered(each for each in asked if played_from[each.user_id] <= each.at < until),
        changes=sorted((each for each in changed if began <= each.at < until), key=lambda each: each.at),
    )


def _days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=n) for n in range((last - first).days + 1))


def _ordered(requests: Iterable[Request]) -> list[Request]:
    return sorted(requests, key=lambda each: each.at)
