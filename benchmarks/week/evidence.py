"""Two weeks of audits and arrivals of events before the simulation, as the pipeline leaves them in Postgres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from random import Random
from typing import Any

import psycopg

from benchmarks.week.changes import changes_of
from benchmarks.week.workload import MONDAY, WARM_UP, Workload
from local.samples import SampleUser

EVIDENCE_DAYS = 14
_FULL_AUDIT_EVERY = 4

_AUDIT = """
    INSERT INTO event_audits (user_id, audited_at, since, kind, n_changes, n_missed) VALUES (%s, %s, %s, %s, %s, %s)
"""
_ARRIVAL = "INSERT INTO event_arrivals (received_at, delay_s) VALUES (%s, %s)"
_COVER = "UPDATE todoist_accounts SET events_confirmed_at = %s"
_LAST_FETCHES = """
    UPDATE todoist_accounts SET observed_at = %(at)s, synced_at = %(at)s, changed_at = %(at)s WHERE user_id = %(user)s
"""
_CONTEXTS = "UPDATE context_store SET materialized_at = %(at)s WHERE user_id = %(user)s"
_CHANNEL = """
    UPDATE todoist_channel
    SET last_delivery_at = %s, endpoint_seen_at = %s, evidence_since = %s, outage_ended_at = NULL
"""


def store_evidence(
    connection: psycopg.Connection[Any], workload: Workload, *, miss_rate: float, max_delay: timedelta
) -> None:
    """Store an audit of each user and day, the arrivals of the events between them, and that all users are covered.

    The changes are drawn as those of the simulation. miss_rate: share of the audited changes that no event told.
    max_delay: delays are drawn evenly up to it.
    """
    rng, start = Random(f"{workload.seed}:evidence"), MONDAY - WARM_UP
    days = [start.date() - timedelta(days=n) for n in range(EVIDENCE_DAYS, -1, -1)]
    audits, arrivals = list[tuple[object, ...]](), list[tuple[datetime, float]]()
    for user in workload.users:
        changes = [change for change in changes_of(user, days, seed=workload.seed) if change.at < start]
        audits += _audits(user, [change.at for change in changes], start, miss_rate, rng)
        delays = [rng.random() * max_delay for _ in changes]
        arrivals += [
            (change.at + delay, delay.total_seconds())
            for change, delay in zip(changes, delays, strict=True)
            if change.at + delay < start
        ]
    with connection.cursor() as cursor:
        cursor.executemany(_AUDIT, audits)
        cursor.executemany(_ARRIVAL, arrivals)
        cursor.execute(_COVER, [start])
        cursor.execute(_CHANNEL, [max(at for at, _ in arrivals), start, start - timedelta(days=EVIDENCE_DAYS)])


def spread_audits(
    connection: psycopg.Connection[Any], users: Sequence[SampleUser], at: datetime, *, every_days: int
) -> None:
    """Date the fetches of all users back by up to some days, as if audits were spread over that time.

    at: the fetches, since which nothing has changed.
    """
    for number, user in enumerate(users):
        values = {"at": at - timedelta(days=number % every_days), "user": user.user_id}
        connection.execute(_LAST_FETCHES, values)
        connection.execute(_CONTEXTS, values)


def _audits(
    user: SampleUser, changed_at: Sequence[datetime], start: datetime, miss_rate: float, rng: Random
) -> Iterator[tuple[object, ...]]:
    """The rows of a user's daily audits, at the hour at which the simulation starts."""
    n_by_day: Counter[date] = Counter(at.date() for at in changed_at)
    for n in range(EVIDENCE_DAYS, 0, -1):
        since = start - timedelta(days=n)
        n_changes = n_by_day[since.date()]
        n_missed = sum(rng.random() < miss_rate for _ in range(n_changes))
        kind = "full" if n % _FULL_AUDIT_EVERY == 0 else "incremental"
        yield user.user_id, since + timedelta(days=1), since, kind, n_changes, n_missed
