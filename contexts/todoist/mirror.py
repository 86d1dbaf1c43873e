"""The mirror of a user's open tasks in Todoist, and the effect of a `/sync` response on it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo

from contexts.assembly.model import Task

_CONTROL_CHARS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DUE_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)
_MARKDOWN_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_VALID_YEARS = range(1900, 2200)
_MARKDOWN_MARKS = re.compile(r"\*\*|__|~~|`")


@dataclass(frozen=True)
class TodoistTask:
    """One open task. Its texts have no control characters.

    priority: Todoist's value; 4 is the most urgent.
    due_date: Todoist's value: `2026-12-01`, `2026-12-01T12:00:00` (in the user's time zone) or `...Z` (fixed).
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
        """The text to embed: the content without markdown, or the description if that is empty."""
        content = _MARKDOWN_MARKS.sub("", _MARKDOWN_LINK.sub(r"\1", self.content.removeprefix("* ")))
        return " ".join(content.split()) or " ".join(self.description.split())


@dataclass(frozen=True)
class Directory:
    """Names of projects and sections by id, and the user's time zone and language.

    archived: ids of archived projects; a project that returns from the archive needs a full sync.
    """

    projects: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    archived: frozenset[str] = frozenset()
    timezone: str | None = None
    language: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the directory as a JSON object."""
        return {
            "projects": dict(self.projects),
            "sections": dict(self.sections),
            "archived": sorted(self.archived),
            "timezone": self.timezone,
            "language": self.language,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Directory:
        """Read the result of `to_json`."""
        return cls(**{**value, "archived": frozenset(value.get("archived", ()))})


@dataclass(frozen=True)
class Mirror:
    """The projects, sections and open tasks of one account."""

    directory: Directory = Directory()
    tasks: Mapping[str, TodoistTask] = field(default_factory=dict)


@dataclass(frozen=True)
class Folded:
    """A mirror after a response.

    skipped: the id and the faulty field of each invalid item, without any text.
    needs_full: the next fetch has to be a full sync.
    """

    mirror: Mirror
    skipped: tuple[tuple[str, str], ...]
    needs_full: bool


class BadItem(ValueError):
    """An item is not a valid task; the message is the name of the faulty field."""


def fold(mirror: Mirror, response: Mapping[str, Any]) -> Folded:
    """Apply a `/sync` response: a full one replaces the mirror, an incremental one changes objects by id.

    Folding the same response again changes nothing.
    """
    before = Mirror() if response.get("full_sync") else mirror
    directory = _fold_directory(before.directory, response)
    tasks, skipped, reported_ids = dict(before.tasks), list[tuple[str, str]](), set[str]()
    for item in response.get("items") or ():
        try:
            task_id = _item_id(item)
            if any(item.get(flag) for flag in ("checked", "is_deleted", "is_archived")):
                tasks.pop(task_id, None)
            else:
                tasks[task_id] = _to_task(task_id, item)
            reported_ids.add(task_id)
        except BadItem as error:
            skipped.append((_item_id_or_unknown(item), str(error)))
    deleted_projects = {
        project_id for project_id, project in _objects(response.get("projects")) if project.get("is_deleted")
    }
    # A response may delete a project without listing its tasks.
    orphans = {task_id for task_id, task in tasks.items() if task.project_id in deleted_projects} - reported_ids
    remaining = {
        task_id: task
        for task_id, task in tasks.items()
        if task_id not in orphans and task.project_id not in directory.archived
    }
    unarchived = before.directory.archived - directory.archived
    needs_full = bool(unarchived & directory.projects.keys())
    return Folded(Mirror(directory, remaining), tuple(skipped), needs_full)


def open_tasks(mirror: Mirror) -> tuple[Task, ...]:
    """Return the tasks of a mirror as the assembler reads them, with the names of their projects and sections."""
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
    """Return the first 128 bits of a text's SHA-256, in hex."""
    return sha256(text.encode()).hexdigest()[:32]


def clean_text(value: object) -> str:
    """Replace control characters and lone surrogates, which Postgres, Arrow or a prompt cannot hold."""
    text = value if isinstance(value, str) else ""
    return _CONTROL_CHARS.sub(" ", text).encode("utf-8", "replace").decode()


def valid_zone(name: object) -> str | None:
    """Return the name of an existing time zone, or None if `name` is not one."""
    try:
        return ZoneInfo(name).key if isinstance(name, str) and name else None
    except (KeyError, ValueError, OSError):
        return None


def parse_instant(value: object) -> datetime | None:
    """Parse one of Todoist's timestamps, with or without fractions, to aware UTC; None if it is invalid."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if instant is None or instant.year not in _VALID_YEARS:
        return None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)


def _item_id(item: object) -> str:
    if not isinstance(item, dict):
        raise BadItem("not an object")
    item_id = item.get("id")
    if isinstance(item_id, bool) or not isinstance(item_id, str | int) or item_id == "":
        raise BadItem("id")
    return clean_text(str(item_id))


def _item_id_or_unknown(item: object) -> str:
    try:
        return _item_id(item)
    except BadItem:
        return "?"


def _to_task(task_id: str, item: Mapping[str, Any]) -> TodoistTask:
    if not isinstance(item.get("content"), str):
        raise BadItem("content")
    task = TodoistTask(
        task_id=task_id,
        content=clean_text(item["content"]),
        description=clean_text(item.get("description")),
        project_id=_optional_text(item.get("project_id")),
        section_id=_optional_text(item.get("section_id")),
        parent_id=_optional_text(item.get("parent_id")),
        labels=_labels(item.get("labels")),
        priority=min(4, max(1, item["priority"])) if isinstance(item.get("priority"), int) else 1,
        deadline_date=_date(_dict(item.get("deadline")).get("date")),
        duration_minutes=_minutes(_dict(item.get("duration"))),
        added_at=parse_instant(item.get("added_at")),
    )
    return _with_due(task, _dict(item.get("due")))


def _with_due(task: TodoistTask, due: Mapping[str, Any]) -> TodoistTask:
    date = due.get("date")
    if not isinstance(date, str) or not _DUE_DATE.fullmatch(date) or parse_instant(date) is None:
        return task
    return replace(
        task,
        due_date=date,
        due_timezone=valid_zone(due.get("timezone")),
        due_string=clean_text(due.get("string")) or None,
        is_recurring=bool(due.get("is_recurring")),
    )


def _labels(value: object) -> tuple[str, ...]:
    labels: Iterable[object] = value if isinstance(value, list) else ()
    return tuple(sorted({clean_text(label) for label in labels if isinstance(label, str)}))


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _optional_text(value: object) -> str | None:
    return None if value is None or value == "" else clean_text(str(value))


def _date(value: object) -> str | None:
    return value[:10] if isinstance(value, str) and parse_instant(value) else None


def _minutes(duration: Mapping[str, Any]) -> int | None:
    amount = duration.get("amount")
    if isinstance(amount, bool) or not isinstance(amount, int) or not 0 < amount < 1_000_000:
        return None
    return amount * (1440 if duration.get("unit") == "day" else 1)


def _fold_directory(before: Directory, response: Mapping[str, Any]) -> Directory:
    projects, sections, archived = dict(before.projects), dict(before.sections), set(before.archived)
    for project_id, project in _objects(response.get("projects")):
        projects.pop(project_id, None)
        archived.discard(project_id)
        if project.get("is_archived"):
            archived.add(project_id)
        elif not project.get("is_deleted"):
            projects[project_id] = clean_text(project.get("name"))
    for section_id, section in _objects(response.get("sections")):
        sections.pop(section_id, None)
        if not section.get("is_deleted") and not section.get("is_archived"):
            sections[section_id] = clean_text(section.get("name"))
    user = _dict(response.get("user"))
    return Directory(
        projects,
        sections,
        frozenset(archived),
        timezone=valid_zone(_dict(user.get("tz_info")).get("timezone")) or before.timezone,
        language=clean_text(user.get("lang"))[:16] or before.language,
    )


def _objects(value: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the id and the object of every valid entry of a list."""
    entries: Iterable[object] = value if isinstance(value, list) else ()
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("id"), str | int):
            yield clean_text(str(entry["id"])), entry
