"""The workload of the week, the same for every system: users, their requests and the changes of their tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from benchmarks.week.changes import Change, changes_of
from benchmarks.week.habits import STEADY_WORLD, Person, World, draw_people, request_times
from local.samples import SampleUser, plain_users

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
"""The start of the week, and the end of the warm-up."""

WARM_UP = timedelta(days=2)
"""Duration of the warm-up, which is simulated but not counted: without it few users would have candidates on Monday.

Candidates live for up to two days. Every other user sends requests only on the second day of the warm-up, so that not
all candidates are renewed on the same day.
"""

HISTORY = timedelta(days=23)
"""Time before the week from which requests are in the database: at least the 21 days that forecasts count."""


@dataclass(frozen=True)
class TipRequest:
    """A user's request for a tip."""

    at: datetime
    user_id: str


_JOIN_BEFORE_REQUEST = timedelta(minutes=2)
"""Time between the connection of a new user's account and their first request."""


@dataclass(frozen=True)
class Workload:
    """All events in order of time.

    joins: the instants at which new users connect their accounts, by user.
    history: earlier requests, which are not simulated.
    requests, changes: from the start of the warm-up on.
    """

    seed: int
    until: datetime
    users: Sequence[SampleUser]
    people: Sequence[Person]
    history: Sequence[TipRequest]
    requests: Sequence[TipRequest]
    changes: Sequence[Change]
    joins: Mapping[str, datetime] = field(default_factory=dict)

    @property
    def n_requests(self) -> int:
        """The number of requests in the week, without the warm-up."""
        return sum(request.at >= MONDAY for request in self.requests)

    @property
    def n_first_requests(self) -> int:
        """The number of requests in the week that are the first of the user's local day."""
        zones = {person.user_id: person.zone for person in self.people}
        first_requests: dict[tuple[str, date], datetime] = {}
        for request in self.requests:
            local_day = request.at.astimezone(zones[request.user_id]).date()
            first_requests.setdefault((request.user_id, local_day), request.at)
        return sum(at >= MONDAY for at in first_requests.values())


def generate_workload(n_users: int, n_days: int, *, seed: int, world: World = STEADY_WORLD) -> Workload:
    """A week, or its first `n_days`, of `n_users` users."""
    start, until = MONDAY - WARM_UP, MONDAY + timedelta(days=n_days)
    users = plain_users(n_users, today=start.date())
    week = list(_days(MONDAY.date(), (until - timedelta(days=1)).date()))
    people = draw_people(users, seed=seed, world=world, week=week)
    # A local day starts up to 14 hours before the UTC day and ends up to 12 hours after it.
    days = list(_days((MONDAY - HISTORY).date() - timedelta(days=1), until.date()))
    requests = [TipRequest(at, person.user_id) for person in people for at in request_times(person, days, seed=seed)]
    simulated_from = {person.user_id: start + n % 2 * WARM_UP / 2 for n, person in enumerate(people)}
    simulated_days = [day for day in days if day >= start.date() - timedelta(days=1)]
    changes = [change for user in users for change in changes_of(user, simulated_days, seed=seed)]
    first_requests = {request.user_id: request.at for request in reversed(_by_time(requests))}
    return Workload(
        joins={
            person.user_id: first_requests[person.user_id] - _JOIN_BEFORE_REQUEST
            for person in people
            if person.joins_on and first_requests.get(person.user_id, until) < until
        },
        seed=seed,
        until=until,
        users=users,
        people=people,
        history=_by_time(
            request for request in requests if MONDAY - HISTORY <= request.at < simulated_from[request.user_id]
        ),
        requests=_by_time(request for request in requests if simulated_from[request.user_id] <= request.at < until),
        changes=sorted((change for change in changes if start <= change.at < until), key=lambda change: change.at),
    )


def _days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=n) for n in range((last - first).days + 1))


def _by_time(requests: Iterable[TipRequest]) -> list[TipRequest]:
    return sorted(requests, key=lambda request: request.at)
