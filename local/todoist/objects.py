"""A user's Todoist objects, each with the revision of its last change."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

OWNERS: Mapping[str, Mapping[str, str]] = {
    "items": {"parent_id": "items", "section_id": "sections", "project_id": "projects"},
    "projects": {"parent_id": "projects"},
    "sections": {"project_id": "projects"},
    "labels": {},
}
"""The fields that refer to an owner, by kind of object, with the kind of the owner.

Deleting an object deletes everything that it owns. Source: API v1, the commands item_delete ("a task and all its
sub-tasks"), section_delete ("all its child tasks"), project_delete ("all its descendants") and item_complete.
"""

SUB_TASKS: Mapping[str, Mapping[str, str]] = {"items": {"parent_id": "items"}}
INACTIVE_MARKS = ("checked", "is_deleted", "is_archived")


@dataclass(frozen=True)
class Entry:
    """An object and the revision of its last change."""

    revision: int
    value: Any


class Objects:
    """Items, projects, sections, labels and the user object.

    Broken values, without a valid id or not even a JSON object, are kept as they are, but cannot be changed later.

    revision: increases by one with each change.
    replaced_at: the revision of the last replacement; deltas cannot start before it.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.replaced_at = 0
        self._entries: dict[str, list[Entry]] = {kind: [] for kind in OWNERS}
        self._user = Entry(0, {})

    def replace(self, document: Mapping[str, Any]) -> None:
        """Replace all objects by those of a full answer, including broken values and duplicates."""
        self.revision += 1
        self.replaced_at = self.revision
        self._entries = {
            kind: [Entry(self.revision, value) for value in _copied_list(document.get(kind))] for kind in OWNERS
        }
        self._user = Entry(self.revision, deepcopy(document.get("user", {})))

    def apply(self, delta: Mapping[str, Any]) -> None:
        """Apply an incremental answer, and the changes that Todoist itself derives from it."""
        self.revision += 1
        for kind in OWNERS:
            for value in _copied_list(delta.get(kind)):
                self._put(kind, value)
        user = delta.get("user")
        if user and user != self._user.value:
            self._user = Entry(self.revision, deepcopy(user))
        self._cascade("is_deleted", OWNERS)
        self._cascade("checked", SUB_TASKS)
        self._drop_deleted_labels()

    def active(self, kinds: Iterable[str]) -> dict[str, Any]:
        """The objects of a full answer: not completed, deleted or archived, and not in an archived project."""
        return {kind: self._user.value if kind == "user" else self._active(kind) for kind in kinds}

    def changed_since(self, revision: int, kinds: Iterable[str]) -> dict[str, Any]:
        """The objects of a delta: all with a later revision, and `user` only if it changed."""
        changed: dict[str, Any] = {}
        for kind in kinds:
            if kind != "user":
                changed[kind] = [entry.value for entry in self._entries.get(kind, []) if entry.revision > revision]
            elif self._user.revision > revision:
                changed[kind] = self._user.value
        return changed

    def _active(self, kind: str) -> list[Any]:
        projects = [entry.value for entry in self._entries["projects"] if _has_mark(entry.value, "is_archived")]
        archived = {("projects", key) for project in projects if (key := _key_of(project)) is not None}
        return [
            entry.value
            for entry in self._entries.get(kind, [])
            if is_active(entry.value) and not _is_owned(entry.value, {"project_id": "projects"}, archived)
        ]

    def _put(self, kind: str, value: Any) -> None:
        """Add a value, or replace the object with its id; missing fields of tombstones are kept."""
        key = _key_of(value)
        others = [entry for entry in self._entries[kind] if key is None or _key_of(entry.value) != key]
        if len(others) < len(self._entries[kind]) and not is_active(value):
            previous = next(entry for entry in self._entries[kind] if _key_of(entry.value) == key)
            value = {**previous.value, **value}
        self._entries[kind] = [*others, Entry(self.revision, value)]

    def _cascade(self, mark: str, owners: Mapping[str, Mapping[str, str]]) -> None:
        """Set a mark on everything owned by an object that got the mark in this revision."""
        marked = self._marked_now(mark)
        n_before = 0
        while len(marked) > n_before:
            n_before = len(marked)
            for kind, fields in owners.items():
                self._entries[kind] = [
                    self._with_mark(entry, mark) if _is_owned(entry.value, fields, marked) else entry
                    for entry in self._entries[kind]
                ]
            marked = self._marked_now(mark)

    def _marked_now(self, mark: str) -> set[tuple[str, str | int]]:
        return {
            (kind, key)
            for kind, entries in self._entries.items()
            for entry in entries
            if entry.revision == self.revision and _has_mark(entry.value, mark)
            if (key := _key_of(entry.value)) is not None
        }

    def _with_mark(self, entry: Entry, mark: str) -> Entry:
        if not is_active(entry.value) and (mark == "checked" or _has_mark(entry.value, mark)):
            return entry
        return Entry(self.revision, {**entry.value, mark: True})

    def _drop_deleted_labels(self) -> None:
        names = [
            entry.value.get("name")
            for entry in self._entries["labels"]
            if entry.revision == self.revision and _has_mark(entry.value, "is_deleted")
        ]
        self._entries["items"] = [self._without_labels(entry, names) for entry in self._entries["items"]]

    def _without_labels(self, entry: Entry, names: list[Any]) -> Entry:
        labels = entry.value.get("labels") if isinstance(entry.value, dict) else None
        if not isinstance(labels, list) or not any(label in names for label in labels):
            return entry
        kept = [label for label in labels if label not in names]
        return Entry(self.revision, {**entry.value, "labels": kept})


def is_active(value: Any) -> bool:
    """Whether an object is neither completed nor deleted nor archived."""
    return not any(_has_mark(value, mark) for mark in INACTIVE_MARKS)


def _has_mark(value: Any, mark: str) -> bool:
    return isinstance(value, dict) and bool(value.get(mark))


def _is_owned(value: Any, fields: Mapping[str, str], owners: set[tuple[str, str | int]]) -> bool:
    if not isinstance(value, dict):
        return False
    return any((kind, _key(value.get(field))) in owners for field, kind in fields.items())


def _key_of(value: Any) -> str | int | None:
    return _key(value.get("id")) if isinstance(value, dict) else None


def _key(value: Any) -> str | int | None:
    """The id if it is valid; exports from before API v1 have integers as ids."""
    return value if type(value) is int or (isinstance(value, str) and value) else None


def _copied_list(value: Any) -> list[Any]:
    return deepcopy(value) if isinstance(value, list) else []
