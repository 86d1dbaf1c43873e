"""Users' habits and the times of their requests for tips. Pure, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import accumulate, pairwise
from random import Random
from zoneinfo import ZoneInfo

from local.samples import SampleUser

_WAKING_FROM = 7 * 60
"""Minute after the local midnight at which all users wake up."""

_WAKING_MINUTES = 16 * 60
"""Length of a waking day."""

_MAX_REQUESTS_PER_DAY = 6

_IDLE_SHARE = 0.1
_IRREGULAR_SHARE = 1 / 6
"""Share of the active users without habits."""

_FEW_DAYS = (1, 3)
"""Fewest and most days a week of a user who asks on few days, drawn for each week."""

_SKIP_RATE = 0.1
_JITTER_MINUTES = 10.0
"""Standard deviation of a habit's time from day to day; deviations over half an hour occur once in about 370 days."""


@dataclass(frozen=True)
class Person:
    """A user who sends `n_per_day` requests a day.

    habits: times of the requests in minutes after midnight, each skipped on one day in ten; empty for random times.
    joins_on: the day on which the user connects an account; None: long before the week. stops_on: the first day
    without a request; None: after the week. asks_on_few_days: on one to three random days a week, not on all.
    """

    user_id: str
    zone: ZoneInfo
    n_per_day: int
    habits: tuple[int, ...]
    joins_on: date | None = None
    stops_on: date | None = None
    asks_on_few_days: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether the user sends no requests."""
        return self.n_per_day == 0

    def is_present(self, day: date) -> bool:
        """Whether the user has joined and not stopped on a day."""
        return (self.joins_on is None or day >= self.joins_on) and (self.stops_on is None or day < self.stops_on)


@dataclass(frozen=True)
class World:
    """A kind of population: the shares of users who join during the week, who stop asking, who ask on few days."""

    name: str
    joining_share: float = 0.0
    stopping_share: float = 0.0
    few_days_share: float = 0.0


STEADY_WORLD = World("steady users")
HARDER_WORLD = World("users who come and go", joining_share=0.10, stopping_share=0.15, few_days_share=0.30)


def draw_people(
    users: Sequence[SampleUser], *, seed: int, world: World = STEADY_WORLD, week: Sequence[date] = ()
) -> list[Person]:
    """The habits of each user: one in ten is idle, one in six of the others irregular; 1 to 6 requests a day.

    week: the days on which users can join or stop.
    """
    rng = Random(f"{seed}:people")
    order = rng.sample(range(len(users)), len(users))
    n_idle = round(_IDLE_SHARE * len(users))
    n_irregular = round(_IRREGULAR_SHARE * (len(users) - n_idle))
    idle, irregular = set(order[:n_idle]), set(order[n_idle:][:n_irregular])
    people = [_draw_person(user, rng, n in idle, n in irregular) for n, user in enumerate(users)]
    return _unsteady(people, world, week, Random(f"{seed}:unsteady"))


def _unsteady(people: Sequence[Person], world: World, week: Sequence[date], rng: Random) -> list[Person]:
    """The people, with those who join, stop or ask on few days; each user does at most one of these."""
    asking = [person for person in people if not person.is_idle]
    rng.shuffle(asking)
    shares = (world.joining_share, world.stopping_share, world.few_days_share)
    bounds = list(accumulate((round(share * len(people)) for share in shares), initial=0))
    joining, stopping, few_days = (
        {person.user_id for person in asking[begin:end]} for begin, end in pairwise(bounds)
    )
    return [
        replace(
            person,
            joins_on=rng.choice(week) if person.user_id in joining else None,
            stops_on=rng.choice(week) if person.user_id in stopping else None,
            asks_on_few_days=person.user_id in few_days,
        )
        for person in people
    ]


def request_times(person: Person, days: Iterable[date], *, seed: int) -> Iterator[datetime]:
    """The instants (UTC) of a person's requests on local days, in order."""
    for day in days:
        if not person.is_present(day) or (person.asks_on_few_days and day not in _few_days(person, day, seed)):
            continue
        rng = Random(f"{seed}:requests:{person.user_id}:{day}")
        minutes = _habitual_minutes(person, rng) if person.habits else random_minutes(rng, person.n_per_day)
        yield from (instant_at(day, minute, person.zone) for minute in sorted(minutes))


def _few_days(person: Person, day: date, seed: int) -> list[date]:
    """The days on which a person asks in the week of a day."""
    monday = day - timedelta(days=day.weekday())
    rng = Random(f"{seed}:few days:{person.user_id}:{monday}")
    return [monday + timedelta(days=n) for n in rng.sample(range(7), rng.randint(*_FEW_DAYS))]


def instant_at(day: date, minute: float, zone: ZoneInfo) -> datetime:
    """The instant (UTC) of a local time, given in minutes after the midnight at the start of `day`."""
    return (datetime.combine(day, time(), zone) + timedelta(minutes=minute)).astimezone(UTC)


def random_minutes(rng: Random, n_per_day: float) -> Iterator[float]:
    """Minutes of waking hours, drawn as a Poisson process with `n_per_day` on average."""
    minute = 0.0
    while n_per_day and (minute := minute + rng.expovariate(n_per_day / _WAKING_MINUTES)) < _WAKING_MINUTES:
        yield _WAKING_FROM + minute


def _draw_person(user: SampleUser, rng: Random, is_idle: bool, is_irregular: bool) -> Person:
    n_per_day = rng.randint(1, _MAX_REQUESTS_PER_DAY)
    habits = rng.sample(range(_WAKING_FROM, _WAKING_FROM + _WAKING_MINUTES), n_per_day)
    has_habits = not (is_idle or is_irregular)
    return Person(
        user_id=user.user_id,
        zone=ZoneInfo(user.timezone),
        n_per_day=0 if is_idle else n_per_day,
        habits=tuple(sorted(habits)) if has_habits else (),
    )


def _habitual_minutes(person: Person, rng: Random) -> list[float]:
    return [minute + rng.gauss(0, _JITTER_MINUTES) for minute in person.habits if rng.random() >= _SKIP_RATE]
