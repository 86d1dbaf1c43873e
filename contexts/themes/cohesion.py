"""Themes worth showing: a group of tasks is one only if it is more similar than chance groups of the same user."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contexts.themes.arrays import Flags, Labels, Numbers, Vectors, sums_by

MIN_SPREADS = 2.0
"""Distance of a theme of two tasks from the mean similarity of the user's pairs, in standard deviations.

A larger theme needs less: by the square root of its number of tasks minus one, as the mean of more pairs varies less.
Chosen with `benchmarks.themes` as the largest value at which one edit changes at most 3 % of ids.
"""

_COSINE_DECIMALS = 5


def dissolve_chance_groups(labels: Labels, vectors: Vectors, users: Numbers, spread: float) -> Labels:
    """Let every task of a group that is not more similar than chance be alone.

    labels: the first row of each row's group. vectors: unit rows. users: the number of each row's user, ascending.
    spread: the standard deviation of the cosines of random pairs of the model.
    """
    if spread <= 0 or not len(labels):
        return labels
    first, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    sums = sums_by(group, vectors, len(first))
    chance = _mean_of_all_pairs(sums, sizes, users[first])
    least = chance + MIN_SPREADS * spread / np.sqrt(np.maximum(sizes - 1, 1))
    is_chance = (sizes > 1) & (mean_pair_cosine(sums, sizes) < least.round(_COSINE_DECIMALS))
    return dissolve(labels, is_chance[group])


def dissolve(labels: Labels, is_alone: Flags) -> Labels:
    """Return the labels after whole groups are dissolved: the label of a task is the first row of its group."""
    return np.where(is_alone, np.arange(len(labels)), labels)


def _mean_of_all_pairs(sums: Vectors, sizes: Numbers, users: Numbers) -> NDArray[np.float64]:
    """Return for each group the mean cosine of all pairs of its user."""
    totals, n_tasks = sums_by(users, sums, int(users[-1]) + 1), np.bincount(users, sizes)
    squares = np.einsum("ij,ij->i", totals, totals).astype(np.float64)
    return np.asarray(((squares - n_tasks) / np.maximum(n_tasks * (n_tasks - 1), 1))[users])


def mean_pair_cosine(sums: Vectors, sizes: np.ndarray) -> np.ndarray:
    """Return the mean cosine of the pairs within groups of unit rows, given each group's sum and size.

    The squared length of a sum of unit rows is their number plus twice the cosines of all pairs. 1 for a single row.
    """
    squares = np.einsum("ij,ij->i", sums, sums).astype(np.float64)
    cosines = (squares - sizes) / np.maximum(sizes * (sizes - 1), 1)
    return np.asarray(np.where(sizes > 1, cosines, 1.0).round(_COSINE_DECIMALS))
