"""The name under which Airflow lists a worker of a local cluster: all of them run on one machine."""

from __future__ import annotations

import os

VARIABLE = "WORKER_NAME"


def worker_name() -> str:
    """The name of the worker whose process this is; Airflow calls it by the setting `hostname_callable`."""
    return os.environ[VARIABLE]
