"""A model's similarity threshold, chosen from its first vectors: before it, nothing is alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assets.definitions.task_embeddings import task_embeddings
from assets.definitions.vectors import vectors_by_text
from assets.parquet import Shards
from contexts.cluster import calibrate
from contexts.store import ContextStore

_N_TEXTS = 2000


@dataclass(frozen=True)
class Calibration:
    """threshold: see contexts.cluster.calibrate; n_used: the distinct texts that it comes from, of `n_texts` rows."""

    threshold: float
    n_used: int
    n_texts: int


def calibrate_model(shards: Shards, store: ContextStore, model: str) -> None:
    """Keep the model's threshold, if it has none or one of few texts."""
    n_texts = _n_texts(shards)
    if n_texts and store.wants_calibration(model, n_texts):
        store.keep_threshold(model, calibrate(_sample(shards, model)), n_texts)


def measured(shards: Shards, model: str) -> Calibration:
    """What calibrating anew would give."""
    sample = _sample(shards, model)
    return Calibration(calibrate(sample), len(sample), _n_texts(shards))


def _n_texts(shards: Shards) -> int:
    return sum(footer.n_rows for footer in shards.readable_footers(task_embeddings))


def _sample(shards: Shards, model: str) -> NDArray[np.float32]:
    """Vectors of distinct texts by one model, in the order of the texts' hashes."""
    found: dict[str, np.ndarray] = {}
    for footer in shards.readable_footers(task_embeddings):
        if len(found) < _N_TEXTS:
            with shards.open(task_embeddings, footer.shard) as opened:
                if opened:
                    found |= vectors_by_text(opened.read(["text_hash", "model", "embedding"]), model)
    return np.array([found[key] for key in sorted(found)[:_N_TEXTS]], np.float32)
