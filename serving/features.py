"""What the bandit sees of a candidate: features of context and text that any candidate can have. Pure.

A linear score only tells candidates apart by what differs between them, so hour and weekday stand multiplied with the
kind of tip. Words are hashed into few signed sums: Weinberger et al., "Feature hashing for large scale multitask
learning", 2009.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import cos, log1p, pi, sin
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from contexts.model import BUCKETS, TaskView, UserContext
from serving.bandit import REWARDS
from serving.candidates import GENERIC, KINDS, MAX_BODY, MAX_TASKS, MAX_TITLE, QUICK_MINUTES, Tip, tasks_of

VERSION = "f1"
ARMS = (*KINDS, GENERIC)
N_WORD_SUMS = 8
N_STATIC = 1 + len(ARMS) + len(BUCKETS) + 5 + 2 + 2 + 2 + 4 + N_WORD_SUMS
N_CLOCK = 3
N_FEATURES = N_STATIC + N_CLOCK * len(ARMS)

Matrix = NDArray[np.float32]

_URGENCY = {"p1": 1.0, "p2": 0.66, "p3": 0.33, "p4": 0.0}
_DOUBT = 5.0
"""A kind's or a theme's past counts like so many reactions of no reward besides."""


def features_of(tips: Sequence[Tip], context: UserContext | None) -> Matrix:
    """The part that the clock does not change, shape (len(tips), N_STATIC)."""
    return np.array([_row(tip, context) for tip in tips], np.float32).reshape(len(tips), N_STATIC)


def with_clock(static: Matrix, local: datetime) -> Matrix:
    """All features at the user's own time, shape (n, N_FEATURES): the kind times hour and weekend is put behind."""
    angle = 2 * pi * (local.hour + local.minute / 60) / 24
    clock = np.array([sin(angle), cos(angle), float(local.weekday() >= 5)], np.float32)
    kinds = static[:, 1 : 1 + len(ARMS)]
    found = np.empty((len(static), N_FEATURES), np.float32)
    found[:, :N_STATIC] = static
    found[:, N_STATIC:] = (kinds[:, :, None] * clock).reshape(len(static), N_CLOCK * len(ARMS))
    return found


def _row(tip: Tip, context: UserContext | None) -> list[float]:
    tasks = tasks_of(context) if context else {}
    about = [tasks[task_id] for task_id in tip.task_ids if context]
    views = [view for _, view in about]
    buckets = {bucket for bucket, _ in about}
    first = next((bucket for bucket in BUCKETS if bucket in buckets), None)
    return [
        1.0,
        *(float(tip.kind == arm) for arm in ARMS),
        *(float(first == bucket) for bucket in BUCKETS),
        *_of_tasks(views),
        *_of_theme(tip, context),
        *(_past(tip.kind, context.reactions.by_kind) if context else (0.0, 0.0)),
        *(_past(tip.theme, context.reactions.by_theme) if context else (0.0, 0.0)),
        *_of_text(tip),
    ]


def _of_tasks(views: Sequence[TaskView]) -> tuple[float, ...]:
    """Urgency, how many, any quick one, any recurring one, any with a deadline."""
    return (
        max((_URGENCY[view.priority] for view in views), default=0.0),
        len(views) / MAX_TASKS,
        float(any(view.minutes is not None and view.minutes <= QUICK_MINUTES for view in views)),
        float(any(view.recurring for view in views)),
        float(any(view.deadline for view in views)),
    )


def _of_theme(tip: Tip, context: UserContext | None) -> tuple[float, float]:
    """Whether the tip is about a theme, and the theme's share of all open tasks."""
    sizes = {theme.id: theme.n_tasks for theme in context.themes} if context else {}
    return float(tip.theme is not None), sizes.get(tip.theme or "", 0) / max(1, context.counts.open if context else 0)


def _past(key: str | None, tallies: Mapping[str, Mapping[str, int]]) -> tuple[float, float]:
    """What came of earlier tips of the same kind or theme: mean reward, drawn to 0 by few, and how many they were."""
    tally = tallies.get(key or "", {})
    n = sum(tally.values())
    return sum(REWARDS[reaction] * each for reaction, each in tally.items()) / (n + _DOUBT), log1p(n) / 5


def _of_text(tip: Tip) -> tuple[float, ...]:
    text = f"{tip.title} {tip.body}"
    return (
        len(tip.title) / MAX_TITLE,
        len(tip.body) / MAX_BODY,
        float("?" in text),
        float(any(each.isdigit() for each in text)),
        *_word_sums(text),
    )


def _word_sums(text: str) -> list[float]:
    sums = [0.0] * N_WORD_SUMS
    words = text.casefold().split()
    for word in words:
        code = crc32(word.strip(".,:;!?").encode())
        sums[code % N_WORD_SUMS] += 1.0 if code & 0x100 else -1.0
    return [each / max(1, len(words)) ** 0.5 for each in sums]
