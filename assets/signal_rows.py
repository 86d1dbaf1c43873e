"""The signals of users, from the rows of three assets: the input of the assembler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from contexts.assembly.model import Reaction, Signals, Task, TaskGroups, Theme

TASK_COLUMNS = (
    "user_id",
    "task_id",
    "connection_number",
    "timezone",
    "language",
    "is_actionable",
    "title",
    "priority",
    "project",
    "section",
    "parent",
    "labels",
    "due_date",
    "is_recurring",
    "deadline_date",
    "duration_minutes",
    "is_by_others",
    "is_shared",
    "is_parent_by_others",
)
"""The columns of `todoist_tasks` that a context depends on."""

CLUSTER_COLUMNS = (
    "user_id",
    "task_id",
    "connection_number",
    "cluster_id",
    "label",
    "tags",
    "is_by_others",
    "duplicate_of",
)
"""The columns of `task_clusters` that a context depends on."""

REACTION_COLUMNS = ("user_id", "decision_id", "tip_kind", "theme", "reaction", "reacted_at")
"""The columns of `tip_reactions` that a context depends on."""

_NOT_OF_TASKS = ("connection_number", "timezone", "language", "is_actionable")

_Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class AccountSignals:
    """A user's signals, and the number of the connection that they are from."""

    signals: Signals
    connection_number: int


def signals_by_user(
    todoist_tasks: pa.Table, task_clusters: pa.Table, tip_reactions: pa.Table
) -> Mapping[str, AccountSignals]:
    """Return the signals of each user of `todoist_tasks`, including users without open tasks."""
    tasks, clusters, reactions = map(_by_user, (todoist_tasks, task_clusters, tip_reactions))
    return {
        user: AccountSignals(
            _signals(user, rows, clusters.get(user, ()), reactions.get(user, ())), _connection_of(rows[0])
        )
        for user, rows in tasks.items()
    }


def _by_user(table: pa.Table) -> _Rows:
    rows: _Rows = {}
    for row in table.to_pylist():
        rows.setdefault(row.pop("user_id"), []).append(row)
    return rows


def _signals(
    user: str, rows: list[dict[str, Any]], clusters: Sequence[dict[str, Any]], reactions: Iterable[dict[str, Any]]
) -> Signals:
    tasks = tuple(_task(row) for row in rows if row["is_actionable"])
    clusters = [row for row in clusters if _connection_of(row) == _connection_of(rows[0])]
    return Signals(
        user_id=user,
        timezone=rows[0]["timezone"],
        language=rows[0]["language"],
        tasks=tasks,
        groups=TaskGroups(tuple(_themes(clusters)), tuple(_duplicates(clusters, tasks))),
        reactions=tuple(Reaction(**row) for row in reactions),
    )


def _connection_of(row: dict[str, Any]) -> int:
    """Return the number of the account that a row was made from: themes are of one account only."""
    return row["connection_number"] or 0  # rows of an earlier version are from before connections had numbers


def _task(row: dict[str, Any]) -> Task:
    fields = {name: value for name, value in row.items() if name not in _NOT_OF_TASKS}
    return Task(**fields | {"labels": tuple(row["labels"])})


def _themes(clusters: Iterable[dict[str, Any]]) -> Iterator[Theme]:
    themes: dict[str, list[dict[str, Any]]] = {}
    for row in clusters:
        if row["cluster_id"] is not None:
            themes.setdefault(row["cluster_id"], []).append(row)
    for theme_id, rows in themes.items():
        theme = rows[0]
        task_ids = tuple(row["task_id"] for row in rows)
        yield Theme(theme_id, theme["label"], tuple(theme["tags"]), task_ids, theme["is_by_others"] is not False)


def _duplicates(clusters: Iterable[dict[str, Any]], tasks: Iterable[Task]) -> Iterator[tuple[tuple[str, str], ...]]:
    """Yield the groups of duplicate tasks, each task as its id and title hash, the original first."""
    title_hashes = {task.task_id: task.title_hash for task in tasks}
    groups: dict[str, list[str]] = {}
    for row in clusters:
        if row["duplicate_of"] is not None:
            groups.setdefault(row["duplicate_of"], []).append(row["task_id"])
    for original, duplicates in groups.items():
        task_ids = (original, *duplicates)
        yield tuple((task_id, title_hashes[task_id]) for task_id in task_ids if task_id in title_hashes)
