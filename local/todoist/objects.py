"""A user's Todoist objects, each with the revision of its last change."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

PLACES: Mapping[str, Mapping[str, str]] = {
    "items": {"section_id": "sections", "project_id": "projects"},
    "projects": {"parent_id": "projects"},
    "sections": {"project_id": "projects"},
    "labels": {},
}
"""The fields that refer to the place of an object, by kind of object, with the kind of the place.

Deleting or archiving a place ends everything in it. Source: API v1, the commands section_delete ("all its child
tasks"), project_delete and project_archive (all descendants). A sub-task is in the section of its task.
"""

SUB_TASKS: Mapping[str, Mapping[str, str]] = {"items": {"parent_id": "items"}}
"""The field that refers to the task of a sub-task.

Deleting or completing a task does the same to its sub-tasks. Source: API v1, the commands item_delete ("a task and
all its sub-tasks") and item_complete.
"""

INACTIVE_MARKS = ("checked", "is_deleted", "is_archived")

ObjectKey = tuple[str, str | int]
"""The kind and the id of an object."""


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
    lists_descendants: whether a delta lists the contents of a deleted, archived or un-archived project or section,
        besides the project or section itself.
    """

    def __init__(self, *, lists_descendants: bool = False) -> None:
        self.revision = 0
        self.replaced_at = 0
        self._lists_descendants = lists_descendants
        self._entries: dict[str, list[Entry]] = {kind: [] for kind in PLACES}
        self._user = Entry(0, {})

    def to_json(self) -> dict[str, Any]:
        """All objects with their revisions."""
        entries = {kind: [[each.revision, each.value] for each in self._entries[kind]] for kind in PLACES}
        user = [self._user.revision, self._user.value]
        return {"revision": self.revision, "replaced_at": self.replaced_at, "entries": entries, "user": user}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any], *, lists_descendants: bool = False) -> Self:
        """The objects of `to_json`."""
        objects = cls(lists_descendants=lists_descendants)
        objects.revision, objects.replaced_at = saved["revision"], saved["replaced_at"]
        objects._entries = {kind: [Entry(*entry) for entry in saved["entries"][kind]] for kind in PLACES}
        objects._user = Entry(*saved["user"])
        return objects

    def replace(self, document: Mapping[str, Any]) -> None:
        """Replace all objects by those of a full answer, including broken values and duplicates."""
        self.revision += 1
        self.replaced_at = self.revision
        self._entries = {
            kind: [Entry(self.revision, value) for value in _copied_list(document.get(kind))] for kind in PLACES
        }
        self._user = Entry(self.revision, deepcopy(document.get("user", {})))

    def apply(self, delta: Mapping[str, Any], at: datetime) -> None:
        """Apply an incremental answer, and the changes that Todoist itself derives from it.

        at: the time of the changes; `updated_at` moves to it, unless the delta has a later value than before.
        """
        archived_before = self._archived()
        self.revision += 1
        updated_at = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        for kind in PLACES:
            for value in _copied_list(delta.get(kind)):
                self._put(kind, value, updated_at)
        user = delta.get("user")
        if user and user != self._user.value:
            self._user = Entry(self.revision, deepcopy(user))
        self._cascade("is_deleted", SUB_TASKS, updated_at, listed=True)
        self._cascade("is_deleted", PLACES, updated_at, listed=self._lists_descendants)
        self._cascade("checked", SUB_TASKS, updated_at, listed=True)
        self._drop_deleted_labels(updated_at)
        if self._lists_descendants:
            self._list(archived_before ^ self._archived(), updated_at)

    def active(self, kinds: Iterable[str]) -> dict[str, Any]:
        """The objects of a full answer: not completed, deleted or archived, also by their place."""
        archived = self._archived()
        return {kind: self._user.value if kind == "user" else self._active(kind, archived) for kind in kinds}

    def changed_since(self, revision: int, kinds: Iterable[str]) -> dict[str, Any]:
        """The objects of a delta: all with a later revision, and `user` only if it changed."""
        archived = self._archived() if self._lists_descendants else set()
        changed: dict[str, Any] = {}
        for kind in kinds:
            if kind != "user":
                entries = [entry for entry in self._entries.get(kind, []) if entry.revision > revision]
                changed[kind] = [
                    {**entry.value, "is_archived": True} if (kind, _key_of(entry.value)) in archived else entry.value
                    for entry in entries
                ]
            elif self._user.revision > revision:
                changed[kind] = self._user.value
        return changed

    def _active(self, kind: str, archived: set[ObjectKey]) -> list[Any]:
        return [
            entry.value
            for entry in self._entries.get(kind, [])
            if is_active(entry.value) and not _is_owned(entry.value, PLACES[kind], archived)
        ]

    def _archived(self) -> set[ObjectKey]:
        """The archived projects and sections, and everything in them."""
        archived = {key for key, value in self._by_key() if key[0] != "items" and _has_mark(value, "is_archived")}
        n_before = 0
        while len(archived) > n_before:
            n_before = len(archived)
            archived |= {key for key, value in self._by_key() if _is_owned(value, PLACES[key[0]], archived)}
        return archived

    def _by_key(self) -> Iterator[tuple[ObjectKey, Any]]:
        for kind, entries in self._entries.items():
            for entry in entries:
                if (key := _key_of(entry.value)) is not None:
                    yield (kind, key), entry.value

    def _put(self, kind: str, value: Any, updated_at: str) -> None:
        """Add a value, or replace the object with its id; missing fields of tombstones are kept."""
        key = _key_of(value)
        others = [entry for entry in self._entries[kind] if key is None or _key_of(entry.value) != key]
        if len(others) < len(self._entries[kind]):
            previous = next(entry.value for entry in self._entries[kind] if _key_of(entry.value) == key)
            merged = value if is_active(value) else {**previous, **value}
            value = _moved(merged, previous, updated_at)
        self._entries[kind] = [*others, Entry(self.revision, value)]

    def _cascade(self, mark: str, owners: Mapping[str, Mapping[str, str]], updated_at: str, *, listed: bool) -> None:
        """Set a mark on everything whose place or task got the mark in this revision.

        owners: `PLACES` or `SUB_TASKS`.
        listed: whether the next delta lists the newly marked objects.
        """
        marked = self._marked_now(mark)
        n_before = 0
        while len(marked) > n_before:
            n_before = len(marked)
            for kind, fields in owners.items():
                for index, entry in enumerate(self._entries[kind]):
                    if _is_owned(entry.value, fields, marked) and _can_get(mark, entry.value):
                        self._entries[kind][index] = self._changed(entry, {mark: True}, updated_at, listed=listed)
                        marked |= {(kind, key) for key in [_key_of(entry.value)] if key is not None}

    def _marked_now(self, mark: str) -> set[ObjectKey]:
        return {
            (kind, key)
            for kind, entries in self._entries.items()
            for entry in entries
            if entry.revision == self.revision and _has_mark(entry.value, mark)
            if (key := _key_of(entry.value)) is not None
        }

    def _list(self, keys: set[ObjectKey], updated_at: str) -> None:
        """Give objects this revision, because their place was archived or un-archived in it."""
        for kind, entries in self._entries.items():
            self._entries[kind] = [
                self._changed(entry, {}, updated_at) if (kind, _key_of(entry.value)) in keys else entry
                for entry in entries
            ]

    def _changed(self, entry: Entry, fields: Mapping[str, Any], updated_at: str, *, listed: bool = True) -> Entry:
        revision = self.revision if listed else entry.revision
        return Entry(revision, _moved({**entry.value, **fields}, entry.value, updated_at))

    def _drop_deleted_labels(self, updated_at: str) -> None:
        names = [
            entry.value.get("name")
            for entry in self._entries["labels"]
            if entry.revision == self.revision and _has_mark(entry.value, "is_deleted")
        ]
        self._entries["items"] = [self._without_labels(entry, names, updated_at) for entry in self._entries["items"]]

    def _without_labels(self, entry: Entry, names: list[Any], updated_at: str) -> Entry:
        labels = entry.value.get("labels") if isinstance(entry.value, dict) else None
        if not isinstance(labels, list) or not any(label in names for label in labels):
            return entry
        return self._changed(entry, {"labels": [label for label in labels if label not in names]}, updated_at)


def is_active(value: Any) -> bool:
    """Whether an object is neither completed nor deleted nor archived."""
    return not any(_has_mark(value, mark) for mark in INACTIVE_MARKS)


def _has_mark(value: Any, mark: str) -> bool:
    return isinstance(value, dict) and bool(value.get(mark))


def _can_get(mark: str, value: Mapping[str, Any]) -> bool:
    """Whether a mark changes an object: a deleted one is not completed, but a completed one can be deleted."""
    return not _has_mark(value, mark) and (mark == "is_deleted" or is_active(value))


def _moved(value: Mapping[str, Any], previous: Mapping[str, Any], updated_at: str) -> Mapping[str, Any]:
    """The value with a later `updated_at` than the previous one, if it has the field."""
    if "updated_at" not in value or _second(value["updated_at"]) > _second(previous.get("updated_at")):
        return value
    return {**value, "updated_at": updated_at}


def _second(instant: Any) -> str:
    """A timestamp without fractions, because timestamps come with and without them."""
    return instant[:19] if isinstance(instant, str) else ""


def _is_owned(value: Any, fields: Mapping[str, str], owners: set[ObjectKey]) -> bool:
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
