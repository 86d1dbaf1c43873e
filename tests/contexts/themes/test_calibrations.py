"""The stored calibrations of models."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

from contexts.themes.calibrations import Calibrations
from contexts.themes.centering import Centering
from contexts.themes.cluster import Calibration


@pytest.fixture
def calibrations(connection: psycopg.Connection[Any]) -> Calibrations:
    return Calibrations(connection)


def threshold(calibrations: Calibrations, model: str = "m") -> float | None:
    stored = calibrations.get(model)
    return stored and stored.threshold


def test_first(calibrations: Calibrations) -> None:
    """A model's first calibration is stored for this model only, with its spread and means."""
    assert calibrations.get("m") is None
    assert calibrations.wants("m", 5)
    means = np.array([[0.1, 0.2], [0.3, -0.4]], np.float32)
    calibrations.set_if_better("m", Calibration(0.4321, 0.12, Centering(means)), 5)
    stored = calibrations.get("m")
    assert stored is not None
    assert (stored.threshold, stored.spread) == (0.4321, 0.12)
    np.testing.assert_array_equal(stored.centering.means, means)
    assert calibrations.get("other") is None


@pytest.mark.parametrize(
    ("n_first", "n_next", "is_better"),
    [(50, 499, False), (50, 500, True), (999, 9990, True), (1000, 1_000_000, False), (50, 5, False)],
)
def test_better(calibrations: Calibrations, n_first: int, n_next: int, is_better: bool) -> None:
    """A calibration from few texts is replaced by one from ten times as many; one from many texts stays."""
    calibrations.set_if_better("m", Calibration(0.4), n_first)
    assert calibrations.wants("m", n_next) is is_better
    calibrations.set_if_better("m", Calibration(0.5), n_next)
    assert threshold(calibrations) == (0.5 if is_better else 0.4)


def test_provisional(calibrations: Calibrations) -> None:
    """A provisional calibration is replaced by the first one from all texts, and never replaces a final one."""
    calibrations.set_if_better("m", Calibration(0.4), 2000, is_provisional=True)
    assert not calibrations.wants("m", 2500, is_provisional=True)
    assert calibrations.wants("m", 2500)
    calibrations.set_if_better("m", Calibration(0.5), 2500)
    assert threshold(calibrations) == 0.5
    assert not calibrations.wants("m", 2500)
    calibrations.set("m", Calibration(0.6), 50)
    assert not calibrations.wants("m", 50_000, is_provisional=True)
    calibrations.set_if_better("m", Calibration(0.7), 50_000, is_provisional=True)
    assert threshold(calibrations) == 0.6


def test_from_before_vectors_were_centred(calibrations: Calibrations, connection: psycopg.Connection[Any]) -> None:
    """A calibration without means is used as it is, and replaced by the next one that is not provisional."""
    connection.execute("INSERT INTO cluster_thresholds (model, threshold, n_texts) VALUES ('m', 0.4, 50000)")
    stored = calibrations.get("m")
    assert stored is not None
    assert (stored.threshold, stored.spread, stored.centering.version) == (0.4, 0.0, "")
    assert not calibrations.wants("m", 50_000, is_provisional=True)
    assert calibrations.wants("m", 50_000)
    calibrations.set_if_better("m", Calibration(0.2, 0.1, Centering(np.ones((1, 3), np.float32))), 50_000)
    assert threshold(calibrations) == 0.2
    assert not calibrations.wants("m", 50_000)
