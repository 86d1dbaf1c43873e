"""Each user's tasks grouped into themes: DuckDB joins and orders, the linkage runs user by user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Annotated, Any

import duckdb
import numpy as np
import pyarrow as pa

from assets.asset import Work, asset
from assets.checks import same_rows_as
from assets.definitions.vectors import to_matrix
from contexts.alike import same_as
from contexts.cluster import Clusterer, centrality, keep_ids, members
from contexts.tags import ThemeWords, label_of, tags_of
from contexts.words import words

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("text_hash", pa.string(), nullable=False),
        pa.field("cluster_id", pa.string()),  # null: unclustered
        pa.field("label", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("n_tasks", pa.int32(), nullable=False),
        pa.field("same_as", pa.string()),  # the task that says the same, of several the first by id; null: none does
    ]
)

_JOINED = """
    SELECT e.user_id, e.task_id, e.text_hash, t.text, t.language, e.position, p.cluster_id AS former
    FROM vectors e
    JOIN todoist_tasks t USING (user_id, task_id)
    LEFT JOIN previous p USING (user_id, task_id)
    ORDER BY e.user_id, e.task_id
"""


@asset(
    step="cluster_tasks",
    schema=SCHEMA,
    code_version="2",
    checks=(same_rows_as("task_embeddings", where="task_id"),),
    work=Work("users_clustered", per="user"),
)
def task_clusters(
    task_embeddings: Annotated[pa.Table, "user_id", "task_id", "text_hash", "embedding"],
    todoist_tasks: Annotated[pa.Table, "user_id", "task_id", "text", "language"],
    previous: pa.Table,
    clusterer: Clusterer,
) -> pa.Table:
    """One row per task with a vector: its theme, with label, tags and size, and the task that says the same."""
    if not len(task_embeddings):
        return SCHEMA.empty_table()
    vectors = to_matrix(task_embeddings["embedding"]).astype(np.float32)
    with _database().cursor() as connection:
        connection.register("vectors", _positions(task_embeddings))
        connection.register("todoist_tasks", todoist_tasks)
        connection.register("previous", previous)
        ordered = connection.sql(_JOINED).to_arrow_table()
    return _grouped(ordered, vectors, clusterer) if len(ordered) else SCHEMA.empty_table()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """One for all shards of a process: opening one takes as long as a shard's joins."""
    return duckdb.connect(config={"threads": 1})


def _positions(task_embeddings: pa.Table) -> pa.Table:
    """The keys without the vectors, which stay where they are and are found by position."""
    keys = task_embeddings.select(["user_id", "task_id", "text_hash"])
    return keys.append_column("position", pa.array(np.arange(len(keys))))


@dataclass(frozen=True)
class _Theme:
    """rows: where its tasks stand among all."""

    cluster_id: str
    label: str
    rows: list[int]
    words: ThemeWords


def _grouped(ordered: pa.Table, vectors: np.ndarray, clusterer: Clusterer) -> pa.Table:
    """The asset's rows out of tasks ordered by user and id."""
    names = ("cluster_id", "label", "tags", "same_as")
    columns: dict[str, list[Any]] = {name: [None] * len(ordered) for name in names}
    sizes, themes = [1] * len(ordered), list[_Theme]()
    for user in _users(ordered, vectors):
        themes += user.themes(clusterer)
        for row, first in user.doubles(clusterer):
            columns["same_as"][row] = first
    for theme, tags in zip(themes, tags_of([theme.words for theme in themes]), strict=True):
        for row in theme.rows:
            columns["cluster_id"][row], columns["label"][row] = theme.cluster_id, theme.label
            columns["tags"][row], sizes[row] = tags, len(theme.rows)
    keys = {name: ordered[name] for name in ("user_id", "task_id", "text_hash")}
    made = {name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}
    return pa.table({**keys, **made, "n_tasks": pa.array(sizes, pa.int32())}).select(SCHEMA.names).cast(SCHEMA)


@dataclass(frozen=True)
class _User:
    """One user's tasks, in order of their ids; `start` is where they stand among all."""

    user_id: str
    language: str
    start: int
    task_ids: list[str]
    texts: list[str]
    former: dict[str, str]
    vectors: np.ndarray

    @cached_property
    def said(self) -> list[list[str]]:
        return [words(text) for text in self.texts]

    def themes(self, clusterer: Clusterer) -> Iterator[_Theme]:
        labels = clusterer.labels(self.vectors)
        ids = keep_ids(labels.tolist(), self.task_ids, self.former)
        for rows in members(labels):
            own = [self.texts[row] for row in rows]
            yield _Theme(
                str(ids[rows[0]]),
                label_of(own, centrality(self.vectors[rows]), self.language),
                (self.start + rows).tolist(),
                ThemeWords(self.user_id, self.language, [self.said[row] for row in rows]),
            )

    def doubles(self, clusterer: Clusterer) -> Iterator[tuple[int, str]]:
        """Where tasks stand that say the same as another, the first one with its own id."""
        first = same_as(self.said, self.vectors, self.language, clusterer)
        for row, one in enumerate(first):
            if row != one:
                yield self.start + row, self.task_ids[one]


def _users(ordered: pa.Table, vectors: np.ndarray) -> Iterator[_User]:
    users, positions = ordered["user_id"].to_numpy(zero_copy_only=False), ordered["position"].to_numpy()
    columns = {name: ordered[name].to_pylist() for name in ("task_id", "text", "language", "former")}
    bounds = np.flatnonzero(users[1:] != users[:-1]) + 1
    for start, stop in zip([0, *bounds.tolist()], [*bounds.tolist(), len(users)], strict=True):
        own = {name: values[start:stop] for name, values in columns.items()}
        former = {task: old for task, old in zip(own["task_id"], own["former"], strict=True) if old}
        language = own["language"][0] or ""
        yield _User(
            users[start], language, start, own["task_id"], own["text"], former, vectors[positions[start:stop]]
        )
