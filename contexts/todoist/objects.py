"""The objects of Todoist's API as the mirror keeps them: tasks, projects, sections; and how they are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from math import isfinite
from typing import Any, Literal, TypedDict

from contexts.text import without_addresses
from contexts.todoist.markup import HEADER_MARK, clean_text, plain_text
from contexts.todoist.zones import valid_zone

_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)
_VALID_YEARS = range(1900, 2200)
_PRIORITIES = range(1, 5)
_MAX_MINUTES = 1_000_000
MAX_ID_CHARS = 100
"""Todoist's ids have 16 characters. Longer ones would fill contexts and answers, and do not fit into indexes."""

_ENDED_FLAGS = ("checked", "is_deleted", "is_archived")

ObjectType = Literal["item", "project", "section"]
"""The types of objects that the mirror keeps, as Todoist's events name them."""

_SCALAR_FIELDS: Mapping[ObjectType, tuple[str, ...]] = {
    "item": (
        "id", "content", "description", "project_id", "section_id", "parent_id", "responsible_uid", "added_by_uid",
        "priority", "added_at", "updated_at", *_ENDED_FLAGS,
    ),
    "project": ("id", "name", "parent_id", "is_shared", "workspace_id", "updated_at", *_ENDED_FLAGS),
    "section": ("id", "name", "updated_at", *_ENDED_FLAGS),
}  # fmt: skip
"""The fields with a text, a number or a flag that are read of an object."""

_FLAGS = frozenset({*_ENDED_FLAGS, "is_shared", "workspace_id"})
"""Those of these fields of which only their truth is read."""

_NESTED_FIELDS = {
    "due": ("date", "timezone", "string", "is_recurring"),
    "deadline": ("date",),
    "duration": ("amount", "unit"),
}
"""The fields of an item that are objects, with the fields that are read of them."""


@dataclass(frozen=True)
class TodoistTask:
    """One open item of Todoist. Its texts have no HTML escapes, control characters or directional marks.

    responsible_uid: the Todoist user who has to do it; None if it is assigned to nobody. added_by_uid: its author.
    priority: Todoist's value; 4 is the most urgent. due_date: Todoist's value: `2026-12-01`, `2026-12-01T12:00:00`
    (in the user's time zone) or `...Z` (fixed).
    """

    task_id: str
    content: str
    description: str = ""
    project_id: str | None = None
    section_id: str | None = None
    parent_id: str | None = None
    labels: tuple[str, ...] = ()
    responsible_uid: str | None = None
    added_by_uid: str | None = None
    priority: int = 1
    due_date: str | None = None
    due_timezone: str | None = None
    due_string: str | None = None
    is_recurring: bool = False
    deadline_date: str | None = None
    duration_minutes: int | None = None
    added_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def is_header(self) -> bool:
        """Whether the item is a heading among tasks, which cannot be completed."""
        return self.content.startswith(HEADER_MARK)

    @property
    def title(self) -> str:
        """The content as plain text on one line, the description if that is empty, or else the content as it is."""
        return self._plain_content or plain_text(self.description) or " ".join(self.content.split())

    @property
    def text(self) -> str:
        """The text to embed: the content or the description without addresses, or the title if they are empty."""
        words = without_addresses(self._plain_content).split()
        return " ".join(words or without_addresses(plain_text(self.description)).split()) or self.title

    @cached_property
    def _plain_content(self) -> str:
        return plain_text(self.content.removeprefix(HEADER_MARK))


@dataclass(frozen=True)
class Project:
    """A project. parent_id: the project that it is a part of. is_shared: whether others may see and change it."""

    name: str
    parent_id: str | None = None
    is_shared: bool = False
    is_archived: bool = False


@dataclass(frozen=True)
class Section:
    """A section of a project."""

    name: str
    is_archived: bool = False


class BadItem(ValueError):
    """An item is not a valid task; the message is the name of the faulty field."""


def object_id(value: object) -> str | None:
    """Return the id of an object of the API, also if it is a number; None if there is none, or it is too long."""
    found = value.get("id") if isinstance(value, dict) else None
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    text = clean_text(str(found))
    return text if 0 < len(text) <= MAX_ID_CHARS else None


def objects(value: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the id and the object of every valid entry of a list."""
    for entry in _as_list(value):
        if isinstance(entry, dict) and (found := object_id(entry)):
            yield found, entry


def is_ended(item: Mapping[str, Any]) -> bool:
    """Return whether an item is completed, deleted or archived."""
    return any(item.get(flag) for flag in _ENDED_FLAGS)


def read_task(task_id: str, item: Mapping[str, Any]) -> TodoistTask:
    """Read an open item; raises BadItem, which names the field, if a field that defines the task cannot be read."""
    if not isinstance(item.get("content"), str):
        raise BadItem("content")
    return TodoistTask(
        task_id=task_id,
        content=clean_text(item["content"]),
        description=clean_text(item.get("description")),
        project_id=_optional_text(item.get("project_id")),
        section_id=_optional_text(item.get("section_id")),
        parent_id=_optional_text(item.get("parent_id")),
        labels=_labels(item.get("labels")),
        responsible_uid=_optional_text(item.get("responsible_uid")),
        added_by_uid=_optional_text(item.get("added_by_uid")),
        priority=min(_PRIORITIES[-1], max(_PRIORITIES[0], _integer(item.get("priority")) or 1)),
        deadline_date=_deadline(_date_object(item, "deadline")),
        duration_minutes=_minutes(as_object(item.get("duration"))),
        added_at=parse_instant(item.get("added_at")),
        updated_at=parse_instant(item.get("updated_at")),
        **_due(_date_object(item, "due")),
    )


def read_project(project: Mapping[str, Any]) -> Project:
    """Read a project that is not deleted; a project of a team's workspace counts as shared."""
    return Project(
        name=clean_text(project.get("name")),
        parent_id=_optional_text(project.get("parent_id")),
        is_shared=bool(project.get("is_shared") or project.get("workspace_id")),
        is_archived=bool(project.get("is_archived")),
    )


def read_section(section: Mapping[str, Any]) -> Section:
    """Read a section that is not deleted."""
    return Section(name=clean_text(section.get("name")), is_archived=bool(section.get("is_archived")))


def fields_read(object_type: ObjectType, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with only the fields that this module reads; reading it gives the same as the whole object.

    Postgres can store the result as JSON: it has no NUL characters, lone surrogates and infinite numbers.
    """
    kept: dict[str, Any] = {
        name: bool(value[name]) if name in _FLAGS else _scalar(value[name])
        for name in _SCALAR_FIELDS[object_type]
        if name in value
    }
    if object_type != "item":
        return kept
    if "labels" in value:
        kept["labels"] = [_scalar(label) for label in _as_list(value["labels"]) if isinstance(label, str)]
    return kept | {name: _nested(value[name], names) for name, names in _NESTED_FIELDS.items() if name in value}


def as_object(value: object) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def parse_instant(value: object) -> datetime | None:
    """Parse one of Todoist's timestamps, with or without fractions, to aware UTC; None if it is invalid."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if instant is None or instant.year not in _VALID_YEARS:
        return None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)


class _Due(TypedDict, total=False):
    """The fields of a task with a due date."""

    due_date: str
    due_timezone: str | None
    due_string: str | None
    is_recurring: bool


def _due(due: Mapping[str, Any]) -> _Due:
    date = due.get("date")
    if date is None or date == "":
        return {}
    if not isinstance(date, str) or not _DATE.fullmatch(date) or parse_instant(date) is None:
        raise BadItem("due")
    return {
        "due_date": date,
        "due_timezone": valid_zone(due.get("timezone")),
        "due_string": clean_text(due.get("string")) or None,
        "is_recurring": bool(due.get("is_recurring")),
    }


def _deadline(deadline: Mapping[str, Any]) -> str | None:
    date = deadline.get("date")
    if date is None or date == "":
        return None
    if not isinstance(date, str) or not _DATE.fullmatch(date) or parse_instant(date) is None:
        raise BadItem("deadline")
    return date[:10]


def _date_object(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an item's due date or deadline, empty if it has none; raises BadItem if it is not an object."""
    value = item.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadItem(name)
    return value or {}


def _minutes(duration: Mapping[str, Any]) -> int | None:
    amount = _integer(duration.get("amount"))
    if amount is None or not 0 < amount < _MAX_MINUTES:
        return None
    return amount * (1440 if duration.get("unit") == "day" else 1)


def _integer(value: object) -> int | None:
    """Return a whole number, which JSON may write as 4 or as 4.0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if isinstance(value, int) or value.is_integer() else None


def _labels(value: object) -> tuple[str, ...]:
    return tuple(sorted({clean_text(label) for label in _as_list(value) if isinstance(label, str)}))


def _as_list(value: object) -> Iterable[object]:
    return value if isinstance(value, list) else ()


def _nested(value: object, names: Iterable[str]) -> object:
    """Return the named fields of a JSON object; None for null, and an empty list for any other value."""
    if not isinstance(value, dict):
        return None if value is None else []
    return {name: _scalar(value[name]) for name in names if name in value}


def _scalar(value: object) -> str | float | None:
    """Return a text without NUL characters and lone surrogates, a finite number or a flag; None for anything else."""
    if isinstance(value, str):
        return value.replace("\0", " ").encode("utf-8", "replace").decode()
    if isinstance(value, float) and not isfinite(value):
        return None
    return value if isinstance(value, int | float) else None


def _optional_text(value: object) -> str | None:
    return None if value is None or value == "" else clean_text(str(value)) or None
