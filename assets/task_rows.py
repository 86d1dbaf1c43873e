"""The rows of `todoist_tasks`, made from users' mirrors and read back into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from contexts.todoist.accounts import Account
from contexts.todoist.mirror import Directory, Mirror, authorship_of, place_of, text_hash
from contexts.todoist.objects import TodoistTask

_TASK_FIELDS = [field.name for field in fields(TodoistTask)]
_AUTHORSHIP = ("is_by_others", "is_shared", "is_parent_by_others")
_USER_COLUMNS = ("user_id", "connection_number", "timezone", "language")


@dataclass(frozen=True)
class StoredMirror:
    """A user's mirror, read from stored rows.

    mirror: without a directory, which is stored with the sync token. Its tasks are read at the first access.
    user_columns: the columns that are equal in all rows of the user.
    """

    mirror: Mirror
    user_columns: Mapping[str, Any]


def user_columns(account: Account, directory: Directory) -> dict[str, Any]:
    """Return the columns that are equal in all rows of a user."""
    return {
        "user_id": account.user_id,
        "connection_number": account.connection_number,
        "timezone": directory.timezone or account.timezone,
        "language": directory.language or "en",
    }


def rows_of_mirror(account: Account, mirror: Mirror) -> Iterator[dict[str, Any]]:
    """Yield a row for each open item of a user; without open items, one row that has no item."""
    columns, directory = user_columns(account, mirror.directory), mirror.directory
    if not mirror.tasks:
        yield columns
    for task in mirror.tasks.values():
        is_actionable = directory.is_actionable(task)
        text = task.text if is_actionable else None
        derived = {"is_actionable": is_actionable, "title": task.title, "text": text}
        text_columns = {**derived, "text_hash": None if text is None else text_hash(text)}
        yield columns | vars(task) | text_columns | {**place_of(task, mirror), **authorship_of(task, mirror)}


def stored_mirrors(rows: pa.Table, users: Collection[str]) -> dict[str, StoredMirror]:
    """Return the mirrors of some users by user; users without rows are left out. rows: sorted by user."""
    mirrors, begin = dict[str, StoredMirror](), 0
    for user, n_rows in Counter(rows["user_id"].to_pylist()).items():
        if user in users:
            own = rows.slice(begin, n_rows)
            columns = {name: own[name][0].as_py() for name in _USER_COLUMNS}
            mirrors[user] = StoredMirror(Mirror(tasks=_StoredTasks(own)), columns)
        begin += n_rows
    return mirrors


class _StoredTasks(Mapping[str, TodoistTask]):
    """A user's tasks by id, read from the rows at the first access: most users' tasks did not change."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    @cached_property
    def _tasks(self) -> dict[str, TodoistTask]:
        rows = self._rows.select(_TASK_FIELDS).to_pylist()
        return {row["task_id"]: _task(row) for row in rows if row["task_id"] is not None}

    def __getitem__(self, task_id: str) -> TodoistTask:
        return self._tasks[task_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


def with_later_columns(rows: pa.Table) -> pa.Table:
    """Return the rows with the values of columns that an earlier version did not store."""
    return _with_authorship(_completed(rows))


def _completed(rows: pa.Table) -> pa.Table:
    """Return the rows with `title` and `is_actionable`, and without the text of headers, which are no tasks."""
    if rows["title"].null_count == rows["task_id"].null_count:
        return rows
    tasks = [_task(row) if row["task_id"] is not None else None for row in rows.select(_TASK_FIELDS).to_pylist()]
    is_actionable = pa.array([task and not task.is_header for task in tasks], pa.bool_())
    columns = {
        "title": pa.array([task and task.title for task in tasks], pa.string()),
        "is_actionable": is_actionable,
        **{name: pc.if_else(is_actionable, rows[name], None) for name in ("text", "text_hash")},
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)
    return rows


def _with_authorship(rows: pa.Table) -> pa.Table:
    """Return the rows with the columns of the authorship; an unknown author counts as somebody else."""
    for name in _AUTHORSHIP:
        unknown = pc.is_valid(rows["parent"]) if name == "is_parent_by_others" else True
        known = pc.if_else(pc.is_valid(rows["task_id"]), pc.coalesce(rows[name], unknown), None)
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), known)
    return rows


def _task(row: Mapping[str, Any]) -> TodoistTask:
    return TodoistTask(**{name: row[name] for name in _TASK_FIELDS if name != "labels"}, labels=tuple(row["labels"]))
