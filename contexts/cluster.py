"""Group one user's tasks by meaning. Pure, deterministic; the caller orders tasks by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

QUANTILE = 0.75
"""Of the similarities of random pairs: what is more alike than three in four pairs belongs together."""

AT_ONCE = 2000
"""So many tasks are compared each with each. Of a user who has more, so many are grouped, drawn by chance; the others
join the group that is nearest on average, where one is near enough, and the rest is grouped in the same way. Memory
stays that of `AT_ONCE` squared distances, time grows with the number of tasks.
"""

EVERYTHING = 2 / 3
"""A group with more than this share of a user's tasks, where they are `ENOUGH`, tells nothing: it is dissolved. A
model that does not know the language finds all its texts alike.
"""

ENOUGH = 9

_DECIMALS = 5
_MAX_PAIRS = 200_000
_BLOCK = 4096

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Clusterer:
    """The rule for one model. threshold: cosine similarity at which groups stop being joined."""

    model: str
    threshold: float

    @property
    def version(self) -> str:
        """Other themes only for another model or threshold."""
        return f"{self.model} threshold={self.threshold:.4f}"

    def labels(self, vectors: Vectors) -> Labels:
        """A group number for each unit vector, shape (n,): average linkage on cosine, cut at the threshold.

        Similarities are rounded, so that ties do not depend on the order in which a sum was made.
        """
        n = len(vectors)
        return _without_everything(self._linked(vectors) if n <= AT_ONCE else self._joined(vectors))

    def share(self, share: float) -> float:
        """A cosine that lies between the threshold (0) and identity (1): it means the same whatever the model."""
        return self.threshold + share * (1 - self.threshold)

    def _linked(self, vectors: Vectors) -> Labels:
        n = len(vectors)
        if n < 2:
            return np.ones(n, np.int64)
        similarities = vectors @ vectors.T
        np.fill_diagonal(similarities, 1)
        distances = squareform(1 - similarities, checks=False).astype(np.float64)
        return _cut(linkage(distances.round(_DECIMALS).clip(0.0), method="average"), 1.0 - self.threshold)

    def _joined(self, vectors: Vectors) -> Labels:
        """Of more tasks than `AT_ONCE`: some are grouped, the others join them where they are near, and so on."""
        found, left = np.zeros(len(vectors), np.int64), _shuffled(vectors)
        while len(left):
            drawn = left[:AT_ONCE]
            found[drawn] = found.max() + self._linked(vectors[drawn])
            rest = left[AT_ONCE:]
            found[rest] = self._nearest(vectors[rest], vectors[drawn], found[drawn])
            left = rest[found[rest] == 0]
        return found

    def _nearest(self, vectors: Vectors, grouped: Vectors, labels: Labels) -> Labels:
        """The group of highest mean cosine to each vector, 0 where none reaches the threshold."""
        numbers, at = np.unique(labels, return_inverse=True)
        means = np.zeros((len(numbers), vectors.shape[1]), np.float32)
        np.add.at(means, at, grouped)
        means /= np.bincount(at)[:, None]
        found = np.zeros(len(vectors), np.int64)
        for start in range(0, len(vectors), _BLOCK):
            cosines = np.round(vectors[start : start + _BLOCK] @ means.T, _DECIMALS)
            is_near = cosines.max(axis=1) >= self.threshold
            found[start : start + _BLOCK] = np.where(is_near, numbers[cosines.argmax(axis=1)], 0)
        return found


def calibrate(vectors: Vectors) -> float:
    """A model's threshold: the 0.75 quantile of the cosine of pairs of distinct texts.

    vectors: unit rows in a fixed order; at most 200,000 pairs are drawn, with a fixed seed.
    """
    n = len(vectors)
    if n < 2:
        return 0.5
    pairs = np.random.default_rng(0).integers(0, n, (min(_MAX_PAIRS, n * n), 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    cosines = np.einsum("ij,ij->i", vectors[pairs[:, 0]], vectors[pairs[:, 1]])
    return round(float(np.quantile(cosines, QUANTILE)), 4)


def keep_ids(labels: Sequence[int], task_ids: Sequence[str], former: Mapping[str, str]) -> list[str | None]:
    """A lasting id for each task's group, None for a task alone ("unclustered").

    former: the id that a task had. A group takes the id with which it shares most tasks, the greatest share first;
    a group that shares none gets a hash of its members.
    """
    groups: dict[int, list[str]] = {}
    for label, task_id in zip(labels, task_ids, strict=True):
        groups.setdefault(label, []).append(task_id)
    real = {label: own for label, own in groups.items() if len(own) > 1}
    overlaps = Counter((label, former[each]) for label, own in real.items() for each in own if each in former)
    names: dict[int, str] = {}
    for (label, old), _ in sorted(overlaps.items(), key=lambda each: (-each[1], each[0][1], each[0][0])):
        if label not in names and old not in names.values():
            names[label] = old
    for label, own in real.items():
        if label not in names:
            names[label] = _new_id(own, taken=names.values())
    return [names.get(label) for label in labels]


def members(labels: Labels) -> Iterator[NDArray[np.int64]]:
    """The positions of each group of two or more, the group that begins first first."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return iter(sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0])))


def centrality(vectors: Vectors) -> NDArray[np.float32]:
    """The mean cosine of each unit row to all of them, shape (n,)."""
    return np.asarray(vectors @ (vectors.sum(axis=0) / np.float32(len(vectors))), np.float32)


def _shuffled(vectors: Vectors) -> NDArray[np.int64]:
    """Positions in an order by chance that stays: with a task more or less the others keep theirs."""
    marks = [sha256(row.tobytes()).digest() for row in vectors]
    return np.array(sorted(range(len(marks)), key=marks.__getitem__), np.int64)


def _cut(tree: NDArray[np.float64], height: float) -> Labels:
    """A number for each leaf of a tree of `linkage`, equal for those that are joined at `height` or below.

    What scipy's `fcluster` gives, in a tenth of its time for a few dozen leaves: heights never fall in such a tree.
    """
    n_joined = int(np.searchsorted(tree[:, 2], height, side="right"))
    n_leaves = len(tree) + 1
    tops = list(range(1, n_leaves + n_joined + 1))
    joined = tree[:n_joined, :2].astype(np.int64).tolist()
    for node in range(n_joined - 1, -1, -1):
        one, other = joined[node]
        tops[one] = tops[other] = tops[n_leaves + node]
    return np.array(tops[:n_leaves], np.int64)


def _without_everything(labels: Labels) -> Labels:
    """Labels in which a group that holds nearly all is dissolved into tasks alone."""
    n = len(labels)
    sizes = np.bincount(labels) if n >= ENOUGH else np.zeros(1)
    if sizes.max() <= EVERYTHING * n:
        return labels
    return np.where(labels == sizes.argmax(), labels.max() + 1 + np.arange(n), labels)


def _new_id(members: Sequence[str], taken: Iterable[str]) -> str:
    digest = sha256("\n".join(members).encode()).hexdigest()
    used = set(taken)
    return next(name for start in range(52) if (name := digest[start : start + 12]) not in used)
