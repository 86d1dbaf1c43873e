"""Each user's tasks grouped into themes: DuckDB joins, orders and summarises, the linkage runs user by user."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import duckdb
import numpy as np
import pyarrow as pa

from assets.asset import Work, asset
from assets.checks import same_rows_as
from assets.definitions.vectors import to_matrix
from contexts.cluster import Clusterer, keep_ids, medoid
from contexts.tags import tags_of

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("text_hash", pa.string(), nullable=False),
        pa.field("cluster_id", pa.string()),  # null: unclustered
        pa.field("label", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("n_tasks", pa.int32(), nullable=False),
    ]
)

_JOINED = """
    SELECT e.user_id, e.task_id, e.text_hash, t.text, e.position, p.cluster_id AS former
    FROM vectors e
    JOIN todoist_tasks t USING (user_id, task_id)
    LEFT JOIN previous p USING (user_id, task_id)
    ORDER BY e.user_id, e.task_id
"""

_SUMMARISED = """
    SELECT g.user_id, g.task_id, g.text_hash, g.cluster_id,
           max(g.text) FILTER (g.is_medoid) OVER theme AS label,
           CASE WHEN g.cluster_id IS NOT NULL THEN g.tags END AS tags,
           CASE WHEN g.cluster_id IS NULL THEN 1 ELSE count(*) OVER theme END AS n_tasks
    FROM grouped g
    WINDOW theme AS (PARTITION BY g.user_id, g.cluster_id)
"""


@asset(
    step="cluster_tasks",
    schema=SCHEMA,
    code_version="1",
    checks=(same_rows_as("task_embeddings", where="task_id"),),
    work=Work("users_clustered", per="user"),
)
def task_clusters(
    task_embeddings: Annotated[pa.Table, "user_id", "task_id", "text_hash", "embedding"],
    todoist_tasks: Annotated[pa.Table, "user_id", "task_id", "text"],
    previous: pa.Table,
    clusterer: Clusterer,
) -> pa.Table:
    """One row per task with a vector: its theme, the theme's label (the medoid's text), tags and size."""
    if not len(task_embeddings):
        return SCHEMA.empty_table()
    vectors = to_matrix(task_embeddings["embedding"]).astype(np.float32)
    with _database().cursor() as connection:
        connection.register("vectors", _positions(task_embeddings))
        connection.register("todoist_tasks", todoist_tasks)
        connection.register("previous", previous)
        ordered = connection.sql(_JOINED).to_arrow_table()
        connection.register("grouped", _group(ordered, vectors, clusterer))
        return connection.sql(_SUMMARISED).to_arrow_table().cast(SCHEMA)


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """One for all shards of a process: opening one takes as long as a shard's joins."""
    return duckdb.connect(config={"threads": 1})


def _positions(task_embeddings: pa.Table) -> pa.Table:
    """The keys without the vectors, which stay where they are and are found by position."""
    keys = task_embeddings.select(["user_id", "task_id", "text_hash"])
    return keys.append_column("position", pa.array(np.arange(len(keys))))


def _group(ordered: pa.Table, vectors: np.ndarray, clusterer: Clusterer) -> pa.Table:
    """`ordered` (by user, then task) with cluster_id, tags, and which task is its theme's medoid."""
    users = ordered["user_id"].to_numpy(zero_copy_only=False)
    bounds = np.flatnonzero(users[1:] != users[:-1]) + 1
    parts = [
        _group_user(ordered.slice(start, stop - start), vectors, clusterer)
        for start, stop in zip([0, *bounds], [*bounds, len(users)], strict=True)
    ]
    return pa.concat_tables(parts)


def _group_user(tasks: pa.Table, vectors: np.ndarray, clusterer: Clusterer) -> pa.Table:
    own = vectors[tasks["position"].to_numpy()]
    texts, task_ids = tasks["text"].to_pylist(), tasks["task_id"].to_pylist()
    former = {task: old for task, old in zip(task_ids, tasks["former"].to_pylist(), strict=True) if old}
    cluster_ids = keep_ids(clusterer.labels(own).tolist(), task_ids, former)
    members: dict[str, list[int]] = {}
    for position, cluster_id in enumerate(cluster_ids):
        if cluster_id is not None:
            members.setdefault(cluster_id, []).append(position)
    medoids = {own_rows[medoid(own[own_rows])] for own_rows in members.values()}
    tags = tags_of({cluster_id: [texts[row] for row in rows] for cluster_id, rows in members.items()})
    return (
        tasks.select(["user_id", "task_id", "text_hash", "text"])
        .append_column("cluster_id", pa.array(cluster_ids, pa.string()))
        .append_column("tags", pa.array([tags.get(each or "", []) for each in cluster_ids], pa.list_(pa.string())))
        .append_column("is_medoid", pa.array([row in medoids for row in range(len(tasks))]))
    )
