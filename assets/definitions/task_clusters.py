"""Each user's tasks clustered into themes: DuckDB joins and orders the rows, the linkage runs user by user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa

from assets.engine.asset import WorkUnit, asset
from assets.engine.checks import same_rows_as
from assets.engine.vectors import to_matrix
from contexts.themes.cluster import Clusterer, centrality, keep_ids, members
from contexts.themes.duplicates import find_duplicates
from contexts.themes.labels import ThemeTasks, label_themes
from contexts.themes.tags import ThemeTexts, tags_of

if TYPE_CHECKING:
    import duckdb

_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("text_hash", pa.string(), nullable=False),
        pa.field("connection_number", pa.int32()),  # of the account that the clustered tasks are from
        pa.field("cluster_id", pa.string()),  # null: unclustered
        pa.field("label", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("n_tasks", pa.int32(), nullable=False),
        pa.field("is_by_others", pa.bool_()),  # whether others may have added a task of the theme, so worded it
        pa.field("duplicate_of", pa.string()),  # the first task by id with the same meaning; null: no duplicate
    ]
)

_JOIN = """
    SELECT e.user_id, e.task_id, e.text_hash, t.text, t.language, t.parent_id, t.connection_number,
           t.is_by_others IS DISTINCT FROM FALSE AS is_by_others, e.position,
           CASE WHEN t.is_shared IS FALSE THEN t.project END AS own_project, p.cluster_id AS previous_id
    FROM vectors e
    JOIN todoist_tasks t USING (user_id, task_id)
    LEFT JOIN previous p USING (user_id, task_id)
    ORDER BY e.user_id, e.task_id
"""


@asset(
    step="cluster_tasks",
    schema=_SCHEMA,
    code_version="7",
    checks=(same_rows_as("task_embeddings", where="task_id"),),
    work=WorkUnit("users_clustered", per="user"),
)
def task_clusters(
    task_embeddings: Annotated[pa.Table, "user_id", "task_id", "text_hash", "embedding"],
    todoist_tasks: Annotated[
        pa.Table,
        *("user_id", "task_id", "connection_number", "text", "language", "parent_id"),
        *("is_by_others", "project", "is_shared"),
    ],
    previous: pa.Table,
    clusterer: Clusterer,
) -> pa.Table:
    """One row per task with a vector: its theme with label, tags and size, and the task that it duplicates."""
    if not len(task_embeddings):
        return _SCHEMA.empty_table()
    vectors = clusterer.center(to_matrix(task_embeddings["embedding"]).astype(np.float32))
    with _database().cursor() as connection:
        connection.register("vectors", _keys_with_positions(task_embeddings))
        connection.register("todoist_tasks", todoist_tasks)
        connection.register("previous", previous)
        tasks = connection.sql(_JOIN).to_arrow_table()
    return _cluster(tasks, vectors, clusterer) if len(tasks) else _SCHEMA.empty_table()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """Return one database for all shards of the process: opening one takes as long as the joins of a shard."""
    import duckdb

    return duckdb.connect(config={"threads": 1})


def _keys_with_positions(task_embeddings: pa.Table) -> pa.Table:
    """Return the keys with each row's position, so that DuckDB does not have to move the vectors."""
    keys = task_embeddings.select(["user_id", "task_id", "text_hash"])
    return keys.append_column("position", pa.array(np.arange(len(keys))))


@dataclass(frozen=True)
class _Theme:
    """One theme of a user. rows: the positions of its tasks in the whole table."""

    cluster_id: str
    label: str
    is_by_others: bool
    rows: np.ndarray
    texts: ThemeTexts


def _cluster(tasks: pa.Table, vectors: np.ndarray, clusterer: Clusterer) -> pa.Table:
    """Return the asset's rows for tasks ordered by user and id."""
    themes: list[_Theme] = []
    duplicate_of: list[str | None] = [None] * len(tasks)
    for user in _users(tasks, vectors):
        themes += user.themes(clusterer)
        for row, task_id in user.duplicates(clusterer):
            duplicate_of[row] = task_id
    columns = {name: tasks[name] for name in ("user_id", "task_id", "text_hash", "connection_number")}
    columns |= _theme_columns(themes, len(tasks))
    columns["duplicate_of"] = pa.array(duplicate_of, pa.string())
    return pa.table(columns).select(_SCHEMA.names).cast(_SCHEMA)


def _theme_columns(themes: Sequence[_Theme], n_tasks: int) -> dict[str, pa.Array]:
    """Return the columns that are equal for all tasks of a theme, and null or 1 for tasks without one."""
    theme_of = np.full(n_tasks, len(themes))
    for number, theme in enumerate(themes):
        theme_of[theme.rows] = number
    values: dict[str, list[Any]] = {
        "cluster_id": [theme.cluster_id for theme in themes],
        "label": [theme.label for theme in themes],
        "tags": tags_of([theme.texts for theme in themes]),
        "is_by_others": [theme.is_by_others for theme in themes],
    }
    by_theme = {name: pa.array([*each, None], _SCHEMA.field(name).type) for name, each in values.items()}
    by_theme["n_tasks"] = pa.array([*(len(theme.rows) for theme in themes), 1], pa.int32())
    positions = pa.array(theme_of)
    return {name: each.take(positions) for name, each in by_theme.items()}


@dataclass(frozen=True)
class _User:
    """One user's tasks in the order of their ids. start: the position of the first one in the whole table."""

    user_id: str
    language: str
    start: int
    task_ids: list[str]
    texts: list[str]
    parent_ids: list[str | None]
    are_by_others: list[bool]
    own_projects: list[str | None]
    previous_ids: list[str | None]
    vectors: np.ndarray

    def themes(self, clusterer: Clusterer) -> Iterator[_Theme]:
        """Cluster the tasks; a cluster keeps its previous id as long as most of its tasks stay."""
        labels = clusterer.labels(self.vectors)
        previous_ids = {task: old for task, old in zip(self.task_ids, self.previous_ids, strict=True) if old}
        ids = keep_ids(labels.tolist(), self.task_ids, previous_ids)
        groups = list(members(labels))
        themes = [self._tasks(rows) for rows in groups]
        for rows, theme, label in zip(groups, themes, label_themes(themes, self.texts, self.language), strict=True):
            yield _Theme(
                str(ids[rows[0]]),
                label,
                any(self.are_by_others[row] for row in rows),
                self.start + rows,
                ThemeTexts(self.user_id, self.language, theme.texts),
            )

    def _tasks(self, rows: np.ndarray) -> ThemeTasks:
        positions = rows.tolist()
        texts, projects = [self.texts[row] for row in positions], [self.own_projects[row] for row in positions]
        return ThemeTasks(texts, centrality(self.vectors[rows]), projects)

    def duplicates(self, clusterer: Clusterer) -> Iterator[tuple[int, str]]:
        """Yield the position of each duplicate in the whole table, with the id of the task that it duplicates."""
        originals = find_duplicates(self.texts, self.parent_ids, self.vectors, self.language, clusterer)
        for row, original in enumerate(originals):
            if row != original:
                yield self.start + row, self.task_ids[original]


def _users(tasks: pa.Table, vectors: np.ndarray) -> Iterator[_User]:
    users, positions = tasks["user_id"].to_numpy(zero_copy_only=False), tasks["position"].to_numpy()
    names = ("task_id", "text", "parent_id", "is_by_others", "own_project", "previous_id")
    task_ids, texts, parent_ids, are_by_others, own_projects, previous_ids = (
        tasks[name].to_pylist() for name in names
    )
    languages = tasks["language"]
    bounds = np.flatnonzero(users[1:] != users[:-1]) + 1
    for start, stop in zip([0, *bounds.tolist()], [*bounds.tolist(), len(users)], strict=True):
        yield _User(
            users[start],
            languages[start].as_py() or "",
            start,
            task_ids[start:stop],
            texts[start:stop],
            parent_ids[start:stop],
            are_by_others[start:stop],
            own_projects[start:stop],
            previous_ids[start:stop],
            vectors[positions[start:stop]],
        )
