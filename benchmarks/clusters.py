"""`python -m benchmarks.clusters [USERS]`: CPU of grouping users of 50 tasks beside scikit-learn, and of the asset.

The asset joins tasks with vectors, groups them, and names the themes; 400 users a shard, texts as sample users write
them, vectors of 256 drawn around topics. One thread with OMP_NUM_THREADS=1.
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
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sklearn.cluster import AgglomerativeClustering

from assets.definitions import task_clusters
from assets.definitions.vectors import to_lists
from contexts.cluster import Clusterer, Labels, Vectors
from contexts.mirror import text_hash
from local.samples import sample_texts

N_USERS, N_TASKS, DIM = 20_000, 50, 256
PER_SHARD = 400
N_BESIDE = 2000
ROUNDS = 3
N_TOPICS = 8
LARGE = (1000, 5000, 20_000)
"""Tasks of one user."""

CLUSTERER = Clusterer("topics", 0.3)

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Measure and print."""
    n_users = int(sys.argv[1]) if sys.argv[1:] else N_USERS
    rng = np.random.default_rng(0)
    console.print(_beside_sklearn([_vectors(N_TASKS, rng) for _ in range(N_BESIDE)]))
    for n in LARGE:
        vectors = _vectors(n, rng)
        seconds = cpu_seconds(partial(CLUSTERER.labels, vectors))
        console.print(f"One user of {n:,} tasks: {seconds:.2f} CPU s; {_peak_mb():.0f} MB of memory at most so far")
    _asset(n_users, rng)
    return 0


def cpu_seconds(step: Callable[[], object]) -> float:
    """Of this process."""
    began = time.process_time()
    step()
    return time.process_time() - began


def interleaved(steps: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """CPU seconds of each, medians of rounds in which they take turns."""
    rounds = [{name: cpu_seconds(step) for name, step in steps.items()} for _ in range(ROUNDS)]
    return {name: median(each[name] for each in rounds) for name in steps}


def table_of(title: str, first: str, *columns: str) -> Table:
    """An empty table; numbers stand at the right."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _vectors(n: int, rng: np.random.Generator) -> Vectors:
    """Unit rows around some topics."""
    topics = rng.standard_normal((N_TOPICS, DIM), np.float32)
    rows = topics[rng.integers(N_TOPICS, size=n)] + rng.standard_normal((n, DIM), np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _beside_sklearn(users: Sequence[Vectors]) -> Table:
    """The same groups by both; theirs also without the making of a user's matrix."""
    matrices = [distances_of(each) for each in users]
    theirs = AgglomerativeClustering(
        metric="precomputed", linkage="average", n_clusters=None, distance_threshold=1.0 - CLUSTERER.threshold
    ).fit_predict
    seconds = interleaved(
        {
            "Clusterer.labels": lambda: [CLUSTERER.labels(each) for each in users],
            "AgglomerativeClustering": lambda: [theirs(distances_of(each)) for each in users],
            "  its matrices made before": lambda: [theirs(each) for each in matrices],
        }
    )
    differ = [not _alike(CLUSTERER.labels(one), theirs(other)) for one, other in zip(users, matrices, strict=True)]
    title = f"Ours and scikit-learn's: {len(users):,} users x {N_TASKS} tasks"
    table = table_of(title, "", "CPU s", "CPU us\na task", "x ours")
    for name, each in seconds.items():
        a_task = 1e6 * each / len(users) / N_TASKS
        table.add_row(name, f"{each:.2f}", f"{a_task:.1f}", f"{each / seconds['Clusterer.labels']:.2f}")
    table.caption, table.caption_justify = f"{sum(differ)} users are grouped differently", "left"
    return table


def distances_of(vectors: Vectors) -> NDArray[np.float64]:
    """Rounded as in `Clusterer`, so that ties are the same ones."""
    return (1.0 - (vectors @ vectors.T).astype(np.float64)).round(5).clip(0.0)


def _alike(one: Labels, other: Labels) -> bool:
    """Whether the same tasks stand together, whatever the numbers."""
    return bool(np.array_equal(one[:, None] == one, other[:, None] == other))


def _asset(n_users: int, rng: np.random.Generator) -> None:
    """CPU of the asset's function, shard by shard; what it is given is made before each."""
    texts = [text for topic in sample_texts().topics if topic.lang == "en" for text in topic.texts]
    seconds, n_done = 0.0, 0
    previous = task_clusters.schema.empty_table()
    while n_done < n_users:
        n = min(PER_SHARD, n_users - n_done)
        tasks, embeddings = _shard(n_done, n, texts, rng)
        seconds += cpu_seconds(partial(task_clusters, embeddings, tasks, previous, CLUSTERER))
        n_done += n
    n_tasks = n_users * N_TASKS
    console.print(
        f"task_clusters, {n_users:,} users x {N_TASKS}: {seconds:.1f} CPU s for {n_tasks:,} vectors,"
        f" {1e6 * seconds / n_tasks:.1f} us a task, {1e6 * seconds / n_tasks:.1f} s for a million;"
        f" {_peak_mb():.0f} MB of memory at most"
    )


def _shard(first: int, n_users: int, texts: Sequence[str], rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    users = [f"user-{first + number:06d}" for number in range(n_users) for _ in range(N_TASKS)]
    task_ids = [f"t{number:03d}" for _ in range(n_users) for number in range(N_TASKS)]
    written = [texts[at] for at in rng.integers(len(texts), size=len(users))]
    vectors = np.concatenate([_vectors(N_TASKS, rng) for _ in range(n_users)])
    keys = {"user_id": users, "task_id": task_ids}
    hashes = [text_hash(text) for text in written]
    return (
        pa.table({**keys, "text": written, "language": ["en"] * len(users)}),
        pa.table({**keys, "text_hash": hashes, "embedding": to_lists(vectors)}),
    )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
