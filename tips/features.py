"""The bandit's features of a candidate: numbers from its context and text that every candidate has. Pure.

A linear score can only use features that differ between candidates. Hour and weekday are equal for all of them, so
they are multiplied with the kind of tip. Words are hashed into a few signed sums: Weinberger et al., "Feature hashing
for large scale multitask learning", 2009.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import cos, log1p, pi, sin
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from contexts.assembly.model import BUCKETS, TaskView, UserContext, tasks_shown
from tips.bandit import REWARDS
from tips.candidates import GENERIC, KINDS, MAX_BODY_CHARS, MAX_TASKS, MAX_TITLE_CHARS, QUICK_TASK_MINUTES, Tip

FEATURES_VERSION = "f1"
ARMS = (*KINDS, GENERIC)
N_WORD_SUMS = 8
N_STATIC = 1 + len(ARMS) + len(BUCKETS) + 5 + 2 + 2 + 2 + 4 + N_WORD_SUMS
N_CLOCK = 3
N_FEATURES = N_STATIC + N_CLOCK * len(ARMS)

MAX_MAGNITUDE = 100.0
"""No feature of a tip is further from 0: the largest ones are the sums of hashed words, up to 12."""

FeatureMatrix = NDArray[np.float32]

_URGENCY = {"p1": 1.0, "p2": 0.66, "p3": 0.33, "p4": 0.0}
_PRIOR_REACTIONS = 5.0
"""Number of reactions with reward 0 added to the mean reward of a kind or a theme."""


def features_of(tips: Sequence[Tip], context: UserContext | None) -> FeatureMatrix:
    """The features that do not depend on the time of day, shape (len(tips), N_STATIC)."""
    return np.array([_row(tip, context) for tip in tips], np.float32).reshape(len(tips), N_STATIC)


def read_features(stored: bytes, n_tips: int, n_features: int) -> FeatureMatrix:
    """Stored features, shape (n_tips, n_features); raises ValueError if they are too few, too many or impossible."""
    check_size(stored, n_tips, n_features)
    if not are_features_possible([stored]):
        raise ValueError(f"a feature is not a number between -{MAX_MAGNITUDE:g} and {MAX_MAGNITUDE:g}")
    return np.frombuffer(stored, np.float32).reshape(n_tips, n_features)


def check_size(stored: bytes, n_tips: int, n_features: int) -> None:
    """Raise ValueError unless stored features have the size of those of `n_tips` tips."""
    if len(stored) != (expected := 4 * n_tips * n_features):
        raise ValueError(f"the features of {n_tips} tips have {len(stored)} bytes, expected {expected}")


def are_features_possible(stored: Sequence[bytes]) -> bool:
    """Whether the stored features, of any number of sets, are all numbers as features can be."""
    if any(len(each) % 4 for each in stored):
        return False
    return bool(np.abs(np.frombuffer(b"".join(stored), np.float32)).max(initial=0.0) <= MAX_MAGNITUDE)  # not for NaN


def with_clock(static: FeatureMatrix, local_times: Sequence[datetime]) -> FeatureMatrix:
    """All features of n users with K tips each, shape (n, K, N_FEATURES): the static ones, then kind times clock.

    static: shape (n, K, N_STATIC). local_times: of each user.
    """
    n_users, n_tips, _ = static.shape
    clocks = np.array([_clock(local) for local in local_times], np.float32)
    kinds = static[:, :, 1 : 1 + len(ARMS)]
    features = np.empty((n_users, n_tips, N_FEATURES), np.float32)
    features[:, :, :N_STATIC] = static
    by_clock = kinds[:, :, :, None] * clocks[:, None, None, :]
    features[:, :, N_STATIC:] = by_clock.reshape(n_users, n_tips, N_CLOCK * len(ARMS))
    return features


def _clock(local: datetime) -> tuple[float, float, float]:
    """The time of day as a point of a circle, and whether it is a weekend."""
    angle = 2 * pi * (local.hour + local.minute / 60) / 24
    return sin(angle), cos(angle), float(local.weekday() >= 5)


def _row(tip: Tip, context: UserContext | None) -> list[float]:
    tasks = tasks_shown(context) if context else {}
    subjects = [tasks[task_id] for task_id in tip.task_ids if context]
    views = [view for _, view in subjects]
    buckets = {bucket for bucket, _ in subjects}
    most_pressing = next((bucket for bucket in BUCKETS if bucket in buckets), None)
    return [
        1.0,
        *(float(tip.kind == arm) for arm in ARMS),
        *(float(most_pressing == bucket) for bucket in BUCKETS),
        *_task_features(views),
        *_theme_features(tip, context),
        *(_past_rewards(tip.kind, context.reactions.by_kind) if context else (0.0, 0.0)),
        *(_past_rewards(tip.theme, context.reactions.by_theme) if context else (0.0, 0.0)),
        *_text_features(tip),
    ]


def _task_features(views: Sequence[TaskView]) -> tuple[float, ...]:
    """Urgency, number of tasks, and whether there is a quick one, a recurring one, one with a deadline."""
    return (
        max((_URGENCY[view.priority] for view in views), default=0.0),
        len(views) / MAX_TASKS,
        float(any(view.minutes is not None and view.minutes <= QUICK_TASK_MINUTES for view in views)),
        float(any(view.recurring for view in views)),
        float(any(view.deadline for view in views)),
    )


def _theme_features(tip: Tip, context: UserContext | None) -> tuple[float, float]:
    """Whether the tip is about a theme, and the theme's share of all open tasks."""
    sizes = {theme.id: theme.n_tasks for theme in context.themes} if context else {}
    return float(tip.theme is not None), sizes.get(tip.theme or "", 0) / max(1, context.counts.open if context else 0)


def _past_rewards(key: str | None, tallies: Mapping[str, Mapping[str, int]]) -> tuple[float, float]:
    """The mean reward of earlier tips of the same kind or theme, shrunk towards 0, and the log of their number."""
    tally = tallies.get(key or "", {})
    n = sum(tally.values())
    total = sum(REWARDS.get(reaction, 0.0) * each for reaction, each in tally.items())
    return total / (n + _PRIOR_REACTIONS), log1p(n) / 5


def _text_features(tip: Tip) -> tuple[float, ...]:
    text = f"{tip.title} {tip.wording}"
    return (
        len(tip.title) / MAX_TITLE_CHARS,
        len(tip.wording) / MAX_BODY_CHARS,
        float("?" in text),
        float(any(each.isdigit() for each in text)),
        *_word_sums(text),
    )


def _word_sums(text: str) -> list[float]:
    """Signed sums of hashed words, divided by the root of the number of words."""
    sums = [0.0] * N_WORD_SUMS
    words = text.casefold().split()
    for word in words:
        code = crc32(word.strip(".,:;!?").encode())
        sums[code % N_WORD_SUMS] += 1.0 if code & 0x100 else -1.0
    return [each / max(1, len(words)) ** 0.5 for each in sums]
