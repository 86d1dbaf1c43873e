"""Array types of the embedding and clustering modules."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""One vector, shape (dim,), or one row per text, shape (n, dim)."""

HalfVectors = NDArray[np.float16]
"""Vectors in the precision of the stored rows."""

Labels = NDArray[np.int64]
"""A cluster number per row, shape (n,)."""
