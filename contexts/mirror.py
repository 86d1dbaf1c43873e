"""A user's open tasks as Todoist last told them, and how an answer of `/sync` changes them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo

from contexts.model import Task

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DUE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_YEARS = range(1900, 2200)
_MARKS = re.compile(r"\*\*|__|~~|`")


@dataclass(frozen=True)
class TodoistTask:
    """One open task; texts are free of control characters, `priority` is Todoist's: 4 is the most urgent.

    due_date is as Todoist gives it: `2026-12-01`, `2026-12-01T12:00:00` (the user's zone) or `...Z` (fixed).
    """

    task_id: str
    content: str
    description: str = ""
    project_id: str | None = None
    section_id: str | None = None
    parent_id: str | None = None
    labels: tuple[str, ...] = ()
    priority: int = 1
    due_date: str | None = None
    due_timezone: str | None = None
    due_string: str | None = None
    is_recurring: bool = False
    deadline_date: str | None = None
    duration_minutes: int | None = None
    added_at: datetime | None = None

    @property
    def text(self) -> str:
        """What is embedded: the content without markdown, or the description where that leaves nothing."""
        plain = _MARKS.sub("", _LINK.sub(r"\1", self.content.removeprefix("* ")))
        return " ".join(plain.split()) or " ".join(self.description.split())


@dataclass(frozen=True)
class Directory:
    """Names by id, and the user's particulars. Archived projects are kept: one that comes back needs a full sync."""

    projects: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    archived: frozenset[str] = frozenset()
    timezone: str | None = None
    language: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "projects": dict(self.projects),
            "sections": dict(self.sections),
            "archived": sorted(self.archived),
            "timezone": self.timezone,
            "language": self.language,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Directory:
        return cls(**{**value, "archived": frozenset(value.get("archived", ()))})


@dataclass(frozen=True)
class Mirror:
    """All that is known of one account."""

    directory: Directory = Directory()
    tasks: Mapping[str, TodoistTask] = field(default_factory=dict)


@dataclass(frozen=True)
class Folded:
    """A mirror after an answer. skipped: (id, what was wrong), never a text. needs_full: ask for everything next."""

    mirror: Mirror
    skipped: tuple[tuple[str, str], ...]
    needs_full: bool


class BadItem(ValueError):
    """An item that cannot be a task; the message says why, by the field's name."""


def fold(mirror: Mirror, answer: Mapping[str, Any]) -> Folded:
    """Apply an answer of `/sync`: `full_sync` replaces the mirror, anything else applies by id.

    Folding the same answer again changes nothing.
    """
    before = Mirror() if answer.get("full_sync") else mirror
    directory = _fold_directory(before.directory, answer)
    tasks, skipped, told = dict(before.tasks), list[tuple[str, str]](), set[str]()
    for item in answer.get("items") or ():
        try:
            task_id = _identifier(item)
            if any(item.get(flag) for flag in ("checked", "is_deleted", "is_archived")):
                tasks.pop(task_id, None)
            else:
                tasks[task_id] = _task(task_id, item)
            told.add(task_id)
        except BadItem as error:
            skipped.append((_id_or_unknown(item), str(error)))
    deleted = {key for key, project in _objects(answer.get("projects")) if project.get("is_deleted")}
    silent = {task_id for task_id, task in tasks.items() if task.project_id in deleted} - told
    kept = {
        task_id: task
        for task_id, task in tasks.items()
        if task_id not in silent and task.project_id not in directory.archived
    }
    returned = before.directory.archived - directory.archived
    return Folded(Mirror(directory, kept), tuple(skipped), needs_full=bool(returned & directory.projects.keys()))


def open_tasks(mirror: Mirror) -> tuple[Task, ...]:
    """The tasks of a mirror with the names of their projects and sections, as a context is made from them."""
    projects, sections = mirror.directory.projects, mirror.directory.sections
    return tuple(
        Task(
            task_id=task.task_id,
            content=task.content,
            priority=task.priority,
            project=projects.get(task.project_id or ""),
            section=sections.get(task.section_id or ""),
            labels=task.labels,
            due_date=task.due_date,
            is_recurring=task.is_recurring,
            deadline_date=task.deadline_date,
            duration_minutes=task.duration_minutes,
        )
        for task in mirror.tasks.values()
    )


def text_hash(text: str) -> str:
    """The first 128 bits of sha256 of a text, in hex."""
    return sha256(text.encode()).hexdigest()[:32]


def clean(value: object) -> str:
    """A text that Postgres, Arrow and a prompt can hold: no control characters, no lone surrogates."""
    text = value if isinstance(value, str) else ""
    return _CONTROL.sub(" ", text).encode("utf-8", "replace").decode()


def zone_or_none(name: object) -> str | None:
    """`name` if it is a time zone that exists, else None."""
    try:
        return ZoneInfo(name).key if isinstance(name, str) and name else None
    except (KeyError, ValueError, OSError):
        return None


def instant(value: object) -> datetime | None:
    """An aware UTC instant from Todoist's timestamps, which come with and without fractions; None when unreadable."""
    try:
        read = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if read is None or read.year not in _YEARS:
        return None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)


def _identifier(item: object) -> str:
    if not isinstance(item, dict):
        raise BadItem("not an object")
    found = item.get("id")
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise BadItem("id")
    return clean(str(found))


def _id_or_unknown(item: object) -> str:
    try:
        return _identifier(item)
    except BadItem:
        return "?"


def _task(task_id: str, item: Mapping[str, Any]) -> TodoistTask:
    if not isinstance(item.get("content"), str):
        raise BadItem("content")
    labels = item.get("labels")
    task = TodoistTask(
        task_id=task_id,
        content=clean(item["content"]),
        description=clean(item.get("description")),
        project_id=_optional(item.get("project_id")),
        section_id=_optional(item.get("section_id")),
        parent_id=_optional(item.get("parent_id")),
        labels=tuple(sorted({clean(x) for x in labels if isinstance(x, str)})) if isinstance(labels, list) else (),
        priority=min(4, max(1, item["priority"])) if isinstance(item.get("priority"), int) else 1,
        deadline_date=_date((_dict(item.get("deadline"))).get("date")),
        duration_minutes=_minutes(_dict(item.get("duration"))),
        added_at=instant(item.get("added_at")),
    )
    return _with_due(task, _dict(item.get("due")))


def _with_due(task: TodoistTask, due: Mapping[str, Any]) -> TodoistTask:
    date = due.get("date")
    if not isinstance(date, str) or not _DUE.fullmatch(date) or instant(date) is None:
        return task
    return replace(
        task,
        due_date=date,
        due_timezone=zone_or_none(due.get("timezone")),
        due_string=clean(due.get("string")) or None,
        is_recurring=bool(due.get("is_recurring")),
    )


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _optional(value: object) -> str | None:
    return None if value is None or value == "" else clean(str(value))


def _date(value: object) -> str | None:
    return value[:10] if isinstance(value, str) and instant(value) else None


def _minutes(duration: Mapping[str, Any]) -> int | None:
    amount = duration.get("amount")
    if isinstance(amount, bool) or not isinstance(amount, int) or not 0 < amount < 1_000_000:
        return None
    return amount * (1440 if duration.get("unit") == "day" else 1)


def _fold_directory(before: Directory, answer: Mapping[str, Any]) -> Directory:
    projects, sections, archived = dict(before.projects), dict(before.sections), set(before.archived)
    for key, project in _objects(answer.get("projects")):
        projects.pop(key, None)
        archived.discard(key)
        if project.get("is_archived"):
            archived.add(key)
        elif not project.get("is_deleted"):
            projects[key] = clean(project.get("name"))
    for key, section in _objects(answer.get("sections")):
        sections.pop(key, None)
        if not section.get("is_deleted") and not section.get("is_archived"):
            sections[key] = clean(section.get("name"))
    user = _dict(answer.get("user"))
    return Directory(
        projects,
        sections,
        frozenset(archived),
        timezone=zone_or_none(_dict(user.get("tz_info")).get("timezone")) or before.timezone,
        language=clean(user.get("lang"))[:16] or before.language,
    )


def _objects(value: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    listed: Iterable[object] = value if isinstance(value, list) else ()
    for each in listed:
        if isinstance(each, dict) and isinstance(each.get("id"), str | int):
            yield clean(str(each["id"])), each
