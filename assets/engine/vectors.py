"""Vectors in Arrow columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def to_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of lists of equal length as an array, shape (rows, dimension)."""
    if not len(column):
        return np.empty((0, 0), np.float16)
    matrix: np.ndarray = pc.list_flatten(column).to_numpy().reshape(len(column), -1)
    return matrix


def to_lists(matrix: np.ndarray) -> pa.Array:
    """Return vectors, shape (rows, dimension), as a column of float16 lists."""
    n_rows, dim = matrix.shape
    values = pa.array(matrix.astype(np.float16, copy=False).ravel(), pa.float16())
    return pa.ListArray.from_arrays(pa.array(np.arange(n_rows + 1) * dim, pa.int32()), values)
