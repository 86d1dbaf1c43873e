"""`python -m benchmarks.clusters [USERS]`: CPU time of clustering compared with scikit-learn, and of the asset.

The asset joins tasks with vectors, clusters them and names the themes: users with 50 tasks, 400 users per shard,
texts of the sample users, random vectors of length 256 around topics. Set OMP_NUM_THREADS=1 for one thread.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.cluster import AgglomerativeClustering

from assets.definitions.task_clusters import task_clusters
from assets.engine.vectors import to_lists
from benchmarks.output import numbers_table
from contexts.themes.arrays import Labels, Vectors
from contexts.themes.centering import Centering
from contexts.themes.cluster import Calibration, Clusterer
from contexts.todoist.mirror import text_hash
from local.samples import sample_texts

_N_USERS, _N_TASKS, _DIM = 20_000, 50, 256
_USERS_PER_SHARD = 400
_N_COMPARED_USERS = 2000
_N_ROUNDS = 3
_N_TOPICS = 8
_LARGE_USERS = (1000, 5000, 20_000)
"""Numbers of tasks of single users."""

_CLUSTERER = Clusterer("topics", Calibration(0.3, 0.1, Centering(np.full((1, _DIM), 1e-4, np.float32))))

_console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Measure and print."""
    n_users = int(sys.argv[1]) if sys.argv[1:] else _N_USERS
    rng = np.random.default_rng(0)
    _console.print(_compare_with_sklearn([_random_vectors(_N_TASKS, rng) for _ in range(_N_COMPARED_USERS)]))
    for n_tasks in _LARGE_USERS:
        vectors = _random_vectors(n_tasks, rng)
        seconds = cpu_seconds_of(partial(_CLUSTERER.labels, vectors))
        _console.print(f"One user with {n_tasks:,} tasks: {seconds:.2f} CPU s; peak memory {_peak_mb():.0f} MB")
    for are_distinct in (False, True):
        _measure_asset(n_users, rng, are_distinct=are_distinct)
    return 0


def cpu_seconds_of(function: Callable[[], object]) -> float:
    """Call a function and return the CPU seconds that this process spent."""
    started = time.process_time()
    function()
    return time.process_time() - started


def interleaved_cpu_seconds(functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The median CPU seconds of each function, over rounds in which the functions take turns."""
    rounds = [{name: cpu_seconds_of(function) for name, function in functions.items()} for _ in range(_N_ROUNDS)]
    return {name: median(seconds[name] for seconds in rounds) for name in functions}


def _random_vectors(n: int, rng: np.random.Generator) -> Vectors:
    """Unit rows around some topics."""
    topics = rng.standard_normal((_N_TOPICS, _DIM), np.float32)
    rows = topics[rng.integers(_N_TOPICS, size=n)] + rng.standard_normal((n, _DIM), np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _compare_with_sklearn(users: Sequence[Vectors]) -> Table:
    """Cluster the same users with both; scikit-learn also with distance matrices that are computed beforehand."""
    matrices = [cosine_distances(vectors) for vectors in users]
    sklearn_labels = AgglomerativeClustering(
        metric="precomputed", linkage="average", n_clusters=None, distance_threshold=1.0 - _CLUSTERER.threshold
    ).fit_predict
    all_seconds = interleaved_cpu_seconds(
        {
            "Clusterer.labels": lambda: [_CLUSTERER.labels(vectors) for vectors in users],
            "AgglomerativeClustering": lambda: [sklearn_labels(cosine_distances(vectors)) for vectors in users],
            "  without computing distances": lambda: [sklearn_labels(matrix) for matrix in matrices],
        }
    )
    n_different = sum(
        not _is_same_partition(_CLUSTERER.labels(vectors), sklearn_labels(matrix))
        for vectors, matrix in zip(users, matrices, strict=True)
    )
    title = f"Clusterer and scikit-learn: {len(users):,} users x {_N_TASKS} tasks"
    table = numbers_table(title, "", "CPU s", "CPU us\nper task", "relative to\nClusterer")
    for name, seconds in all_seconds.items():
        us_per_task = 1e6 * seconds / len(users) / _N_TASKS
        ratio = seconds / all_seconds["Clusterer.labels"]
        table.add_row(name, f"{seconds:.2f}", f"{us_per_task:.1f}", f"{ratio:.2f}")
    table.caption, table.caption_justify = f"{n_different} users with different clusters", "left"
    return table


def cosine_distances(vectors: Vectors) -> NDArray[np.float64]:
    """All pairwise cosine distances, shape (n, n), rounded as in `Clusterer` so that it has the same ties."""
    return (1.0 - (vectors @ vectors.T).astype(np.float64)).round(5).clip(0.0)


def _is_same_partition(labels: Labels, other_labels: Labels) -> bool:
    """Whether both put the same tasks together, under any numbering."""
    return bool(np.array_equal(labels[:, None] == labels, other_labels[:, None] == other_labels))


def _measure_asset(n_users: int, rng: np.random.Generator, *, are_distinct: bool) -> None:
    """Print the CPU time of the asset's function over all shards, without the time to generate its inputs.

    are_distinct: whether texts are mixed, so that hardly two tasks have the same one.
    """
    texts = [text for topic in sample_texts().topics if topic.lang == "en" for text in topic.texts]
    seconds, n_done = 0.0, 0
    previous = task_clusters.schema.empty_table()
    while n_done < n_users:
        n_shard_users = min(_USERS_PER_SHARD, n_users - n_done)
        tasks, embeddings = _random_shard(n_done, n_shard_users, texts, rng)
        if are_distinct:
            tasks = tasks.set_column(tasks.schema.get_field_index("text"), "text", _mix(tasks["text"]))
        seconds += cpu_seconds_of(partial(task_clusters, embeddings, tasks, previous, _CLUSTERER))
        n_done += n_shard_users
    n_tasks = n_users * _N_TASKS
    _console.print(
        f"task_clusters, {n_users:,} users x {_N_TASKS} tasks{', mixed texts' if are_distinct else ''}:"
        f" {seconds:.1f} CPU s for {n_tasks:,} vectors,"
        f" {1e6 * seconds / n_tasks:.1f} us per task, {1e6 * seconds / n_tasks:.1f} s per million;"
        f" peak memory {_peak_mb():.0f} MB"
    )


def _mix(texts: pa.ChunkedArray) -> pa.Array:
    """Return texts of which each has the first words of one task and the last words of the next."""
    words = [text.split() for text in texts.to_pylist()]
    return pa.array([" ".join(one[:3] + other[-3:]) for one, other in zip(words, words[1:] + words[:1], strict=True)])


def _random_shard(
    first_user: int, n_users: int, texts: Sequence[str], rng: np.random.Generator
) -> tuple[pa.Table, pa.Table]:
    """The columns of todoist_tasks and task_embeddings that the asset reads."""
    users = [f"user-{first_user + number:06d}" for number in range(n_users) for _ in range(_N_TASKS)]
    task_ids = [f"t{number:03d}" for _ in range(n_users) for number in range(_N_TASKS)]
    task_texts = [texts[at] for at in rng.integers(len(texts), size=len(users))]
    vectors = np.concatenate([_random_vectors(_N_TASKS, rng) for _ in range(n_users)])
    keys = {"user_id": users, "task_id": task_ids}
    hashes = [text_hash(text) for text in task_texts]
    return (
        pa.table(
            {
                **keys,
                "text": task_texts,
                "language": ["en"] * len(users),
                "connection_number": pa.nulls(len(users), pa.int32()),
                "parent_id": pa.nulls(len(users), pa.string()),
                "is_by_others": [False] * len(users),
                "project": pa.array(["Inbox", "Home", "Work", "Garden"]).take(
                    pa.array(rng.integers(4, size=len(users)))
                ),
                "is_shared": [False] * len(users),
            }
        ),
        pa.table({**keys, "text_hash": hashes, "embedding": to_lists(vectors)}),
    )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
