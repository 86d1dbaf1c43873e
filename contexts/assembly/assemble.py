"""The one assembler of contexts, for the pipeline and the request path. Pure: equal signals give equal bytes."""

from __future__ import annotations

import json
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from itertools import accumulate, islice
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from contexts.assembly.model import (
    BUCKETS,
    Bucket,
    Counts,
    DateKind,
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
from contexts.text import truncate

MAX_TITLE_CHARS = 200
MAX_NAME_CHARS = 60
"""The maximum length of a project, section, parent task, label, theme, tag or kind of tip."""

MAX_THEMES = 12
MAX_LABELS = 8
MAX_REACTION_KEYS = 8
"""The maximum number of kinds of tips, and of themes, with counted reactions."""

MAX_DUPLICATES = 5
"""The maximum number of duplicates that one shown task stands for."""

_Json = dict[str, Any]

_BYTES_PER_TOKEN = 4
_MIN_TASK_BYTES = 40
"""Bytes of the shortest realistic task, which bound the number of tasks to try."""

_LATER_AFTER_DAYS = 7
"""Days from today to the first date of the bucket `later`; `this_week` is the six days between."""


@dataclass(frozen=True)
class Budget:
    """The maximum size of a context in tokens, at four bytes of UTF-8 per token."""

    tokens: int

    @property
    def version(self) -> str:
        """The version of the budget as a resource of assets."""
        return str(self.tokens)

    @property
    def n_bytes(self) -> int:
        """The maximum size of a context in bytes of UTF-8."""
        return self.tokens * _BYTES_PER_TOKEN


@dataclass(frozen=True)
class Assembled:
    """A context in its stored form.

    valid_until: the next midnight of the user at which the same signals give a different context; None if none does.
    """

    context_json: str
    context_hash: str
    valid_until: datetime | None


def assemble(signals: Signals, now: datetime, budget: Budget) -> Assembled:
    """Return a user's context at `now`, an aware instant.

    The context depends on `now` only through the user's date, which decides the buckets of tasks. Reactions count
    from the next day on: otherwise every reaction would change the context and cause a call of the LLM.
    """
    zone = ZoneInfo(signals.timezone)
    today = now.astimezone(zone).date()
    reaction_days = [reaction.reacted_at.astimezone(zone).date() for reaction in signals.reactions]
    reactions = tuple(reaction for reaction, day in zip(signals.reactions, reaction_days, strict=True) if day < today)
    dates = {task.task_id: decisive_date(task, zone) for task in signals.tasks}
    text = _fit(replace(signals, reactions=reactions), dates, today, budget)
    change_days = [
        *_bucket_changes(date.day for date in dates.values()),
        *(day + timedelta(days=1) for day in reaction_days),
    ]
    return Assembled(text, sha256(text.encode()).hexdigest(), _next_midnight(change_days, today, zone))


def bucket_of(day: date | None, today: date) -> Bucket:
    """Return the bucket of a task's decisive day on the user's date `today`."""
    if day is None:
        return "someday"
    days = (day - today).days
    if days < 0:
        return "overdue"
    if days == 0:
        return "today"
    return "this_week" if days < _LATER_AFTER_DAYS else "later"


class DecisiveDate(NamedTuple):
    """The earlier one of a task's due date and deadline. day: the user's date, None if the task has neither."""

    day: date | None
    kind: DateKind


def decisive_date(task: Task, zone: ZoneInfo) -> DecisiveDate:
    """Return the date that decides the urgency of a task for a user in `zone`: on one day, the due date."""
    due = _due_day(task.due_date, zone) if task.due_date else None
    deadline = date.fromisoformat(task.deadline_date) if task.deadline_date else None
    if deadline is not None and (due is None or deadline < due):
        return DecisiveDate(deadline, "deadline")
    return DecisiveDate(due, "due")


def _due_day(due_date: str, zone: ZoneInfo) -> date:
    if len(due_date) == len("2026-12-01"):
        return date.fromisoformat(due_date)
    return _due_instant(due_date, zone).date()


def _due_instant(due_date: str, zone: ZoneInfo) -> datetime:
    due = datetime.fromisoformat(due_date)
    return (due.astimezone(zone) if due.tzinfo else due.replace(tzinfo=zone)).replace(microsecond=0)


def _bucket_changes(days: Iterable[date | None]) -> Iterator[date]:
    """Yield the days on which a task changes its bucket, given the decisive days of all tasks."""
    for day in set(days):
        if day is not None:
            yield from (day - timedelta(days=_LATER_AFTER_DAYS - 1), day, day + timedelta(days=1))


def _next_midnight(days: Iterable[date], today: date, zone: ZoneInfo) -> datetime | None:
    """Return the start, for the user, of the first of the days after today; None if there is none."""
    later = [day for day in days if day > today]
    return datetime.combine(min(later), time(), zone).astimezone(UTC) if later else None


@dataclass(frozen=True)
class _Draft:
    """The parts that may go into a context, as JSON objects in the order in which they are included.

    frame: the context without tasks and themes. n_shown: at index n the number of open tasks that the first n tasks
    stand for, themselves included. themes: each with the ids of its open tasks.
    """

    frame: _Json
    tasks: Sequence[tuple[Bucket, _Json]]
    n_shown: Sequence[int]
    themes: Sequence[tuple[frozenset[str], _Json]]

    def to_json(self, n_themes: int, n_tasks: int) -> str:
        """Return the context with the first themes and tasks."""
        buckets: dict[str, list[_Json]] = {}
        for bucket, task in self.tasks[:n_tasks]:
            buckets.setdefault(bucket, []).append(task)
        shown = {task["id"] for _, task in self.tasks[:n_tasks]}
        parts = {
            "counts": self.frame["counts"] | {"shown": self.n_shown[n_tasks]},
            "tasks": buckets,
            "themes": [theme | {"task_ids": sorted(shown & task_ids)} for task_ids, theme in self.themes[:n_themes]],
        }
        return json.dumps(self.frame | parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _fit(signals: Signals, dates: Mapping[str, DecisiveDate], today: date, budget: Budget) -> str:
    """Return the context with the themes that fit into half the budget, then the tasks that fit into all of it."""
    draft = _draft(signals, dates, today, max_tasks=budget.n_bytes // _MIN_TASK_BYTES)
    n_themes = _largest(len(draft.themes), lambda n: len(draft.to_json(n, 0).encode()) <= budget.n_bytes // 2)
    whole = draft.to_json(n_themes, len(draft.tasks))
    if len(whole.encode()) <= budget.n_bytes:
        return whole
    n_tasks = _largest(len(draft.tasks), lambda n: len(draft.to_json(n_themes, n).encode()) <= budget.n_bytes)
    return draft.to_json(n_themes, n_tasks)


def _largest(high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest n from 0 to `high` that fits; if n fits, every smaller number must fit, too."""
    if high == 0 or fits(high):
        return high
    return max(0, bisect(range(high), False, key=lambda n: not fits(n)) - 1)


def _draft(signals: Signals, dates: Mapping[str, DecisiveDate], today: date, max_tasks: int) -> _Draft:
    zone = ZoneInfo(signals.timezone)
    buckets = {task_id: bucket_of(date.day, today) for task_id, date in dates.items()}
    ranked = sorted(signals.tasks, key=lambda task: _urgency(task, buckets[task.task_id], dates[task.task_id]))
    duplicates_of = _merge_duplicates(ranked, buckets, signals.groups.duplicates)
    themes = sorted(_open_themes(signals), key=_rank_of_theme)[:MAX_THEMES]
    return _Draft(
        frame=_frame(signals, buckets),
        tasks=[
            (buckets[task.task_id], _to_json(_task_view(task, dates[task.task_id].kind, zone, duplicates)))
            for task, duplicates in islice(duplicates_of.items(), max_tasks)
        ],
        n_shown=list(accumulate((1 + len(duplicates) for duplicates in duplicates_of.values()), initial=0)),
        themes=[(frozenset(theme.task_ids), _to_json(_theme_view(theme))) for theme in themes],
    )


def _frame(signals: Signals, buckets: Mapping[str, Bucket]) -> _Json:
    sizes = Counter(buckets.values())
    context = UserContext(
        profile=Profile(timezone=signals.timezone, language=signals.language),
        counts=Counts(open=len(signals.tasks), shown=0, **{bucket: sizes[bucket] for bucket in BUCKETS}),
        tasks={},
        themes=(),
        reactions=_count_reactions(signals.reactions),
    )
    return _to_json(context) | {"version": context.version}


def _to_json(part: BaseModel) -> _Json:
    return part.model_dump(mode="json", exclude_defaults=True)


def _urgency(task: Task, bucket: Bucket, decisive: DecisiveDate) -> tuple[int, int, str, str]:
    """Return the sort key of tasks, the most urgent first."""
    text = task.deadline_date if decisive.kind == "deadline" else task.due_date
    return BUCKETS.index(bucket), -task.priority, text or "", task.task_id


def _rank_of_theme(theme: Theme) -> tuple[int, str, str]:
    """Return the sort key of themes, the largest first; the id comes last, because it depends on earlier runs."""
    return -len(theme.task_ids), min(theme.task_ids), theme.theme_id


def _open_themes(signals: Signals) -> Iterator[Theme]:
    """Yield the themes with their open tasks, as far as they have more than one.

    A theme can be from before the user connected a different account, whose tasks are by somebody else now.
    """
    open_tasks = {task.task_id: task.is_by_others for task in signals.tasks}
    for theme in signals.groups.themes:
        task_ids = open_tasks.keys() & theme.task_ids
        if len(task_ids) > 1:
            is_by_others = theme.is_by_others or any(open_tasks[task_id] for task_id in task_ids)
            yield replace(theme, task_ids=tuple(task_ids), is_by_others=is_by_others)


def _merge_duplicates(
    ranked: Iterable[Task], buckets: Mapping[str, Bucket], groups: Iterable[Iterable[tuple[str, str]]]
) -> dict[Task, list[str]]:
    """Return the tasks to show, in order, with the ids of up to `MAX_DUPLICATES` less urgent duplicates each.

    Duplicates are merged within a bucket, project, section and parent task, as long as their title is that of the
    clustering. A task that the user added is not hidden behind one of somebody else.
    """
    group_of = {task: number for number, tasks in enumerate(groups) for task in tasks}
    shown_in: dict[tuple[object, ...], Task] = {}
    duplicates_of: dict[Task, list[str]] = {}
    for task in ranked:
        group = group_of.get((task.task_id, task.title_hash)) if group_of else None
        place = (group, buckets[task.task_id], task.project, task.section, task.parent, task.is_by_others)
        shown = task if group is None else shown_in.setdefault(place, task)
        if shown is task or len(duplicates_of[shown]) == MAX_DUPLICATES:
            duplicates_of[task], shown_in[place] = [], task
        else:
            duplicates_of[shown].append(task.task_id)
    return duplicates_of


def _task_view(task: Task, dated_by: DateKind, zone: ZoneInfo, duplicates: Iterable[str]) -> TaskView:
    has_time = task.due_date is not None and len(task.due_date) > len("2026-12-01")
    return TaskView(
        id=task.task_id,
        title=truncate(task.title, MAX_TITLE_CHARS),
        priority=("p4", "p3", "p2", "p1")[task.priority - 1],
        project=truncate(task.project, MAX_NAME_CHARS) if task.project else None,
        section=truncate(task.section, MAX_NAME_CHARS) if task.section else None,
        labels=tuple(truncate(label, MAX_NAME_CHARS) for label in sorted(task.labels)[:MAX_LABELS]),
        due=_due_instant(task.due_date, zone).isoformat() if has_time and task.due_date else task.due_date,
        recurring=task.is_recurring,
        deadline=task.deadline_date,
        dated_by=dated_by,
        parent=truncate(task.parent, MAX_NAME_CHARS) if task.parent else None,
        minutes=task.duration_minutes,
        also=tuple(sorted(duplicates)),
        by_others=task.is_by_others,
        shared=task.is_shared,
        parent_by_others=task.is_parent_by_others,
    )


def _theme_view(theme: Theme) -> ThemeView:
    """Return a theme without its shown tasks, which `_Draft.to_json` fills in."""
    return ThemeView(
        id=theme.theme_id,
        label=truncate(theme.label, MAX_NAME_CHARS),
        tags=tuple(truncate(tag, MAX_NAME_CHARS) for tag in theme.tags),
        n_tasks=len(theme.task_ids),
        task_ids=(),
        by_others=theme.is_by_others,
    )


def _count_reactions(reactions: Sequence[Reaction]) -> Reactions:
    return Reactions(
        by_kind=_tally((reaction.tip_kind, reaction.reaction) for reaction in reactions),
        by_theme=_tally((reaction.theme, reaction.reaction) for reaction in reactions),
    )


def _tally(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Count the reactions of each key, for the keys with the most reactions."""
    named = [(truncate(key, MAX_NAME_CHARS), reaction) for key, reaction in pairs if key]
    totals = Counter(key for key, _ in named)
    kept = {key for key, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:MAX_REACTION_KEYS]}
    tally: dict[str, Counter[str]] = {}
    for key, reaction in named:
        if key in kept:
            tally.setdefault(key, Counter())[reaction] += 1
    return {key: dict(counts) for key, counts in tally.items()}
