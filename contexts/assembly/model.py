"""The domain model: the signals of a user, and the context that is assembled from them. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Set
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

Bucket = Literal["overdue", "today", "this_week", "later", "someday"]
BUCKETS: tuple[Bucket, ...] = ("overdue", "today", "this_week", "later", "someday")
"""All buckets, the most urgent first."""

DateKind = Literal["due", "deadline"]


@dataclass(frozen=True)
class Task:
    """An open task of the user with the names of its project, section and labels. Its texts are plain.

    priority: as in Todoist's API, 4 is the most urgent. due_date: a date, or a time with or without an offset.
    parent: the title of the task that this one is a part of. is_by_others: whether somebody else may have added it.
    is_shared: whether others may have named its project, section and labels. is_parent_by_others: whether somebody
    else may have added the parent task.
    """

    task_id: str
    title: str
    priority: int = 1
    project: str | None = None
    section: str | None = None
    labels: tuple[str, ...] = ()
    due_date: str | None = None
    is_recurring: bool = False
    deadline_date: str | None = None
    duration_minutes: int | None = None
    parent: str | None = None
    is_by_others: bool = False
    is_shared: bool = False
    is_parent_by_others: bool = False

    @property
    def title_hash(self) -> str:
        """The first eight bytes of the title's sha256, in hex."""
        return sha256(self.title.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Theme:
    """A cluster of tasks with similar meaning.

    is_by_others: whether others may have added one of the tasks that the theme was made of, and so worded its label.
    """

    theme_id: str
    label: str
    tags: tuple[str, ...]
    task_ids: tuple[str, ...]
    is_by_others: bool = False


@dataclass(frozen=True)
class TaskGroups:
    """The result of the last clustering of a user's tasks.

    duplicates: groups of near-duplicate tasks. Each task is its id and its title hash at the time of clustering:
    a task whose title has changed since then is no longer a duplicate.
    """

    themes: tuple[Theme, ...] = ()
    duplicates: tuple[tuple[tuple[str, str], ...], ...] = ()

    def to_json(self) -> str:
        """Return the stored form: themes by id, tasks in order."""
        themes = [asdict(replace(theme, task_ids=tuple(sorted(theme.task_ids)))) for theme in self.themes]
        groups = {
            "themes": sorted(themes, key=lambda theme: theme["theme_id"]),
            "duplicates": sorted(sorted(tasks) for tasks in self.duplicates),
        }
        return json.dumps(groups, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> TaskGroups:
        """Read the form that `to_json` returns; raise ValueError for any other form.

        Themes that an earlier version stored count as worded by others.
        """
        groups = _StoredGroups.model_validate_json(text)
        themes = [{"is_by_others": True, **theme} for theme in groups.themes]
        return _task_groups().validate_python({"themes": themes, "duplicates": groups.duplicates})


@cache
def _task_groups() -> TypeAdapter[TaskGroups]:
    return TypeAdapter(TaskGroups)


class _StoredGroups(BaseModel):
    model_config = ConfigDict(defer_build=True)

    themes: tuple[dict[str, Any], ...]
    duplicates: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True)
class Reaction:
    """A user's reaction to a tip."""

    decision_id: str
    tip_kind: str
    theme: str
    reaction: str
    reacted_at: datetime


@dataclass(frozen=True)
class Signals:
    """The complete input of one user's context."""

    user_id: str
    timezone: str
    language: str
    tasks: tuple[Task, ...] = ()
    groups: TaskGroups = TaskGroups()
    reactions: tuple[Reaction, ...] = ()


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Profile(_Part):
    """The user's time zone (IANA name) and language."""

    timezone: str
    language: str


class TaskView(_Part):
    """A task of a context.

    priority: p1 (most urgent) to p4. due: a date, or an instant with offset. dated_by: which of due date and deadline
    comes first, and so decides the bucket. parent: the title of the task that this one is a part of. also: ids of the
    task's duplicates in the same bucket, which are not shown themselves. by_others, shared, parent_by_others: as
    `is_by_others`, `is_shared` and `is_parent_by_others` of `Task`; an LLM is not told the texts concerned.
    """

    id: str
    title: str
    priority: Literal["p1", "p2", "p3", "p4"] = "p4"
    project: str | None = None
    section: str | None = None
    labels: tuple[str, ...] = ()
    due: str | None = None
    recurring: bool = False
    deadline: str | None = None
    dated_by: DateKind = "due"
    parent: str | None = None
    minutes: int | None = None
    also: tuple[str, ...] = ()
    by_others: bool = False
    shared: bool = False
    parent_by_others: bool = False


class ThemeView(_Part):
    """A theme of a context.

    n_tasks: number of all open tasks of the theme. task_ids: only the tasks that the context shows. by_others:
    whether others may have worded its label and tags, which an LLM is then not told.
    """

    id: str
    label: str
    tags: tuple[str, ...] = ()
    n_tasks: int
    task_ids: tuple[str, ...]
    by_others: bool = False


class Counts(_Part):
    """The number of open tasks: in total, shown (duplicates included), and in each bucket (shown or not)."""

    open: int
    shown: int
    overdue: int
    today: int
    this_week: int
    later: int
    someday: int


class Reactions(_Part):
    """How often each reaction was given, by kind of tip and by theme."""

    by_kind: dict[str, dict[str, int]]
    by_theme: dict[str, dict[str, int]]


class UserContext(_Part):
    """The complete context of a user. An LLM is told the part of it that other people have not written.

    version: the version of this schema. Version 1 did not tell which texts are by others, so it is not read as this
    one: see `read_archived`.
    """

    version: Literal[2] = 2
    profile: Profile
    counts: Counts
    tasks: dict[Bucket, tuple[TaskView, ...]]
    themes: tuple[ThemeView, ...]
    reactions: Reactions


def tasks_shown(context: UserContext) -> dict[str, tuple[Bucket, TaskView]]:
    """Return the tasks that a context shows, by id, with their buckets, the most urgent first."""
    return {view.id: (bucket, view) for bucket in BUCKETS for view in context.tasks.get(bucket, ())}


def without_tasks(context: UserContext, task_ids: Set[str]) -> UserContext:
    """Return a context as it is once these tasks have ended; tasks that it does not show change nothing."""
    ended = {view.id: bucket for bucket, views in context.tasks.items() for view in views if view.id in task_ids}
    if not ended and not any(set(view.also) & task_ids for views in context.tasks.values() for view in views):
        return context
    n_ended = Counter(ended.values())
    counts = context.counts.model_dump()
    for name, n in (*n_ended.items(), ("open", len(ended)), ("shown", len(ended))):
        counts[name] = max(0, counts[name] - n)
    return context.model_copy(
        update={
            "tasks": {
                bucket: remaining
                for bucket, views in context.tasks.items()
                if (remaining := tuple(_without_duplicates(view, task_ids) for view in views if view.id not in ended))
            },
            "counts": Counts(**counts),
            "themes": tuple(_without_ended(theme, ended) for theme in context.themes),
        }
    )


def _without_duplicates(view: TaskView, task_ids: Set[str]) -> TaskView:
    return view.model_copy(update={"also": tuple(each for each in view.also if each not in task_ids)})


def _without_ended(theme: ThemeView, ended: Collection[str]) -> ThemeView:
    remaining = tuple(task_id for task_id in theme.task_ids if task_id not in ended)
    n_tasks = theme.n_tasks - (len(theme.task_ids) - len(remaining))
    return theme.model_copy(update={"task_ids": remaining, "n_tasks": n_tasks})


def read_archived(context_json: str) -> UserContext:
    """Read a context of any version for a comparison, never for an LLM; raises ValueError if it cannot be read."""
    document = json.loads(context_json)
    if isinstance(document, dict) and document.get("version") == 1:
        document["version"] = 2
    return UserContext.model_validate_json(json.dumps(document))
