"""Themes worth showing: a group of tasks is a theme only if it is more similar than a group of random tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contexts.themes.arrays import Flags, Labels, Vectors, sums_by

MIN_SPREADS_OF_A_PAIR, MIN_SPREADS = 2.75, 1.0
"""Minimum mean similarity of the pairs of a theme of two tasks, and of one of very many, in standard deviations.

In between, the difference shrinks with the number of tasks minus one. Random pairs have the similarity 0, because
vectors are centred. The mean of the user's own pairs is not used in place of 0: it moves with every edit, and with it
themes that the edit does not concern.
"""

_COSINE_DECIMALS = 5

Sums = NDArray[np.float64]


def dissolve_chance_groups(labels: Labels, vectors: Vectors, spread: float) -> Labels:
    """Return the labels after each group that is no more similar than random tasks is dissolved.

    labels: for each row, the number of the first row of its group.
    vectors: rows whose inner product is their similarity.
    spread: the standard deviation of the cosines of random pairs of the model.
    """
    if spread <= 0 or not len(labels):
        return labels
    first, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    squares = np.asarray(np.bincount(group, np.einsum("ij,ij->i", vectors, vectors)), np.float64)
    similarities = mean_pair_similarity(sums_by(group, vectors, len(first)), squares, sizes)
    least = spread * (MIN_SPREADS + (MIN_SPREADS_OF_A_PAIR - MIN_SPREADS) / np.maximum(sizes - 1, 1))
    return dissolve(labels, ((sizes > 1) & (similarities < least.round(_COSINE_DECIMALS)))[group])


def dissolve(labels: Labels, is_alone: Flags) -> Labels:
    """Return the labels after whole groups are dissolved: the label of a task is the first row of its group."""
    return np.where(is_alone, np.arange(len(labels)), labels)


def mean_pair_similarity(sums: Vectors, squares: Sums, sizes: NDArray[Any]) -> Sums:
    """Return the mean inner product of the pairs within groups of rows; 1 for a single row.

    sums: the sum of each group's rows. squares: the sum of their squared lengths.
    """
    # A sum's squared length is the sum of the rows' squared lengths plus twice the products of all pairs.
    lengths = np.einsum("ij,ij->i", sums, sums).astype(np.float64)
    means = (lengths - squares) / np.maximum(sizes * (sizes - 1), 1)
    return np.asarray(np.where(sizes > 1, means, 1.0).round(_COSINE_DECIMALS))
