"""Calibration of a model's similarity threshold from its first vectors; before it, no texts count as similar."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.definitions.task_embeddings import task_embeddings
from assets.engine.errors import ShardUnreadable
from assets.engine.parquet import Shards
from assets.engine.vectors import to_matrix
from contexts.assembly.store import ContextStore
from contexts.themes.cluster import calibrate

_MAX_SAMPLE_TEXTS = 2000


@dataclass(frozen=True)
class Calibration:
    """A threshold (see `contexts.themes.cluster.calibrate`) from `n_used` distinct texts of `n_texts` rows."""

    threshold: float
    n_used: int
    n_texts: int


def calibrate_model(shards: Shards, store: ContextStore, model: str, *, is_provisional: bool = False) -> None:
    """Store the model's threshold, unless a good one is stored already.

    is_provisional: texts are missing, as after a first night that was broken off: calibrate again with all of them.
    """
    n_texts = _n_texts(shards)
    if n_texts and store.wants_calibration(model, n_texts, is_provisional=is_provisional):
        threshold = calibrate(_sample(shards, model))
        store.set_threshold_if_better(model, threshold, n_texts, is_provisional=is_provisional)


def measure_calibration(shards: Shards, model: str) -> Calibration:
    """Compute the model's threshold from the stored vectors without storing it."""
    sample = _sample(shards, model)
    return Calibration(calibrate(sample), len(sample), _n_texts(shards))


def _vectors_by_text(table: pa.Table, model: str) -> dict[str, np.ndarray]:
    """Return one model's vectors of `task_embeddings` rows by the hash of their text."""
    rows = table.filter(pc.equal(table["model"], model))
    return dict(zip(rows["text_hash"].to_pylist(), to_matrix(rows["embedding"]), strict=True))


def _n_texts(shards: Shards) -> int:
    return sum(footer.n_rows for footer in shards.readable_footers(task_embeddings))


def _sample(shards: Shards, model: str) -> NDArray[np.float32]:
    """Return the vectors of distinct texts, ordered by the texts' hashes so that the sample is reproducible."""
    vectors: dict[str, np.ndarray] = {}
    for footer in shards.readable_footers(task_embeddings):
        if len(vectors) < _MAX_SAMPLE_TEXTS:
            with suppress(ShardUnreadable), shards.open(task_embeddings, footer.shard) as opened:
                if opened:
                    vectors |= _vectors_by_text(opened.read(["text_hash", "model", "embedding"]), model)
    return np.array([vectors[text_hash] for text_hash in sorted(vectors)[:_MAX_SAMPLE_TEXTS]], np.float32)
