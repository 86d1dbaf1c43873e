"""Users' habits and the times of their requests for tips. Pure, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
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

_SKIP_RATE = 0.1
_JITTER_MINUTES = 10.0
"""Standard deviation of a habit's time from day to day; deviations over half an hour occur once in about 370 days."""


@dataclass(frozen=True)
class Person:
    """A user who sends `n_per_day` requests a day.

    habits: times of the requests in minutes after midnight, each skipped on one day in ten; empty for random times.
    """

    user_id: str
    zone: ZoneInfo
    n_per_day: int
    habits: tuple[int, ...]

    @property
    def is_idle(self) -> bool:
        """Whether the user sends no requests."""
        return self.n_per_day == 0


def draw_people(users: Sequence[SampleUser], *, seed: int) -> list[Person]:
    """The habits of each user: one in ten is idle, one in six of the others irregular; 1 to 6 requests a day."""
    rng = Random(f"{seed}:people")
    order = rng.sample(range(len(users)), len(users))
    n_idle = round(_IDLE_SHARE * len(users))
    n_irregular = round(_IRREGULAR_SHARE * (len(users) - n_idle))
    idle, irregular = set(order[:n_idle]), set(order[n_idle:][:n_irregular])
    return [_draw_person(user, rng, n in idle, n in irregular) for n, user in enumerate(users)]


def request_times(person: Person, days: Iterable[date], *, seed: int) -> Iterator[datetime]:
    """The instants (UTC) of a person's requests on local days, in order."""
    for day in days:
        rng = Random(f"{seed}:requests:{person.user_id}:{day}")
        minutes = _habitual_minutes(person, rng) if person.habits else random_minutes(rng, person.n_per_day)
        yield from (instant_at(day, minute, person.zone) for minute in sorted(minutes))


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
