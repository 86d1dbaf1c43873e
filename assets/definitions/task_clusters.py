"""Each user's tasks clustered into themes.

DuckDB joins and orders the rows, the linkage runs user by user, and all themes of a shard are named at once.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.engine.asset import WorkUnit, asset
from assets.engine.checks import same_rows_as
from assets.engine.vectors import to_matrix
from contexts.themes.arrays import Numbers
from contexts.themes.cluster import Clusterer, keep_ids
from contexts.themes.cohesion import dissolve
from contexts.themes.corpus import Corpus, read_corpus
from contexts.themes.duplicates import MIN_SIMILARITY, find_duplicates
from contexts.themes.labels import label_themes
from contexts.themes.phrases import find_phrases
from contexts.themes.projects import are_scattered, one_line
from contexts.themes.tags import tags_of
from contexts.themes.themed import ThemedTasks, centrality, number_themes
from contexts.themes.word_vectors import word_vectors

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
           t.is_by_others IS DISTINCT FROM FALSE AS is_by_others, e.position, t.project,
           CASE WHEN t.is_shared IS FALSE THEN t.project END AS own_project, p.cluster_id AS previous_id
    FROM vectors e
    JOIN todoist_tasks t USING (user_id, task_id)
    LEFT JOIN previous p USING (user_id, task_id)
    ORDER BY e.user_id, e.task_id
"""


@asset(
    step="cluster_tasks",
    schema=_SCHEMA,
    code_version="10",
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
    with _database().cursor() as connection:
        connection.register("vectors", _keys_with_positions(task_embeddings))
        connection.register("todoist_tasks", todoist_tasks)
        connection.register("previous", previous)
        tasks = connection.sql(_JOIN).to_arrow_table().combine_chunks()
    vectors = to_matrix(task_embeddings["embedding"])[tasks["position"].to_numpy()]
    return _cluster(tasks, clusterer.center(vectors), clusterer)


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """Return one database for all shards of the process: opening one takes as long as the joins of a shard."""
    import duckdb

    return duckdb.connect(config={"threads": 1})


def _keys_with_positions(task_embeddings: pa.Table) -> pa.Table:
    """Return the keys with each row's position, so that DuckDB does not have to move the vectors."""
    keys = task_embeddings.select(["user_id", "task_id", "text_hash"])
    return keys.append_column("position", pa.array(np.arange(len(keys))))


def _cluster(tasks: pa.Table, vectors: np.ndarray, clusterer: Clusterer) -> pa.Table:
    """Return the asset's rows for tasks ordered by user and id."""
    if not len(tasks):
        return _SCHEMA.empty_table()
    users = _numbers(tasks["user_id"])[0]
    corpus, text = _read_texts(tasks)
    project, projects = _numbers(pc.utf8_trim_whitespace(tasks["project"].fill_null("")))
    words = word_vectors(corpus, text, project, projects)
    groups = clusterer.group(np.hstack((vectors, words)), users)
    themes = number_themes(dissolve(groups.labels, are_scattered(groups.labels, project, projects)))
    themed = _themed_tasks(tasks, users, themes, text, centrality(vectors, themes))
    columns = {name: tasks[name] for name in ("user_id", "task_id", "text_hash", "connection_number")}
    columns |= _theme_columns(tasks, themed, corpus)
    columns["duplicate_of"] = _duplicates(tasks, themed, vectors, groups.nearest, clusterer)
    return pa.table(columns).select(_SCHEMA.names).cast(_SCHEMA)


def _read_texts(tasks: pa.Table) -> tuple[Corpus, Numbers]:
    """Return the words of the distinct texts, and the number of each task's text among them."""
    text, texts = _numbers(tasks["text"])
    language, codes = _numbers(tasks["language"].fill_null(""))
    distinct, number = np.unique(text * len(codes) + language, return_inverse=True)
    corpus = read_corpus(
        [texts[each] for each in (distinct // len(codes)).tolist()],
        [codes[each] for each in (distinct % len(codes)).tolist()],
    )
    return corpus, number


def _themed_tasks(
    tasks: pa.Table, users: Numbers, themes: Numbers, text: Numbers, centralities: NDArray[np.float32]
) -> ThemedTasks:
    """Return the tasks as names of themes need them."""
    first_tasks = np.flatnonzero(np.diff(users, prepend=-1))
    languages = tasks["language"].fill_null("").take(pa.array(first_tasks)).to_pylist()
    project, projects = _numbers(pc.utf8_trim_whitespace(tasks["own_project"].fill_null("")))
    return ThemedTasks(users, themes, text, centralities, project, list(map(one_line, projects)), languages)


def _numbers(column: pa.ChunkedArray) -> tuple[Numbers, list[str]]:
    """Return the number of each value among the distinct values, and these in the order of first occurrence."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _theme_columns(tasks: pa.Table, themed: ThemedTasks, corpus: Corpus) -> dict[str, pa.Array]:
    """Return the columns that are equal for all tasks of a theme, and null or 1 for tasks without one.

    A theme that has no label is none.
    """
    labels = label_themes(themed, find_phrases(corpus))
    by_others = themed.rows[tasks["is_by_others"].to_numpy()[themed.rows]]
    values: dict[str, list[Any]] = {
        "cluster_id": [*_theme_ids(tasks, themed), None],
        "label": [*labels, None],
        "tags": [*tags_of(themed, corpus), None],
        "is_by_others": [*(np.bincount(themed.theme[by_others], minlength=themed.n_themes) > 0).tolist(), None],
        "n_tasks": [*themed.sizes.tolist(), 1],
    }
    is_named = np.array([label is not None for label in values["label"]])
    positions = pa.array(np.where(is_named[themed.theme], themed.theme, themed.n_themes))
    return {name: pa.array(each, _SCHEMA.field(name).type).take(positions) for name, each in values.items()}


def _theme_ids(tasks: pa.Table, themed: ThemedTasks) -> list[str]:
    """Return the id of each theme: a theme keeps its previous id as long as most of its tasks stay."""
    task_ids, previous_ids = tasks["task_id"].to_pylist(), tasks["previous_id"].to_pylist()
    ids: list[str] = [""] * themed.n_themes
    users, themes = themed.user[themed.rows], themed.theme[themed.rows].tolist()
    bounds = [*np.flatnonzero(np.diff(users, prepend=-1)).tolist(), len(users)]
    for start, stop in pairwise(bounds):
        rows = themed.rows[start:stop].tolist()
        own = [task_ids[row] for row in rows]
        previous = {task_ids[row]: previous_ids[row] for row in rows if previous_ids[row]}
        for theme, cluster_id in zip(themes[start:stop], keep_ids(themes[start:stop], own, previous), strict=True):
            ids[theme] = str(cluster_id)
    return ids


def _duplicates(
    tasks: pa.Table, themed: ThemedTasks, vectors: np.ndarray, nearest: np.ndarray, clusterer: Clusterer
) -> pa.Array:
    """Return for each task that duplicates one the id of that; only tasks with a near one are compared."""
    near = np.flatnonzero(nearest >= clusterer.cosine_at(MIN_SIMILARITY))
    duplicate_of: list[str | None] = [None] * len(tasks)
    bounds = [*np.flatnonzero(np.diff(themed.user[near], prepend=-1)).tolist(), len(near)]
    for start, stop in pairwise(bounds):
        rows = near[start:stop]
        own = tasks.select(["task_id", "text", "parent_id"]).take(pa.array(rows)).to_pydict()
        language = themed.languages[themed.user[rows[0]]]
        originals = find_duplicates(own["text"], own["parent_id"], vectors[rows], language, clusterer)
        for position, original in enumerate(originals):
            if position != original:
                duplicate_of[rows[position]] = own["task_id"][original]
    return pa.array(duplicate_of, pa.string())
