"""Clusters of one user's tasks by meaning. Pure and deterministic; callers order tasks by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from contexts.themes.arrays import HalfVectors, Labels, Numbers, Vectors
from contexts.themes.centering import Centering, fit_centering
from contexts.themes.cohesion import dissolve, dissolve_chance_groups

THRESHOLD_QUANTILE = 0.885
"""Quantile of the cosines of random pairs that becomes the threshold of a model.

A lower one agrees better with labels, and a higher one changes fewer ids after an edit, see `benchmarks.themes`.
"""

MIN_CENTRED_TEXTS = 100
"""From fewer texts only a threshold is calibrated, because their mean and spread would be those of a few users."""

MAX_PAIRWISE_TASKS = 2000
"""Number of tasks that are compared pairwise.

If a user has more, a random sample of this size is clustered, other tasks join the nearest cluster within the
threshold, and the rest is clustered in the same way. Memory is bounded by the square of this number, and time is
linear in the number of tasks.
"""

MAX_CLUSTER_SHARE = 2 / 3
"""A cluster with a larger share of a user's tasks is dissolved, because it carries no information.

A model that does not know the user's language finds all of its texts similar.
"""

MIN_TASKS_TO_DISSOLVE = 9
"""A user with fewer tasks keeps clusters of any share."""

_COSINE_DECIMALS = 5
_DECIMALS = 4
_DEFAULT_THRESHOLD = 0.5
_MAX_CALIBRATION_PAIRS = 200_000
_BLOCK_ROWS = 4096
_ID_HEX_DIGITS = 12


@dataclass(frozen=True)
class Calibration:
    """The properties of a model's vectors on which clusters depend.

    threshold: minimum mean cosine of two clusters that are merged.
    spread: standard deviation of the cosines of random pairs; 0 if every group of two or more tasks is a theme.
    centering: applied to the vectors before anything else, also before the other two are measured.
    """

    threshold: float
    spread: float = 0.0
    centering: Centering = field(default_factory=Centering.none)

    @property
    def version(self) -> str:
        """The calibration's identity."""
        spread = f" spread={self.spread:.4f}" if self.spread else ""
        means = f" means={self.centering.version}" if self.centering.version else ""
        return f"threshold={self.threshold:.4f}{spread}{means}"


@dataclass(frozen=True, eq=False)
class Groups:
    """The clusters of some users' rows.

    labels: for each row, the number of the first row of its cluster.
    nearest: the cosine of each row to the nearest other row of its user, or 1 if it is not known; shape (n,).
    """

    labels: Labels
    nearest: Vectors


@dataclass(frozen=True)
class Clusterer:
    """The clustering rule for one model."""

    model: str
    calibration: Calibration

    @property
    def version(self) -> str:
        """The rule's identity; themes are recomputed if it changes."""
        return f"{self.model} {self.calibration.version}"

    @property
    def threshold(self) -> float:
        """The minimum mean cosine of two clusters that are merged."""
        return self.calibration.threshold

    def center(self, vectors: Vectors | HalfVectors) -> Vectors:
        """Return the model's vectors as all other methods want them, see `Centering.apply`."""
        return self.calibration.centering.apply(vectors)

    def labels(self, vectors: Vectors) -> Labels:
        """Return the cluster number of each unit row of one user, see `group`."""
        return self.group(vectors, np.zeros(len(vectors), np.int64)).labels

    def group(self, vectors: Vectors, users: Numbers) -> Groups:
        """Cluster the unit rows of each user: average linkage on cosine distance, cut at the threshold.

        users: a number for each row, ascending.

        Clusters that are no more similar than chance are dissolved, see `contexts.themes.cohesion`.
        Cosines are rounded, so that ties do not depend on the order of floating-point sums.
        """
        labels, nearest = np.zeros(len(vectors), np.int64), np.ones(len(vectors), np.float32)
        starts = np.flatnonzero(np.diff(users, prepend=-1)).tolist()
        for start, stop in pairwise([*starts, len(users)]):
            own, rows = vectors[start:stop], slice(start, stop)
            if len(own) <= MAX_PAIRWISE_TASKS:
                labels[rows], nearest[rows] = self._cluster_pairwise(own)
            else:
                labels[rows] = self._cluster_in_rounds(own)
            labels[rows] += 2 * start  # a user of n rows has numbers up to 2 n
        _, first, cluster = np.unique(labels, return_index=True, return_inverse=True)
        labels = _dissolve_dominant(first[cluster], users)
        return Groups(dissolve_chance_groups(labels, vectors, self.calibration.spread), nearest)

    def cosine_at(self, similarity: float) -> float:
        """Return the cosine of a similarity on a scale from 0 (the threshold) to 1 (identical), for any model."""
        return self.threshold + similarity * (1 - self.threshold)

    def _cluster_pairwise(self, vectors: Vectors) -> tuple[Labels, Vectors]:
        """Return the labels of rows, and the cosine of each to the nearest other row."""
        # Here, because scipy takes a quarter of the time in which the definitions of assets are imported.
        from fastcluster import linkage
        from scipy.spatial.distance import squareform

        n = len(vectors)
        if n < 2:
            return np.ones(n, np.int64), np.full(n, -1, np.float32)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1)
        nearest = cosines.max(axis=1).round(_COSINE_DECIMALS)
        distances = squareform(1 - cosines, checks=False).astype(np.float64)
        tree = linkage(distances.round(_COSINE_DECIMALS).clip(0.0), method="average", preserve_input=False)
        return _cut(tree, 1.0 - self.threshold), nearest

    def _cluster_in_rounds(self, vectors: Vectors) -> Labels:
        """Cluster a sample, assign near rows to its clusters, and repeat with the remaining rows."""
        labels, remaining = np.zeros(len(vectors), np.int64), _stable_shuffle(vectors)
        while len(remaining):
            sample, others = remaining[:MAX_PAIRWISE_TASKS], remaining[MAX_PAIRWISE_TASKS:]
            labels[sample] = labels.max() + self._cluster_pairwise(vectors[sample])[0]
            labels[others] = self._nearest_clusters(vectors[others], vectors[sample], labels[sample])
            remaining = others[labels[others] == 0]
        return labels

    def _nearest_clusters(self, vectors: Vectors, clustered: Vectors, labels: Labels) -> Labels:
        """Return the cluster with the highest mean cosine to each row, or 0 if none reaches the threshold."""
        clusters, members_of = np.unique(labels, return_inverse=True)
        means = np.zeros((len(clusters), vectors.shape[1]), np.float32)
        np.add.at(means, members_of, clustered)
        means /= np.bincount(members_of)[:, None]
        nearest = np.zeros(len(vectors), np.int64)
        for start in range(0, len(vectors), _BLOCK_ROWS):
            cosines = np.round(vectors[start : start + _BLOCK_ROWS] @ means.T, _COSINE_DECIMALS)
            is_near = cosines.max(axis=1) >= self.threshold
            nearest[start : start + _BLOCK_ROWS] = np.where(is_near, clusters[cosines.argmax(axis=1)], 0)
        return nearest


def calibrate(vectors: Vectors, languages: Sequence[str]) -> Calibration:
    """Return a model's calibration from the vectors of distinct texts; from one text or none, a threshold of 0.5.

    vectors: unit rows in a fixed order; at most 200,000 pairs are drawn, with a fixed seed.
    languages: the language of each text's user.
    """
    n = len(vectors)
    if n < 2:
        return Calibration(_DEFAULT_THRESHOLD)
    is_large = n >= MIN_CENTRED_TEXTS
    centering = fit_centering(vectors, languages) if is_large else Centering.none()
    centred = centering.apply(vectors)
    pairs = np.random.default_rng(0).integers(0, n, (min(_MAX_CALIBRATION_PAIRS, n * n), 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    cosines = np.einsum("ij,ij->i", centred[pairs[:, 0]], centred[pairs[:, 1]])
    threshold = float(np.quantile(cosines, THRESHOLD_QUANTILE))
    spread = round(float(cosines.std()), _DECIMALS) if is_large else 0.0
    return Calibration(round(threshold, _DECIMALS), spread, centering)


def keep_ids(labels: Sequence[int], task_ids: Sequence[str], previous_ids: Mapping[str, str]) -> list[str | None]:
    """Return a stable cluster id for each task, or None for a task alone in its cluster ("unclustered").

    previous_ids: the previous cluster id of each task. A cluster takes the previous id that it shares most tasks
    with, the largest overlap first; a cluster without a shared id gets a hash of its members.
    """
    groups: dict[int, list[str]] = {}
    for label, task_id in zip(labels, task_ids, strict=True):
        groups.setdefault(label, []).append(task_id)
    clusters = {label: group for label, group in groups.items() if len(group) > 1}
    ids = _kept_ids(clusters, previous_ids) if previous_ids else {}
    used = set(ids.values())
    for label, group in clusters.items():
        if label not in ids:
            ids[label] = _new_id(group, used)
            used.add(ids[label])
    return [ids.get(label) for label in labels]


def _kept_ids(clusters: Mapping[int, Sequence[str]], previous_ids: Mapping[str, str]) -> dict[int, str]:
    """Return the previous id that each cluster takes; clusters that share no task with one are left out."""
    overlaps = Counter(
        (label, previous_ids[task_id])
        for label, group in clusters.items()
        for task_id in group
        if task_id in previous_ids
    )
    ids: dict[int, str] = {}
    used: set[str] = set()
    for (label, previous_id), _ in sorted(overlaps.items(), key=lambda item: (-item[1], item[0][1], item[0][0])):
        if label not in ids and previous_id not in used:
            ids[label] = previous_id
            used.add(previous_id)
    return ids


def members(labels: Labels) -> Iterator[NDArray[np.int64]]:
    """Return the row numbers of each cluster of two or more, in order of the first row."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return iter(sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0])))


def _stable_shuffle(vectors: Vectors) -> NDArray[np.int64]:
    """Return row numbers in a pseudo-random order; adding or removing a row leaves the order of the others."""
    digests = [sha256(row.tobytes()).digest() for row in vectors]
    return np.array(sorted(range(len(digests)), key=digests.__getitem__), np.int64)


def _cut(tree: NDArray[np.float64], height: float) -> Labels:
    """Return a number for each leaf of a `linkage` tree, equal for leaves that are merged at `height` or below.

    The clusters are those of scipy's `fcluster`, in a tenth of its time for a few dozen leaves, because the merge
    heights of an average-linkage tree never decrease.
    """
    n_merges = int(np.searchsorted(tree[:, 2], height, side="right"))
    n_leaves = len(tree) + 1
    tops = list(range(1, n_leaves + n_merges + 1))
    merges = tree[:n_merges, :2].astype(np.int64).tolist()
    for merge in range(n_merges - 1, -1, -1):
        left, right = merges[merge]
        tops[left] = tops[right] = tops[n_leaves + merge]
    return np.array(tops[:n_leaves], np.int64)


def _dissolve_dominant(labels: Labels, users: Numbers) -> Labels:
    """Return the labels after each dominant cluster is dissolved, see `MAX_CLUSTER_SHARE`."""
    sizes = np.bincount(labels)[labels]
    n_tasks = np.bincount(users, minlength=1)[users]
    return dissolve(labels, (n_tasks >= MIN_TASKS_TO_DISSOLVE) & (sizes > MAX_CLUSTER_SHARE * n_tasks))


def _new_id(task_ids: Sequence[str], used_ids: Collection[str]) -> str:
    digest = sha256("\n".join(task_ids).encode()).hexdigest()
    start = 0
    while (new_id := digest[start : start + _ID_HEX_DIGITS]) in used_ids:
        start += 1
    return new_id
