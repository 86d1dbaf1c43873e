"""Themes worth showing: a group of tasks is one only if it is more similar than chance groups of the same user."""

from __future__ import annotations

import numpy as np

from contexts.themes.arrays import Labels, Vectors

MIN_SPREADS = 2.0
"""Distance of a theme of two tasks from the mean similarity of the user's pairs, in standard deviations.

A larger theme needs less: by the square root of its number of tasks minus one, as the mean of more pairs varies less.
Chosen with `benchmarks.themes` as the largest value at which one edit changes at most 3 % of ids.
"""

_COSINE_DECIMALS = 5


def dissolve_chance_groups(labels: Labels, vectors: Vectors, spread: float) -> Labels:
    """Give every task of a group that is not more similar than chance a number of its own.

    vectors: one user's unit rows. spread: the standard deviation of the cosines of random pairs of the model.
    """
    n = len(labels)
    if spread <= 0 or n < 2:
        return labels
    _, group_of = np.unique(labels, return_inverse=True)
    sizes = np.bincount(group_of)
    sums = _group_sums(vectors, group_of, len(sizes))
    least = mean_pair_cosine(vectors.sum(axis=0)[None, :], np.array([n]))[0]
    least = least + MIN_SPREADS * spread / np.sqrt(np.maximum(sizes - 1, 1))
    is_chance = (sizes > 1) & (mean_pair_cosine(sums, sizes) < np.round(least, _COSINE_DECIMALS))
    return np.where(is_chance[group_of], labels.max() + 1 + np.arange(n), labels)


def mean_pair_cosine(sums: Vectors, sizes: np.ndarray) -> np.ndarray:
    """Return the mean cosine of the pairs within groups of unit rows, given each group's sum and size.

    The squared length of a sum of unit rows is their number plus twice the cosines of all pairs. 1 for a single row.
    """
    squares = np.einsum("ij,ij->i", sums, sums).astype(np.float64)
    cosines = (squares - sizes) / np.maximum(sizes * (sizes - 1), 1)
    return np.asarray(np.where(sizes > 1, cosines, 1.0).round(_COSINE_DECIMALS))


def _group_sums(vectors: Vectors, group_of: np.ndarray, n_groups: int) -> Vectors:
    membership = np.zeros((n_groups, len(vectors)), np.float32)
    membership[group_of, np.arange(len(vectors))] = 1
    return np.asarray(membership @ vectors, np.float32)
