"""Faults of the service under load."""

from __future__ import annotations

from faults.row import Row, require
from faults.service import ServiceTrial, service_trial


def light_load(trial: ServiceTrial) -> str:
    """Offer a load that the service holds."""
    service = trial.start()
    before = service.memory_mib()
    load = service.offer(trial.ready, rate=50, seconds=3)
    require(load.statuses == {200: 150}, f"not all were answered: {load.statuses}")
    n_logged = trial.one("SELECT count(*) FROM decisions")
    require(n_logged == 150, f"{n_logged} decisions were logged")
    return f"{load.figures()}; memory {before:.0f} -> {service.memory_mib():.0f} MiB"


ROWS = (Row("50 requests a second", "service: load", "all are answered", light_load, open=service_trial, n_quick=1),)
