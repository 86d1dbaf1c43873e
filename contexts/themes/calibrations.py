"""The calibrations of models in Postgres: threshold, spread and means belong together and change together."""

from __future__ import annotations

from typing import Any

import psycopg

from contexts.postgres.sql import queries
from contexts.themes.centering import Centering
from contexts.themes.cluster import Calibration


class Calibrations:
    """The table `cluster_thresholds`, over one connection; one row per version of an embedder."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._sql = queries("calibrations")

    def get(self, model: str) -> Calibration | None:
        """Return a model's calibration; None if it is not calibrated.

        A calibration from before vectors were centred has no means and no spread.
        """
        row = self._sql.calibration(self._connection, model=model)
        if row is None:
            return None
        threshold, spread, n_means, means = row
        return Calibration(
            float(threshold),
            float(spread or 0.0),
            Centering.from_bytes(means, n_means) if n_means else Centering.none(),
        )

    def wants(self, model: str, n_texts: int, *, is_provisional: bool = False) -> bool:
        """Return whether a calibration with `n_texts` texts would be the model's first or a better one.

        is_provisional: whether these are a part of the texts; the calibration with all of them is a better one.
        """
        values = {"model": model, "n_texts": n_texts, "is_provisional": is_provisional}
        return bool(self._sql.wants_calibration(self._connection, **values))

    def set_if_better(
        self, model: str, calibration: Calibration, n_texts: int, *, is_provisional: bool = False
    ) -> None:
        """Write a model's calibration unless the stored one is good enough, see `wants`."""
        values = _values(model, calibration, n_texts) | {"is_provisional": is_provisional}
        self._sql.set_calibration_if_better(self._connection, **values)

    def set(self, model: str, calibration: Calibration, n_texts: int) -> None:
        """Write a model's calibration in place of the stored one."""
        self._sql.set_calibration(self._connection, **_values(model, calibration, n_texts))


def _values(model: str, calibration: Calibration, n_texts: int) -> dict[str, Any]:
    return {
        "model": model,
        "threshold": calibration.threshold,
        "spread": calibration.spread,
        "n_means": len(calibration.centering.means),
        "means": calibration.centering.to_bytes(),
        "n_texts": n_texts,
    }
