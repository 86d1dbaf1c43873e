"""The table of step runs that analysts read: a row for each run and kind of work."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import pyarrow as pa

from contexts.postgres.run_log import StepRun

STEP_RUNS = "step_runs"

STEP_RUN_PERIOD = timedelta(days=400)
"""The period that the table covers; Postgres keeps runs for RUN_LOG_DAYS."""

STEP_RUN_SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),  # 'serving': a day of the request path
        pa.field("started_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("finished_at", pa.timestamp("us", "UTC")),  # null: the run did not finish
        pa.field("work", pa.string(), nullable=False),
        pa.field("planned", pa.float64()),
        pa.field("done", pa.float64()),
        pa.field("saved", pa.float64()),
        pa.field("seconds", pa.float64()),
    ]
)


def step_run_table(runs: Iterable[StepRun]) -> pa.Table:
    """Return a row for each kind of work of each run."""
    rows = [
        {
            **{name: getattr(run, name) for name in ("run_id", "step", "started_at", "finished_at")},
            "work": work,
            **{name: getattr(run, name).get(work) for name in ("planned", "done", "saved", "seconds")},
        }
        for run in runs
        for work in dict.fromkeys([*run.planned, *run.done, *run.saved])
    ]
    return pa.Table.from_pylist(rows, schema=STEP_RUN_SCHEMA)
