"""The words of the domain: what a context is made from, and the context itself. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

Bucket = Literal["overdue", "today", "this_week", "later", "someday"]
BUCKETS: tuple[Bucket, ...] = ("overdue", "today", "this_week", "later", "someday")


@dataclass(frozen=True)
class Task:
    """An open task with the names that it carries; priority as in Todoist's API, 4 the most urgent."""

    task_id: str
    content: str
    priority: int = 1
    project: str | None = None
    section: str | None = None
    labels: tuple[str, ...] = ()
    due_date: str | None = None
    is_recurring: bool = False
    deadline_date: str | None = None
    duration_minutes: int | None = None


@dataclass(frozen=True)
class Theme:
    """A group of tasks of like meaning."""

    theme_id: str
    label: str
    tags: tuple[str, ...]
    task_ids: tuple[str, ...]


def themes_to_json(themes: Iterable[Theme]) -> str:
    """Themes as the store keeps them: by id, their tasks in order."""
    rows = [asdict(replace(theme, task_ids=tuple(sorted(theme.task_ids)))) for theme in themes]
    return json.dumps(sorted(rows, key=lambda row: row["theme_id"]), ensure_ascii=False, separators=(",", ":"))


def themes_from_json(text: str) -> tuple[Theme, ...]:
    """What `themes_to_json` wrote."""
    return tuple(
        Theme(row["theme_id"], row["label"], tuple(row["tags"]), tuple(row["task_ids"])) for row in json.loads(text)
    )


@dataclass(frozen=True)
class Reaction:
    """What a user made of a tip."""

    decision_id: str
    tip_kind: str
    theme: str
    reaction: str
    reacted_at: datetime


@dataclass(frozen=True)
class Signals:
    """All that is known of one user, whoever fetched it."""

    user_id: str
    timezone: str
    language: str
    tasks: tuple[Task, ...] = ()
    themes: tuple[Theme, ...] = ()
    reactions: tuple[Reaction, ...] = ()


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Profile(_Part):
    timezone: str
    language: str


class TaskView(_Part):
    """A task as a prompt shows it. priority: p1 (most urgent) to p4; due: a date, or an instant with offset."""

    id: str
    title: str
    priority: Literal["p1", "p2", "p3", "p4"] = "p4"
    project: str | None = None
    section: str | None = None
    labels: tuple[str, ...] = ()
    due: str | None = None
    recurring: bool = False
    deadline: str | None = None
    minutes: int | None = None


class ThemeView(_Part):
    """A theme; task_ids name only the tasks that the context shows, n_tasks counts all."""

    id: str
    label: str
    tags: tuple[str, ...] = ()
    n_tasks: int
    task_ids: tuple[str, ...]


class Counts(_Part):
    """All open tasks, and how many of each bucket, shown or not."""

    open: int
    shown: int
    overdue: int
    today: int
    this_week: int
    later: int
    someday: int


class Reactions(_Part):
    """How often each reaction came, by kind of tip and by theme."""

    by_kind: dict[str, dict[str, int]]
    by_theme: dict[str, dict[str, int]]


class UserContext(_Part):
    """What an LLM gets to know of a user. version: of this form."""

    version: Literal[1] = 1
    profile: Profile
    counts: Counts
    tasks: dict[Bucket, tuple[TaskView, ...]]
    themes: tuple[ThemeView, ...]
    reactions: Reactions
