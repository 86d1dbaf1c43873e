"""Each user's context, ready for a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any

import pyarrow as pa

from assets.asset import Work, asset
from assets.checks import users_of
from contexts.assemble import Budget, assemble
from contexts.model import Groups, Reaction, Signals, Task, Theme
from contexts.store import row_version

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("context_json", pa.string(), nullable=False),
        pa.field("context_hash", pa.string(), nullable=False),
        pa.field("valid_until", pa.timestamp("us", "UTC")),  # the midnight at which it becomes another one by itself
        pa.field("themes", pa.string(), nullable=False),  # JSON: see `contexts.model.Groups`; whatever is shown
        pa.field("row_version", pa.string(), nullable=False),  # hash of the last three: of all that the store keeps
    ]
)

Rows = dict[str, list[dict[str, Any]]]


@asset(
    step="compute_context",
    schema=SCHEMA,
    code_version="4",
    checks=(users_of("todoist_tasks"),),
    work=Work("contexts_assembled", per="user"),
)
def user_contexts(
    todoist_tasks: Annotated[
        pa.Table,
        "user_id",
        "task_id",
        "timezone",
        "language",
        "content",
        "priority",
        "project",
        "section",
        "labels",
        "due_date",
        "is_recurring",
        "deadline_date",
        "duration_minutes",
    ],
    task_clusters: Annotated[pa.Table, "user_id", "task_id", "cluster_id", "label", "tags", "same_as"],
    tip_reactions: Annotated[pa.Table, "user_id", "decision_id", "tip_kind", "theme", "reaction", "reacted_at"],
    now: datetime,
    budget: Budget,
) -> pa.Table:
    """One row per user, users without open tasks too."""
    tasks, clusters, reactions = map(_by_user, (todoist_tasks, task_clusters, tip_reactions))
    rows = []
    for user, own in tasks.items():
        signals = _signals(user, own, clusters.get(user, ()), reactions.get(user, ()))
        made, themes = assemble(signals, now, budget), signals.groups.to_json()
        version = row_version(made.context_hash, made.valid_until, themes)
        rows.append({"user_id": user, **vars(made), "themes": themes, "row_version": version})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _by_user(table: pa.Table) -> Rows:
    rows: Rows = {}
    for row in table.to_pylist():
        rows.setdefault(row.pop("user_id"), []).append(row)
    return rows


def _signals(
    user: str, tasks: list[dict[str, Any]], clusters: Sequence[dict[str, Any]], reactions: Iterable[dict[str, Any]]
) -> Signals:
    first = tasks[0]
    own = tuple(_task(row) for row in tasks if row["task_id"] is not None)
    return Signals(
        user_id=user,
        timezone=first["timezone"],
        language=first["language"],
        tasks=own,
        groups=Groups(tuple(_themes(clusters)), tuple(_alike(clusters, own))),
        reactions=tuple(Reaction(**row) for row in reactions),
    )


def _task(row: dict[str, Any]) -> Task:
    plain = {name: value for name, value in row.items() if name not in ("timezone", "language")}
    return Task(**plain | {"labels": tuple(row["labels"])})


def _themes(clusters: Iterable[dict[str, Any]]) -> Iterator[Theme]:
    themes: dict[str, list[dict[str, Any]]] = {}
    for row in clusters:
        if row["cluster_id"] is not None:
            themes.setdefault(row["cluster_id"], []).append(row)
    for theme_id, rows in themes.items():
        yield Theme(theme_id, rows[0]["label"], tuple(rows[0]["tags"]), tuple(row["task_id"] for row in rows))


def _alike(clusters: Iterable[dict[str, Any]], tasks: Iterable[Task]) -> Iterator[tuple[tuple[str, str], ...]]:
    """Tasks that say the same, each time with the first of them."""
    content = {task.task_id: task.content_hash for task in tasks}
    doubles: dict[str, list[str]] = {}
    for row in clusters:
        if row["same_as"] is not None:
            doubles.setdefault(row["same_as"], []).append(row["task_id"])
    for first, others in doubles.items():
        yield tuple((task_id, content[task_id]) for task_id in (first, *others) if task_id in content)
