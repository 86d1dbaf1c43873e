"""Themes worth showing: a group of tasks is one only if it is more similar than chance groups of the same user."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contexts.themes.arrays import Flags, Labels, Numbers, Vectors, sums_by

MIN_SPREADS_OF_A_PAIR, MIN_SPREADS = 3.0, 0.75
"""Distances of a theme of two tasks, and of one of very many, from the mean similarity of the user's pairs.

In standard deviations. In between, the difference shrinks with the number of tasks minus one.
"""

_COSINE_DECIMALS = 5

Sums = NDArray[np.float64]


def dissolve_chance_groups(labels: Labels, vectors: Vectors, users: Numbers, spread: float) -> Labels:
    """Let every task of a group that is not more similar than chance be alone.

    labels: the first row of each row's group. vectors: rows whose inner product is their similarity.
    users: the number of each row's user, ascending.
    spread: the standard deviation of the cosines of random pairs of the model.
    """
    if spread <= 0 or not len(labels):
        return labels
    first, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    sums = sums_by(group, vectors, len(first))
    squares = _sums_of(group, np.einsum("ij,ij->i", vectors, vectors))
    chance = _mean_of_all_pairs(sums, squares, sizes, users[first])
    least = chance + spread * (MIN_SPREADS + (MIN_SPREADS_OF_A_PAIR - MIN_SPREADS) / np.maximum(sizes - 1, 1))
    is_chance = (sizes > 1) & (mean_pair_similarity(sums, squares, sizes) < least.round(_COSINE_DECIMALS))
    return dissolve(labels, is_chance[group])


def dissolve(labels: Labels, is_alone: Flags) -> Labels:
    """Return the labels after whole groups are dissolved: the label of a task is the first row of its group."""
    return np.where(is_alone, np.arange(len(labels)), labels)


def _sums_of(numbers: Numbers, values: NDArray[np.floating[Any]]) -> Sums:
    """Return the sum of the values with each number."""
    return np.asarray(np.bincount(numbers, values), np.float64)


def _mean_of_all_pairs(sums: Vectors, squares: Sums, sizes: Numbers, users: Numbers) -> Sums:
    """Return for each group the mean similarity of all pairs of its user."""
    totals = sums_by(users, sums, int(users[-1]) + 1)
    return np.asarray(_mean_of_pairs(totals, _sums_of(users, squares), np.bincount(users, sizes))[users])


def mean_pair_similarity(sums: Vectors, squares: Sums, sizes: NDArray[Any]) -> Sums:
    """Return the mean inner product of the pairs within groups of rows; 1 for a single row.

    sums: the sum of each group's rows. squares: the sum of their squared lengths.
    """
    means = _mean_of_pairs(sums, squares, sizes)
    return np.asarray(np.where(sizes > 1, means, 1.0).round(_COSINE_DECIMALS))


def _mean_of_pairs(sums: Vectors, squares: Sums, sizes: NDArray[Any]) -> Sums:
    """A sum's squared length is the sum of the rows' squared lengths plus twice the products of all pairs."""
    lengths = np.einsum("ij,ij->i", sums, sums).astype(np.float64)
    return np.asarray((lengths - squares) / np.maximum(sizes * (sizes - 1), 1))
