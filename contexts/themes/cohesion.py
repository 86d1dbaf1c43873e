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
    order = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(labels[order])) + 1])
    sizes = np.concatenate([starts[1:], [n]]) - starts
    sums = np.add.reduceat(vectors[order], starts, axis=0)
    total = sums.sum(axis=0)
    mean_of_all = (float(total @ total) - n) / (n * (n - 1))
    least = mean_of_all + MIN_SPREADS * spread / np.sqrt(np.maximum(sizes - 1, 1))
    is_chance = (sizes > 1) & (mean_pair_cosine(sums, sizes) < least.round(_COSINE_DECIMALS))
    if not is_chance.any():
        return labels
    is_alone = np.empty(n, bool)
    is_alone[order] = np.repeat(is_chance, sizes)
    return np.where(is_alone, labels.max() + 1 + np.arange(n), labels)


def mean_pair_cosine(sums: Vectors, sizes: np.ndarray) -> np.ndarray:
    """Return the mean cosine of the pairs within groups of unit rows, given each group's sum and size.

    The squared length of a sum of unit rows is their number plus twice the cosines of all pairs. 1 for a single row.
    """
    squares = np.einsum("ij,ij->i", sums, sums).astype(np.float64)
    cosines = (squares - sizes) / np.maximum(sizes * (sizes - 1), 1)
    return np.asarray(np.where(sizes > 1, cosines, 1.0).round(_COSINE_DECIMALS))
