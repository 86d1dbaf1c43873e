"""The words of the domain: what a context is made from, and the context itself. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from hashlib import sha256
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

    @property
    def content_hash(self) -> str:
        """Eight bytes of the content's sha256, in hex."""
        return sha256(self.content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Theme:
    """A group of tasks of like meaning."""

    theme_id: str
    label: str
    tags: tuple[str, ...]
    task_ids: tuple[str, ...]


@dataclass(frozen=True)
class Groups:
    """What the last clustering said of a user's tasks.

    alike: groups of tasks that say the same, each by its id and the hash of the content that it had then: one that
    was reworded since says something else.
    """

    themes: tuple[Theme, ...] = ()
    alike: tuple[tuple[tuple[str, str], ...], ...] = ()

    def to_json(self) -> str:
        """As the store keeps them: themes by id, all tasks in order."""
        rows = [asdict(replace(theme, task_ids=tuple(sorted(theme.task_ids)))) for theme in self.themes]
        found = {
            "themes": sorted(rows, key=lambda row: row["theme_id"]),
            "alike": sorted(sorted(tasks) for tasks in self.alike),
        }
        return json.dumps(found, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Groups:
        """What `to_json` wrote; a bare list of themes is what earlier versions wrote."""
        found = json.loads(text)
        plain = found if isinstance(found, dict) else {"themes": found, "alike": []}
        return cls(
            tuple(
                Theme(row["theme_id"], row["label"], tuple(row["tags"]), tuple(row["task_ids"]))
                for row in plain["themes"]
            ),
            tuple(tuple((task_id, content) for task_id, content in tasks) for tasks in plain["alike"]),
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
    groups: Groups = Groups()
    reactions: tuple[Reaction, ...] = ()


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Profile(_Part):
    timezone: str
    language: str


class TaskView(_Part):
    """A task as a prompt shows it. priority: p1 (most urgent) to p4; due: a date, or an instant with offset.

    also: ids of less pressing tasks of the same bucket that say the same, and for which this one stands.
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
    minutes: int | None = None
    also: tuple[str, ...] = ()


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
