"""Array types of the embedding and clustering modules, sums of rows, and elements of blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""One vector, shape (dim,), or one row per text, shape (n, dim)."""

HalfVectors = NDArray[np.float16]
"""Vectors in the precision of the stored rows."""

Labels = NDArray[np.int64]
"""A cluster number per row, shape (n,)."""

Numbers = NDArray[np.int64]
"""Numbers of users, tasks, themes, texts or words, shape (n,)."""

Flags = NDArray[np.bool_]
"""A property of each row, shape (n,)."""


def sums_by(numbers: Numbers, rows: Vectors, n: int) -> Vectors:
    """Return the sum of the rows with each number from 0 to n - 1, shape (n, dim); negative numbers are left out."""
    # Here, because scipy takes long to import, and all definitions of assets import this module.
    from scipy.sparse import csr_array

    order = np.argsort(numbers, kind="stable")[np.count_nonzero(numbers < 0) :]
    stops = np.bincount(numbers[order] + 1, minlength=n + 1).cumsum()
    ones = np.ones(len(order), np.float32)
    return np.asarray(csr_array((ones, order, stops), shape=(n, len(rows))) @ rows)


def gather(counts: Numbers, wanted: Numbers) -> tuple[Numbers, Numbers]:
    """Return the elements of wanted blocks in an array of consecutive blocks, with the position in `wanted` of each.

    counts: the number of elements of each block.
    """
    starts = np.cumsum(counts) - counts
    lengths = counts[wanted]
    block = np.repeat(np.arange(len(wanted)), lengths)
    within = np.arange(len(block)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return starts[wanted][block] + within, block
