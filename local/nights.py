"""Run simulated nights through Airflow and report their figures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contexts.postgres.run_log import AssetRun, RunLog
from local.airflow_api import Airflow, DagRun, PrintLine


@dataclass(frozen=True)
class NightFigures:
    """One night's figures.

    texts_reused: tasks with a vector that was stored already.
    users_carried: users without changed clusters.
    seconds: run time of the DAG runs of each step.
    """

    users: int
    users_failed: int
    todoist_calls_full: int
    todoist_calls_incremental: int
    texts_embedded: int
    texts_reused: int
    users_clustered: int
    users_carried: int
    rows_written: int
    rows_refreshed: int
    tips_written: int
    dag_runs: int
    asset_events: int
    seconds: dict[str, float]
    succeeded: bool


def run_night(airflow: Airflow, run_log: RunLog, started_at: datetime, print_line: PrintLine) -> NightFigures:
    """Trigger the first step, follow all DAG runs that its asset events trigger, and return the night's figures.

    started_at: an instant before the night and after the previous one.
    """
    epoch = datetime.min.replace(tzinfo=started_at.tzinfo)
    earlier = {run.asset: run for run in run_log.asset_runs_since(epoch)}
    airflow.trigger("fetch_signals")
    dag_runs = airflow.wait_for_runs(started_at, print_line)
    asset_runs = [run for run in run_log.asset_runs_since(started_at) if run.started_at >= started_at]
    return figures(earlier, asset_runs, dag_runs, n_events=len(airflow.events_since(started_at)))


def figures(
    earlier: dict[str, AssetRun], asset_runs: Iterable[AssetRun], dag_runs: Iterable[DagRun], *, n_events: int
) -> NightFigures:
    """The figures of a night.

    earlier: each asset's last run before the night.
    asset_runs, dag_runs: of the night.
    """
    tonight, ended = list(asset_runs), list(dag_runs)
    latest = earlier | {run.asset: run for run in tonight}
    n_clustered = sum(run.n_users_computed for run in tonight if run.asset == "task_clusters")
    counts: dict[str, int] = {}
    for run in tonight:
        for name, n in run.counts.items():
            counts[name] = counts.get(name, 0) + n
    n_users = latest["todoist_tasks"].n_users if "todoist_tasks" in latest else 0
    n_texts = latest["task_embeddings"].n_rows if "task_embeddings" in latest else 0
    n_embedded = counts.get("texts_embedded", 0)
    seconds: dict[str, float] = {}
    for dag_run in ended:
        seconds[dag_run.dag_id] = round(seconds.get(dag_run.dag_id, 0.0) + dag_run.seconds, 1)
    return NightFigures(
        users=n_users,
        users_failed=counts.get("users_failed", 0),
        todoist_calls_full=counts.get("todoist_calls_full", 0),
        todoist_calls_incremental=counts.get("todoist_calls_incremental", 0),
        texts_embedded=n_embedded,
        texts_reused=n_texts - n_embedded,
        users_clustered=n_clustered,
        users_carried=n_users - n_clustered,
        rows_written=counts.get("rows_written", 0),
        rows_refreshed=counts.get("rows_refreshed", 0),
        tips_written=counts.get("tips_written", 0),
        dag_runs=len(ended),
        asset_events=n_events,
        seconds=seconds,
        succeeded=bool(ended) and all(dag_run.state == "success" for dag_run in ended),
    )


def save_nights(nights: Iterable[NightFigures], path: Path) -> None:
    """Write the figures as a JSON list of one object per night."""
    path.write_text(json.dumps([asdict(night) for night in nights], indent=2) + "\n")


def print_nights(nights: list[NightFigures], console: Console) -> None:
    """Print the figures as a table with one column per night."""
    table = Table(title="The nights", title_justify="left")
    table.add_column("")
    for number in range(1, len(nights) + 1):
        table.add_column(f"night {number}", justify="right")
    for label, values in _table_rows(nights):
        table.add_row(label, *map(str, values))
    console.print(table)


def _table_rows(nights: list[NightFigures]) -> list[tuple[str, list[Any]]]:
    rows: list[tuple[str, list[Any]]] = [
        ("users", [night.users for night in nights]),
        ("  not fetched", [night.users_failed for night in nights]),
        ("Todoist calls, full", [night.todoist_calls_full for night in nights]),
        ("Todoist calls, incremental", [night.todoist_calls_incremental for night in nights]),
        ("texts embedded", [night.texts_embedded for night in nights]),
        ("texts reused", [night.texts_reused for night in nights]),
        ("users clustered", [night.users_clustered for night in nights]),
        ("users carried over", [night.users_carried for night in nights]),
        ("context_store rows written", [night.rows_written for night in nights]),
        ("context_store rows only refreshed", [night.rows_refreshed for night in nights]),
        ("sets of tips written ahead", [night.tips_written for night in nights]),
        ("DAG runs", [night.dag_runs for night in nights]),
        ("asset events", [night.asset_events for night in nights]),
    ]
    steps = dict.fromkeys(step for night in nights for step in night.seconds)
    return rows + [(f"seconds {step}", [night.seconds.get(step, "-") for night in nights]) for step in steps]
