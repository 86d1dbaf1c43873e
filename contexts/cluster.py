"""Group one user's tasks by meaning. Pure, deterministic; the caller orders tasks by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from contexts.embed import Vectors

QUANTILE = 0.75
"""Of the similarities of random pairs: what is more alike than three in four pairs belongs together."""

_DECIMALS = 5
_MAX_PAIRS = 200_000


@dataclass(frozen=True)
class Clusterer:
    """The rule for one model. threshold: cosine similarity at which groups stop being joined."""

    model: str
    threshold: float

    @property
    def version(self) -> str:
        """Other themes only for another model or threshold."""
        return f"{self.model} threshold={self.threshold:.4f}"

    def labels(self, vectors: Vectors) -> NDArray[np.int64]:
        """A group number for each unit vector, shape (n,): average linkage on cosine, cut at the threshold.

        Similarities are rounded, so that ties do not depend on the order in which a sum was made.
        """
        n = len(vectors)
        if n < 2:
            return np.zeros(n, np.int64)
        distances = np.round(1.0 - (vectors @ vectors.T)[np.triu_indices(n, 1)].astype(np.float64), _DECIMALS)
        tree = linkage(distances.clip(0.0), method="average")
        return np.asarray(fcluster(tree, 1.0 - self.threshold, criterion="distance"), np.int64)


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
    sizes = Counter(labels)
    overlaps = Counter(
        (label, former[task_id])
        for label, task_id in zip(labels, task_ids, strict=True)
        if sizes[label] > 1 and task_id in former
    )
    names: dict[int, str] = {}
    for (label, old), _ in sorted(overlaps.items(), key=lambda each: (-each[1], each[0][1], each[0][0])):
        if label not in names and old not in names.values():
            names[label] = old
    for label in sizes:
        if sizes[label] > 1 and label not in names:
            members = [task_id for each, task_id in zip(labels, task_ids, strict=True) if each == label]
            names[label] = _new_id(members, taken=names.values())
    return [names.get(label) for label in labels]


def medoid(vectors: Vectors) -> int:
    """The index of the row most alike to all others; of equals the first."""
    return int(np.argmax(np.round((vectors @ vectors.T).sum(axis=1), 4)))


def _new_id(members: Sequence[str], taken: Iterable[str]) -> str:
    digest = sha256("\n".join(members).encode()).hexdigest()
    used = set(taken)
    return next(name for start in range(52) if (name := digest[start : start + 12]) not in used)
