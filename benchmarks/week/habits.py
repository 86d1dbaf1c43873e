"""When people ask for a tip: at their own hours, at any hour, or not at all. Pure, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from zoneinfo import ZoneInfo

from local.samples import SampleUser

WAKING_FROM = 7 * 60
WAKING_MINUTES = 16 * 60
"""Everybody is awake from 7 to 23 o'clock; all times of a day here are minutes after its midnight."""

MOST_A_DAY = 6

_IDLE = 0.1
_IRREGULAR = 1 / 6
_SKIPPED = 0.1
_UNPUNCTUAL = 10.0
"""Standard deviation of a habit's minute from day to day; it is late by more than half an hour once in 750 days."""


@dataclass(frozen=True)
class Person:
    """Who asks `n_a_day` times a day: at `habits`, each left out one day in ten; without any, at random times."""

    user_id: str
    zone: ZoneInfo
    n_a_day: int
    habits: tuple[int, ...]

    @property
    def is_idle(self) -> bool:
        return self.n_a_day == 0


def people(users: Sequence[SampleUser], *, seed: int) -> list[Person]:
    """One in ten is idle, one in six of the others irregular; 1 to 6 requests a day, each as likely."""
    rng = Random(f"{seed}:people")
    order = rng.sample(range(len(users)), len(users))
    n_idle = round(_IDLE * len(users))
    idle, irregular = set(order[:n_idle]), set(order[n_idle:][: round(_IRREGULAR * (len(users) - n_idle))])
    return [_person(user, rng, n in idle, n in irregular) for n, user in enumerate(users)]


def requests(person: Person, days: Iterable[date], *, seed: int) -> Iterator[datetime]:
    """The instants (UTC) at which a person asks on some days of their own calendar, in order."""
    for day in days:
        rng = Random(f"{seed}:requests:{person.user_id}:{day}")
        minutes = _habitual(person, rng) if person.habits else uneven_minutes(rng, person.n_a_day)
        yield from (at_minute(day, minute, person.zone) for minute in sorted(minutes))


def at_minute(day: date, minute: float, zone: ZoneInfo) -> datetime:
    """The instant at which a clock in `zone` is so many minutes after the midnight that begins `day`."""
    return (datetime.combine(day, time(), zone) + timedelta(minutes=minute)).astimezone(UTC)


def uneven_minutes(rng: Random, n_a_day: float) -> Iterator[float]:
    """Minutes of waking hours, drawn as a Poisson process: `n_a_day` on average, none remembering another."""
    minute = 0.0
    while n_a_day and (minute := minute + rng.expovariate(n_a_day / WAKING_MINUTES)) < WAKING_MINUTES:
        yield WAKING_FROM + minute


def _person(user: SampleUser, rng: Random, is_idle: bool, is_irregular: bool) -> Person:
    n_a_day = rng.randint(1, MOST_A_DAY)
    habits = rng.sample(range(WAKING_FROM, WAKING_FROM + WAKING_MINUTES), n_a_day)
    has_habits = not (is_idle or is_irregular)
    return Person(
        user_id=user.user_id,
        zone=ZoneInfo(user.timezone),
        n_a_day=0 if is_idle else n_a_day,
        habits=tuple(sorted(habits)) if has_habits else (),
    )


def _habitual(person: Person, rng: Random) -> list[float]:
    return [minute + rng.gauss(0, _UNPUNCTUAL) for minute in person.habits if rng.random() >= _SKIPPED]
