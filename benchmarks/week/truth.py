"""How much of the truth an answer misses: changes that its context does not show. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from benchmarks.week.changes import Change

TOLERATED_AGE = timedelta(hours=6)
"""Polling misses no older change, unless a fetch fails."""

_N_RESAMPLES = 2000


@dataclass(frozen=True)
class TaskChange:
    """One change of a task. has_ended: whether the task is completed or deleted by it."""

    at: datetime
    has_ended: bool


@dataclass(frozen=True)
class CheckedAnswer:
    """An answer beside the truth.

    known_by: as in the answer of the service.
    missed: ages of the changes that its context does not show, the newest first.
    """

    at: datetime
    user_id: str
    known_by: str
    missed: Sequence[timedelta]

    @property
    def misses_old(self) -> bool:
        """Whether the context misses a change older than `TOLERATED_AGE`."""
        return bool(self.missed) and self.missed[-1] > TOLERATED_AGE


class Truth:
    """All changes of users' tasks, to compare contexts with."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._changes: dict[str, dict[str, list[TaskChange]]] = defaultdict(lambda: defaultdict(list))
        for change in changes:
            for item in change.delta["items"]:
                has_ended = bool(item.get("checked") or item.get("is_deleted"))
                self._changes[change.user_id][item["id"]].append(TaskChange(change.at, has_ended))

    def missed(
        self, user_id: str, at: datetime, fetched_at: datetime | None, stored: Mapping[str, datetime]
    ) -> list[timedelta]:
        """The ages of the changes until `at` that a context does not show, the newest first.

        fetched_at: the fetch that the context shows; None: it shows nothing. stored: the instants of the last changes
        of the stored open tasks, with events in them that were folded since the fetch.
        """
        missed = [
            change.at
            for task_id, changes in self._changes.get(user_id, {}).items()
            for change in _missed_of_task([each for each in changes if each.at <= at], stored.get(task_id))
            if fetched_at is None or change.at > fetched_at
        ]
        return sorted(at - each for each in missed)


def _missed_of_task(changes: Sequence[TaskChange], shown_at: datetime | None) -> Sequence[TaskChange]:
    """The changes of one task that are not stored. shown_at: its last stored change; None: no such open task."""
    if shown_at is not None:
        return [change for change in changes if change.at > shown_at]
    return [] if changes and changes[-1].has_ended else changes


@dataclass(frozen=True)
class Share:
    """A share of answers with a 95 % interval."""

    value: float
    low: float
    high: float


def share_of(answers: Sequence[CheckedAnswer], hits: Collection[bool]) -> Share:
    """The share of hits.

    The interval resamples users, because the answers of one user miss the same change. Without a hit its upper end
    is that of the exact binomial interval: 1 - 0.05 ** (1 / n).
    """
    values = np.array(list(hits), float)
    if not values.any():
        return Share(0.0, 0.0, 1 - 0.05 ** (1 / len(values)))
    users = {user: n for n, user in enumerate(sorted({answer.user_id for answer in answers}))}
    numbers = np.array([users[answer.user_id] for answer in answers])
    n_hits, n_answers = np.bincount(numbers, values), np.bincount(numbers)
    drawn = np.random.default_rng(1).integers(len(users), size=(_N_RESAMPLES, len(users)))
    shares = n_hits[drawn].sum(axis=1) / n_answers[drawn].sum(axis=1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return Share(float(values.mean()), float(low), float(high))


def age_percentiles(ages: Sequence[timedelta]) -> tuple[timedelta, timedelta] | None:
    """p50 and p99; None without ages."""
    if not ages:
        return None
    p50, p99 = np.percentile([age.total_seconds() for age in ages], [50, 99])
    return timedelta(seconds=float(p50)), timedelta(seconds=float(p99))
