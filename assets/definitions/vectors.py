"""Vectors in and out of an Arrow column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def to_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of equally long lists as an array, shape (rows, dimension)."""
    return (
        pc.list_flatten(column).to_numpy().reshape(len(column), -1) if len(column) else np.empty((0, 0), np.float16)
    )


def to_lists(matrix: np.ndarray) -> pa.Array:
    """Vectors, shape (rows, dimension), as a column of float16 lists."""
    n, dim = matrix.shape
    flat = pa.array(matrix.astype(np.float16, copy=False).ravel(), pa.float16())
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * dim, pa.int32()), flat)


def vectors_by_text(table: pa.Table, model: str) -> dict[str, np.ndarray]:
    """The vectors of rows of `task_embeddings` by the hash of their text, of one model only."""
    own = table.filter(pc.equal(table["model"], model))
    return dict(zip(own["text_hash"].to_pylist(), to_matrix(own["embedding"]), strict=True))
