"""Calibration of a model from its first vectors: threshold, spread, means. Before it, no texts count as similar."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.definitions.task_embeddings import task_embeddings
from assets.definitions.todoist_tasks import todoist_tasks
from assets.engine.errors import ShardUnreadable
from assets.engine.parquet import Shards
from assets.engine.vectors import to_matrix
from contexts.themes.arrays import Vectors
from contexts.themes.calibrations import Calibrations
from contexts.themes.cluster import Calibration, calibrate

_MAX_SAMPLE_TEXTS = 5000


@dataclass(frozen=True)
class MeasuredCalibration:
    """A calibration from `n_used` distinct texts of `n_texts` rows."""

    calibration: Calibration
    n_used: int
    n_texts: int


def calibrate_model(shards: Shards, calibrations: Calibrations, model: str, *, is_provisional: bool = False) -> None:
    """Store the model's calibration, unless a good one is stored already.

    is_provisional: texts are missing, as after a first night that was broken off: calibrate again with all of them.
    """
    n_texts = _n_texts(shards)
    if n_texts and calibrations.wants(model, n_texts, is_provisional=is_provisional):
        calibration = measure_calibration(shards, model).calibration
        calibrations.set_if_better(model, calibration, n_texts, is_provisional=is_provisional)


def measure_calibration(shards: Shards, model: str) -> MeasuredCalibration:
    """Compute the model's calibration from the stored vectors without storing it."""
    vectors, languages = _sample(shards, model)
    return MeasuredCalibration(calibrate(vectors, languages), len(vectors), _n_texts(shards))


def _n_texts(shards: Shards) -> int:
    return sum(footer.n_rows for footer in shards.readable_footers(task_embeddings))


def _sample(shards: Shards, model: str) -> tuple[Vectors, list[str]]:
    """Return the vectors of distinct texts and the language of a user of each, ordered by the texts' hashes."""
    vectors: dict[str, np.ndarray] = {}
    languages: dict[str, str] = {}
    for footer in shards.readable_footers(task_embeddings):
        if len(vectors) < _MAX_SAMPLE_TEXTS:
            with suppress(ShardUnreadable):
                vectors |= _vectors_by_text(shards, footer.shard, model)
                languages |= _languages_by_text(shards, footer.shard)
    sample = sorted(vectors)[:_MAX_SAMPLE_TEXTS]
    return np.array([vectors[text] for text in sample], np.float32), [languages.get(text, "") for text in sample]


def _vectors_by_text(shards: Shards, shard: int, model: str) -> dict[str, np.ndarray]:
    """Return one model's vectors in a shard by the hash of their text."""
    with shards.open(task_embeddings, shard) as opened:
        if opened is None:
            return {}
        table = opened.read(["text_hash", "model", "embedding"])
    rows = table.filter(pc.equal(table["model"], model))
    return dict(zip(rows["text_hash"].to_pylist(), to_matrix(rows["embedding"]), strict=True))


def _languages_by_text(shards: Shards, shard: int) -> dict[str, str]:
    """Return the first language, by the alphabet, of the users in a shard who wrote a text, by the text's hash."""
    with shards.open(todoist_tasks, shard) as opened:
        if opened is None:
            return {}
        texts: pa.Table = (
            opened.read(["text_hash", "language"]).group_by("text_hash").aggregate([("language", "min")])
        )
    return dict(zip(texts["text_hash"].to_pylist(), texts["language_min"].to_pylist(), strict=True))
