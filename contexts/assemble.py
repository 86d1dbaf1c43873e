"""Signals to context: the one assembler of the night and of the request path. Pure; equal input, equal bytes."""

from __future__ import annotations

import json
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from itertools import accumulate, islice
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from contexts.model import (
    BUCKETS,
    Bucket,
    Counts,
    Profile,
    Reaction,
    Reactions,
    Signals,
    Task,
    TaskView,
    Theme,
    ThemeView,
    UserContext,
)

Plain = dict[str, Any]

MAX_TITLE = 200
MAX_NAME = 60
MAX_THEMES = 12
MAX_LABELS = 8
MAX_REACTION_KEYS = 8
MAX_ALSO = 5

_BYTES_PER_TOKEN = 4
_SMALLEST_TASK = 40
_UNTIL_DAYS = 7
"""`this_week` is the six days after today: a task enters it this many days, less one, before it is due."""


@dataclass(frozen=True)
class Budget:
    """How large a context may get, in tokens, taken as 4 bytes of UTF-8 each."""

    tokens: int

    @property
    def version(self) -> str:
        return str(self.tokens)

    @property
    def n_bytes(self) -> int:
        return self.tokens * _BYTES_PER_TOKEN


@dataclass(frozen=True)
class Assembled:
    """A context as it is stored. valid_until: the midnight at which it becomes another by itself, None if never."""

    context_json: str
    context_hash: str
    valid_until: datetime | None


def assemble(signals: Signals, now: datetime, budget: Budget) -> Assembled:
    """The context at `now` (aware). Nothing of `now` but the user's date gets into it: by the buckets of tasks, and
    because what a user makes of a tip counts from the next day on, or every reaction would ask for other tips.
    """
    zone = ZoneInfo(signals.timezone)
    today = now.astimezone(zone).date()
    days = [reaction.reacted_at.astimezone(zone).date() for reaction in signals.reactions]
    earlier = tuple(each for each, day in zip(signals.reactions, days, strict=True) if day < today)
    due = {task.task_id: due_day(task, zone) for task in signals.tasks}
    ranked = sorted(signals.tasks, key=lambda task: _pressing(task, due[task.task_id], today))
    groups = replace(signals.groups, themes=_open_themes(signals))
    known = replace(signals, groups=groups, reactions=earlier)
    text = _fitting(known, ranked, due, today, budget)
    turns = [*_turns(due.values()), *(day + timedelta(days=1) for day in days)]
    return Assembled(text, sha256(text.encode()).hexdigest(), _next_midnight(turns, today, zone))


def canonical_json(context: UserContext) -> str:
    """The one serialization of a context: sorted keys, no blanks, nothing that says nothing."""
    return _json(_plain(context) | {"version": context.version})


def _plain(part: BaseModel) -> Plain:
    return part.model_dump(mode="json", exclude_defaults=True)


def _json(plain: Plain) -> str:
    return json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def bucket_of(due: date | None, today: date) -> Bucket:
    """Where a task stands on the user's date `today`; `this_week` is the six days that follow."""
    if due is None:
        return "someday"
    days = (due - today).days
    if days < 0:
        return "overdue"
    if days == 0:
        return "today"
    return "this_week" if days < _UNTIL_DAYS else "later"


def due_day(task: Task, zone: ZoneInfo) -> date | None:
    """The date on which a task is due for a user in `zone`."""
    if task.due_date is None:
        return None
    if len(task.due_date) == len("2026-12-01"):
        return date.fromisoformat(task.due_date)
    return _due_instant(task.due_date, zone).date()


def _due_instant(due_date: str, zone: ZoneInfo) -> datetime:
    read = datetime.fromisoformat(due_date)
    return (read.astimezone(zone) if read.tzinfo else read.replace(tzinfo=zone)).replace(microsecond=0)


def _pressing(task: Task, due: date | None, today: date) -> tuple[int, int, str, str]:
    bucket = BUCKETS.index(bucket_of(due, today))
    return bucket, -task.priority, task.due_date or "", task.task_id


def _turns(dues: Iterable[date | None]) -> Iterator[date]:
    """The days on which a task changes bucket."""
    for due in set(dues):
        if due is not None:
            yield from (due - timedelta(days=_UNTIL_DAYS - 1), due, due + timedelta(days=1))


def _next_midnight(days: Iterable[date], today: date, zone: ZoneInfo) -> datetime | None:
    """The first of the days after today, as the instant at which it begins for the user; None if there is none."""
    later = [day for day in days if day > today]
    return datetime.combine(min(later), time(), zone).astimezone(UTC) if later else None


def _open_themes(signals: Signals) -> tuple[Theme, ...]:
    """The themes with the tasks that are still open; one task alone is no theme."""
    open_tasks = {task.task_id for task in signals.tasks}
    themes = (
        replace(theme, task_ids=tuple(open_tasks.intersection(theme.task_ids))) for theme in signals.groups.themes
    )
    return tuple(theme for theme in themes if len(theme.task_ids) > 1)


def _fitting(
    signals: Signals, ranked: Sequence[Task], due: dict[str, date | None], today: date, budget: Budget
) -> str:
    """The context with as many themes as fit into half the budget, then as many of the most pressing tasks as fit."""
    zone = ZoneInfo(signals.timezone)
    themes = sorted(signals.groups.themes, key=lambda theme: (-len(theme.task_ids), theme.theme_id))[:MAX_THEMES]
    stands_for = _doubles(ranked, {task: bucket_of(day, today) for task, day in due.items()}, signals.groups.alike)
    at_most = min(len(stands_for), budget.n_bytes // _SMALLEST_TASK)
    views = [
        (bucket_of(due[task.task_id], today), _plain(_view(task, zone, also)))
        for task, also in islice(stands_for.items(), at_most)
    ]
    n_shown = list(accumulate((1 + len(also) for also in stands_for.values()), initial=0))
    theme_views = [(frozenset(theme.task_ids), _plain(_theme(theme))) for theme in themes]
    sizes = Counter(bucket_of(day, today) for day in due.values())
    whole = UserContext(
        profile=Profile(timezone=signals.timezone, language=signals.language),
        counts=Counts(open=len(signals.tasks), shown=0, **{bucket: sizes[bucket] for bucket in BUCKETS}),
        tasks={},
        themes=(),
        reactions=_reactions(signals.reactions),
    )
    empty = _plain(whole) | {"version": whole.version}

    def text(n_themes: int, n_tasks: int) -> str:
        buckets: dict[str, list[Plain]] = {}
        for bucket, view in views[:n_tasks]:
            buckets.setdefault(bucket, []).append(view)
        shown = {view["id"] for _, view in views[:n_tasks]}
        return _json(
            empty
            | {
                "counts": empty["counts"] | {"shown": n_shown[n_tasks]},
                "tasks": buckets,
                "themes": [view | {"task_ids": sorted(shown & own)} for own, view in theme_views[:n_themes]],
            }
        )

    n_themes = _most(len(themes), lambda n: len(text(n, 0).encode()) <= budget.n_bytes // 2)
    return text(n_themes, _most(at_most, lambda n: len(text(n_themes, n).encode()) <= budget.n_bytes))


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """The largest n of 0 to `high` that fits, where whatever is smaller than a fitting n fits too."""
    if fits(high):
        return high
    return max(0, bisect(range(high), False, key=lambda n: not fits(n)) - 1)


def _doubles(
    ranked: Iterable[Task], buckets: Mapping[str, Bucket], alike: Iterable[Iterable[tuple[str, str]]]
) -> dict[Task, list[str]]:
    """Each task that is to be shown, in order, with up to `MAX_ALSO` less pressing ones that say the same: of the
    same bucket, project and section, and as they were worded when they were found to say the same.
    """
    group_of = {task: number for number, tasks in enumerate(alike) for task in tasks}
    standing: dict[tuple[object, ...], Task] = {}
    shown: dict[Task, list[str]] = {}
    for task in ranked:
        group = group_of.get((task.task_id, task.content_hash)) if group_of else None
        place = (group, buckets[task.task_id], task.project, task.section)
        stands = task if group is None else standing.setdefault(place, task)
        if stands is task or len(shown[stands]) == MAX_ALSO:
            shown[task], standing[place] = [], task
        else:
            shown[stands].append(task.task_id)
    return shown


def _view(task: Task, zone: ZoneInfo, also: Sequence[str]) -> TaskView:
    timed = task.due_date is not None and len(task.due_date) > len("2026-12-01")
    return TaskView(
        id=task.task_id,
        title=_cut(task.content, MAX_TITLE),
        priority=("p4", "p3", "p2", "p1")[task.priority - 1],
        project=_cut(task.project, MAX_NAME) if task.project else None,
        section=_cut(task.section, MAX_NAME) if task.section else None,
        labels=tuple(_cut(label, MAX_NAME) for label in sorted(task.labels)[:MAX_LABELS]),
        due=_due_instant(task.due_date, zone).isoformat() if timed and task.due_date else task.due_date,
        recurring=task.is_recurring,
        deadline=task.deadline_date,
        minutes=task.duration_minutes,
        also=tuple(sorted(also)),
    )


def _theme(theme: Theme) -> ThemeView:
    """A theme that shows none of its tasks yet."""
    return ThemeView(
        id=theme.theme_id,
        label=_cut(theme.label, MAX_NAME),
        tags=tuple(_cut(tag, MAX_NAME) for tag in theme.tags),
        n_tasks=len(theme.task_ids),
        task_ids=(),
    )


def _reactions(reactions: Iterable[Reaction]) -> Reactions:
    listed = list(reactions)
    return Reactions(
        by_kind=_tally((each.tip_kind, each.reaction) for each in listed),
        by_theme=_tally((each.theme, each.reaction) for each in listed),
    )


def _tally(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """How often each reaction came under each key, for the keys that came most often."""
    counted = [(_cut(key, MAX_NAME), reaction) for key, reaction in pairs if key]
    totals = Counter(key for key, _ in counted)
    kept = {key for key, _ in sorted(totals.items(), key=lambda each: (-each[1], each[0]))[:MAX_REACTION_KEYS]}
    tally: dict[str, Counter[str]] = {}
    for key, reaction in counted:
        if key in kept:
            tally.setdefault(key, Counter())[reaction] += 1
    return {key: dict(counts) for key, counts in tally.items()}


def _cut(text: str, length: int) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= length else plain[: length - 1].rstrip() + "…"
