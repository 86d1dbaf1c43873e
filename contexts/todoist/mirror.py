"""The mirror of a user's open tasks in Todoist, and the effect of a `/sync` response on it. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, TypedDict

from contexts.assembly.model import Task
from contexts.todoist.markup import clean_text
from contexts.todoist.objects import (
    BadItem,
    Project,
    Section,
    TodoistTask,
    as_object,
    is_ended,
    object_id,
    objects,
    parse_instant,
    read_project,
    read_section,
    read_task,
)
from contexts.todoist.zones import zone_of


@dataclass(frozen=True)
class Directory:
    """Everything that a mirror contains of an account besides its tasks.

    todoist_user_id: the user's id in Todoist. projects, sections: by id, those in the archive included, but not those
    that a full response left out. unreadable: the digests of skipped items for which a full sync was made already.
    """

    todoist_user_id: str | None = None
    projects: Mapping[str, Project] = field(default_factory=dict)
    sections: Mapping[str, Section] = field(default_factory=dict)
    timezone: str | None = None
    language: str | None = None
    unreadable: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return the directory as a JSON object."""
        projects = {project_id: vars(project) for project_id, project in self.projects.items()}
        sections = {section_id: vars(section) for section_id, section in self.sections.items()}
        return vars(self) | {"projects": projects, "sections": sections, "unreadable": sorted(self.unreadable)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Directory:
        """Read the result of `to_json`; an empty object gives an empty directory."""
        parsed = {
            "projects": {project_id: Project(**each) for project_id, each in value.get("projects", {}).items()},
            "sections": {section_id: Section(**each) for section_id, each in value.get("sections", {}).items()},
            "unreadable": frozenset(value.get("unreadable", ())),
        }
        return cls(**{**value, **parsed})

    def is_actionable(self, task: TodoistTask) -> bool:
        """Return whether an item is a task of the user: no header, and assigned to the user or to nobody."""
        is_of_others = task.responsible_uid is not None and task.responsible_uid != self.todoist_user_id
        return not task.is_header and not (is_of_others and self.todoist_user_id is not None)

    def is_by_others(self, task: TodoistTask) -> bool:
        """Return whether somebody other than the user may have added an item.

        An item without an author counts as the user's own only in a project of the user alone.
        """
        if task.added_by_uid is None:
            return self.is_shared(task)
        return task.added_by_uid != self.todoist_user_id

    def is_shared(self, task: TodoistTask) -> bool:
        """Return whether others may see and name the places of an item: its project is shared, or not known."""
        project = self.projects.get(task.project_id or "")
        return project is None or project.is_shared


class PlaceNames(TypedDict):
    """The names of a task's project and section, and the title of its parent task."""

    project: str | None
    section: str | None
    parent: str | None


class Authorship(TypedDict):
    """Which texts of a task others may have written.

    is_by_others: all of them. is_shared: the names of its project, section and labels. is_parent_by_others: the title
    of its parent task.
    """

    is_by_others: bool
    is_shared: bool
    is_parent_by_others: bool


@dataclass(frozen=True)
class Mirror:
    """The projects, sections and open items of one account, headers and tasks of other people included."""

    directory: Directory = Directory()
    tasks: Mapping[str, TodoistTask] = field(default_factory=dict)


@dataclass(frozen=True)
class Folded:
    """A mirror after a response.

    skipped: the id and the faulty field of each invalid item, without any text. unread_zone: the user's time zone if
    it cannot be read; the mirror then keeps the previous one. needs_full: the next fetch has to be a full sync.
    changed_at: when the projects, sections and ended items of the response last changed, by type and id, as far as it
    can be read.
    """

    mirror: Mirror
    skipped: tuple[tuple[str, str], ...]
    unread_zone: str | None
    needs_full: bool
    changed_at: Mapping[tuple[str, str], datetime] = field(default_factory=dict)


def fold(mirror: Mirror, response: Mapping[str, Any]) -> Folded:
    """Apply a `/sync` response: a full one replaces the mirror, an incremental one changes objects by id.

    A task ends if its section, its parent task or a project above it ends, also if the response does not mention the
    task. Folding the same response again changes nothing. The tasks stay the same mapping, which is not read, if an
    incremental response lists no item, project or section.

    The next fetch has to be full if the response is incomplete: if a project or section returned from the archive,
    because its tasks are missing; if one is new, because it may come from the archive; or if an item cannot be read,
    once for each item and content.
    """
    is_full = bool(response.get("full_sync"))
    before = Mirror(_emptied(mirror.directory)) if is_full else mirror
    items, directory = _read_items(response), _fold_directory(before.directory, response)
    if not is_full and not any(response.get(kind) for kind in ("items", "projects", "sections")):
        return Folded(Mirror(directory, mirror.tasks), (), _unread_zone(response), needs_full=False)
    tasks = {task_id: task for task_id, task in before.tasks.items() if task_id not in items.ended} | items.open
    deleted, archived = _deleted_places(before.directory, directory, response), _archived_places(directory)
    ended = archived.tasks_in(tasks) | (deleted.tasks_in(tasks) - items.open.keys())
    if ended or items.ended:
        parents = {task_id: task.parent_id for task_id, task in tasks.items()}
        ended |= _descendants(parents, ended | items.ended.keys()) - items.open.keys()
    remaining = {task_id: task for task_id, task in tasks.items() if task_id not in ended} if ended else tasks
    unreadable = frozenset(digest for _, _, digest in items.skipped)
    is_incomplete = not is_full and bool(_active_places(directory) - _active_places(before.directory))
    return Folded(
        mirror=Mirror(
            replace(directory, unreadable=unreadable if is_full else unreadable | directory.unreadable), remaining
        ),
        skipped=tuple((task_id, name) for task_id, name, _ in items.skipped),
        unread_zone=_unread_zone(response),
        needs_full=is_incomplete or not unreadable <= mirror.directory.unreadable,
        changed_at=_changed_at(items, response),
    )


def open_tasks(mirror: Mirror) -> tuple[Task, ...]:
    """Return the user's own tasks as the assembler reads them, with the names of their places."""
    directory = mirror.directory
    return tuple(
        Task(
            task_id=task.task_id,
            title=task.title,
            priority=task.priority,
            due_date=task.due_date,
            is_recurring=task.is_recurring,
            deadline_date=task.deadline_date,
            duration_minutes=task.duration_minutes,
            labels=task.labels,
            **place_of(task, mirror),
            **authorship_of(task, mirror),
        )
        for task in mirror.tasks.values()
        if directory.is_actionable(task)
    )


def place_of(task: TodoistTask, mirror: Mirror) -> PlaceNames:
    """Return the names of a task's project and section, and the title of its parent task."""
    project = mirror.directory.projects.get(task.project_id or "")
    section = mirror.directory.sections.get(task.section_id or "")
    parent = mirror.tasks.get(task.parent_id or "")
    return {
        "project": project.name if project else None,
        "section": section.name if section else None,
        "parent": parent.title if parent else None,
    }


def authorship_of(task: TodoistTask, mirror: Mirror) -> Authorship:
    """Return which texts of a task others may have written."""
    parent = mirror.tasks.get(task.parent_id or "")
    return {
        "is_by_others": mirror.directory.is_by_others(task),
        "is_shared": mirror.directory.is_shared(task),
        "is_parent_by_others": parent is not None and mirror.directory.is_by_others(parent),
    }


def text_hash(text: str) -> str:
    """Return the first 128 bits of a text's SHA-256, in hex."""
    return sha256(text.encode()).hexdigest()[:32]


@dataclass
class _Items:
    """The items of a response.

    open: by id. ended: the time of the end by id; None if it is unknown. skipped: the id, the faulty field and the
    digest of each invalid item.
    """

    open: dict[str, TodoistTask] = field(default_factory=dict)
    ended: dict[str, datetime | None] = field(default_factory=dict)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Places:
    """Ids of projects and sections."""

    projects: Set[str]
    sections: Set[str]

    def tasks_in(self, tasks: Mapping[str, TodoistTask]) -> set[str]:
        """Return the ids of the tasks in these places."""
        if not self:
            return set()
        return {
            task_id
            for task_id, task in tasks.items()
            if task.project_id in self.projects or task.section_id in self.sections
        }

    def __sub__(self, other: _Places) -> _Places:
        return _Places(self.projects - other.projects, self.sections - other.sections)

    def __bool__(self) -> bool:
        return bool(self.projects or self.sections)


def _read_items(response: Mapping[str, Any]) -> _Items:
    """Read all items; of several with the same id the last one counts."""
    items = _Items()
    for item in response.get("items") or ():
        task_id = object_id(item)
        try:
            if task_id is None:
                raise BadItem("id" if isinstance(item, dict) else "not an object")
            if is_ended(item):
                items.open.pop(task_id, None)
                items.ended[task_id] = parse_instant(item.get("updated_at"))
            else:
                items.open[task_id] = read_task(task_id, item)
                items.ended.pop(task_id, None)
        except BadItem as error:
            items.skipped.append((task_id or "?", str(error), _digest(item)))
    return items


def _changed_at(items: _Items, response: Mapping[str, Any]) -> dict[tuple[str, str], datetime]:
    """Return when the ended items and the listed places last changed, as far as the response tells it."""
    found = {("item", task_id): at for task_id, at in items.ended.items()}
    for kind in ("project", "section"):
        listed = objects(response.get(f"{kind}s"))
        found |= {(kind, key): parse_instant(place.get("updated_at")) for key, place in listed}
    return {key: at for key, at in found.items() if at is not None}


def _digest(item: object) -> str:
    try:
        text = json.dumps(item, sort_keys=True)
    except RecursionError:  # the item is nested too deep
        text = str(object_id(item))
    return sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _fold_directory(before: Directory, response: Mapping[str, Any]) -> Directory:
    """Fold the projects, the sections and the user; a deleted project takes those below it along, unless listed."""
    listed = dict(objects(response.get("projects")))
    projects = {**before.projects, **{project_id: read_project(each) for project_id, each in listed.items()}}
    deleted = _deleted(listed)
    gone = deleted | (_descendants(_parents(projects), deleted) - listed.keys())
    listed_sections = dict(objects(response.get("sections")))
    sections = {**before.sections, **{section_id: read_section(each) for section_id, each in listed_sections.items()}}
    user = as_object(response.get("user"))
    return Directory(
        todoist_user_id=object_id(user) or before.todoist_user_id,
        projects={project_id: project for project_id, project in projects.items() if project_id not in gone},
        sections={key: section for key, section in sections.items() if key not in _deleted(listed_sections)},
        timezone=zone_of(as_object(user.get("tz_info"))) or before.timezone,
        language=clean_text(user.get("lang"))[:16] or before.language,
        unreadable=before.unreadable,
    )


def _deleted_places(before: Directory, after: Directory, response: Mapping[str, Any]) -> _Places:
    """Return the projects and sections that a response deletes, and the projects below them."""
    return _Places(
        (before.projects.keys() - after.projects.keys()) | _deleted(dict(objects(response.get("projects")))),
        (before.sections.keys() - after.sections.keys()) | _deleted(dict(objects(response.get("sections")))),
    )


def _archived_places(directory: Directory) -> _Places:
    """Return the archived projects and sections, and the projects below them."""
    projects = {project_id for project_id, project in directory.projects.items() if project.is_archived}
    sections = {section_id for section_id, section in directory.sections.items() if section.is_archived}
    return _Places(projects | _descendants(_parents(directory.projects), projects), sections)


def _active_places(directory: Directory) -> _Places:
    """Return the projects and sections that are not archived."""
    return _Places(directory.projects.keys(), directory.sections.keys()) - _archived_places(directory)


def _deleted(listed: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {key for key, each in listed.items() if each.get("is_deleted")}


def _parents(projects: Mapping[str, Project]) -> dict[str, str | None]:
    return {project_id: project.parent_id for project_id, project in projects.items()}


def _descendants(parents: Mapping[str, str | None], roots: Collection[str]) -> set[str]:
    """Return all ids below the roots, given each id's parent."""
    if not roots:
        return set()
    children: dict[str, list[str]] = defaultdict(list)
    for child, parent in parents.items():
        if parent is not None:
            children[parent].append(child)
    found, rest = set[str](), list(roots)
    while rest:
        new = set(children.get(rest.pop(), ())) - found
        found |= new
        rest.extend(new)
    return found


def _unread_zone(response: Mapping[str, Any]) -> str | None:
    tz_info = as_object(as_object(response.get("user")).get("tz_info"))
    return None if not tz_info or zone_of(tz_info) else clean_text(str(tz_info.get("timezone")))[:40]


def _emptied(directory: Directory) -> Directory:
    """Return a directory without projects and sections, which a full response replaces."""
    return replace(directory, projects={}, sections={})
