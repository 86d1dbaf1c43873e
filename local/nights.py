"""Run simulated nights through Airflow and report their figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from assets.definitions import GRAPH
from contexts.postgres.run_log import AssetRun, RunLog, StepRun
from local.airflow_api import Airflow, DagRun, PrintLine
from local.environment_file import write_private

_MAX_COLUMNS = 5


@dataclass(frozen=True)
class NightFigures:
    """One night's figures.

    saved: the units of work that only a night without earlier results would have done, by the unit.
    seconds_saved: the time of these units, by the mean time of a unit so far.
    seconds: run time of the DAG runs of each step.
    """

    users: int
    users_failed: int
    todoist_calls_full: int
    todoist_calls_incremental: int
    texts_embedded: int
    users_clustered: int
    rows_written: int
    tips_written: int
    dag_runs: int
    asset_events: int
    saved: dict[str, int]
    seconds_saved: float
    seconds: dict[str, float]
    succeeded: bool


def run_night(airflow: Airflow, run_log: RunLog, started_at: datetime, print_line: PrintLine) -> NightFigures:
    """Trigger the first step, follow all DAG runs that its asset events trigger, and return the night's figures.

    started_at: an instant before the night and after the previous one.
    """
    epoch = datetime.min.replace(tzinfo=started_at.tzinfo)
    earlier = {run.asset: run for run in run_log.asset_runs_since(epoch)}
    if unpaused := airflow.unpause():
        print_line(f"  these DAGs were paused, and run again from now on: {', '.join(unpaused)}")
    airflow.trigger("fetch_signals")
    dag_runs = airflow.wait_for_runs(started_at, print_line)
    asset_runs = [run for run in run_log.asset_runs_since(started_at) if run.started_at >= started_at]
    n_events = len(airflow.events_since(started_at))
    return figures(
        earlier, asset_runs, dag_runs, mean_seconds_per_unit(run_log.step_runs_since(epoch)), n_events=n_events
    )


def figures(
    earlier: dict[str, AssetRun],
    asset_runs: Iterable[AssetRun],
    dag_runs: Iterable[DagRun],
    seconds_per_unit: Mapping[str, float],
    *,
    n_events: int,
) -> NightFigures:
    """The figures of a night.

    earlier: each asset's last run before the night.
    asset_runs, dag_runs: of the night.
    seconds_per_unit: of each unit of work.
    """
    tonight, ended = list(asset_runs), list(dag_runs)
    latest = earlier | {run.asset: run for run in tonight}
    counts: dict[str, int] = {}
    for run in tonight:
        for name, n in run.counts.items():
            counts[name] = counts.get(name, 0) + n
    n_users = latest["todoist_tasks"].n_users if "todoist_tasks" in latest else 0
    saved = _saved(latest, tonight)
    seconds: dict[str, float] = {}
    for dag_run in ended:
        seconds[dag_run.dag_id] = round(seconds.get(dag_run.dag_id, 0.0) + dag_run.seconds, 1)
    return NightFigures(
        users=n_users,
        users_failed=counts.get("users_failed", 0),
        todoist_calls_full=counts.get("todoist_calls_full", 0),
        todoist_calls_incremental=counts.get("todoist_calls_incremental", 0),
        texts_embedded=counts.get("texts_embedded", 0),
        users_clustered=sum(run.n_users_computed for run in tonight if run.asset == "task_clusters"),
        rows_written=counts.get("rows_written", 0),
        tips_written=counts.get("tips_written", 0),
        dag_runs=len(ended),
        asset_events=n_events,
        saved=saved,
        seconds_saved=round(sum(n * seconds_per_unit.get(work, 0.0) for work, n in saved.items()), 1),
        seconds=seconds,
        succeeded=bool(ended) and all(dag_run.state == "success" for dag_run in ended),
    )


def mean_seconds_per_unit(runs: Iterable[StepRun]) -> dict[str, float]:
    """The mean seconds of each unit of work in the pipeline's runs: the few units of small runs weigh little."""
    seconds, done = dict[str, float](), dict[str, float]()
    for run in runs:
        for work, n_seconds in run.seconds.items() if run.step in GRAPH.steps else ():
            seconds[work] = seconds.get(work, 0.0) + (n_seconds or 0.0)
            done[work] = done.get(work, 0.0) + (run.done.get(work) or 0.0)
    return {work: n_seconds / done[work] for work, n_seconds in seconds.items() if done[work]}


def _saved(latest: Mapping[str, AssetRun], tonight: Iterable[AssetRun]) -> dict[str, int]:
    """The number of units of work that were not done tonight because their results exist, by the unit."""
    runs, saved = list(tonight), dict[str, int]()
    for asset in GRAPH:
        if asset.work is not None and asset.name in latest:
            unit, last = asset.work.name, latest[asset.name]
            n_done = sum(run.counts.get(unit, run.n_users_computed) for run in runs if run.asset == asset.name)
            saved[unit] = max(0, (last.n_users if asset.work.per == "user" else last.n_rows) - n_done)
    return saved


def saved_nights(path: Path) -> list[NightFigures]:
    """The figures of the nights that `save_nights` wrote; none without a file.

    Raises ValueError if the file is not one of this version of `save_nights`.
    """
    if not path.exists():
        return []
    try:
        return [NightFigures(**row) for row in json.loads(path.read_text())]
    except TypeError as error:
        raise ValueError(str(error)) from None


def save_nights(nights: Iterable[NightFigures], path: Path) -> None:
    """Write the figures as a JSON list of one object per night."""
    write_private(path, json.dumps([asdict(night) for night in nights], indent=2) + "\n")


def print_nights(nights: list[NightFigures], console: Console) -> None:
    """Print the figures of the last nights as a table with one column per night."""
    table = Table(title="The nights", title_justify="left")
    table.add_column("")
    first = max(0, len(nights) - _MAX_COLUMNS)
    for number in range(first + 1, len(nights) + 1):
        table.add_column(f"night {number}", justify="right")
    for label, values in _table_rows(nights[first:]):
        table.add_row(label, *map(str, values))
    console.print(table)


def _table_rows(nights: list[NightFigures]) -> list[tuple[str, list[Any]]]:
    rows: list[tuple[str, list[Any]]] = [
        ("users", [night.users for night in nights]),
        ("  not fetched", [night.users_failed for night in nights]),
        ("Todoist calls, full", [night.todoist_calls_full for night in nights]),
        ("Todoist calls, incremental", [night.todoist_calls_incremental for night in nights]),
        ("texts embedded", [night.texts_embedded for night in nights]),
        ("users clustered", [night.users_clustered for night in nights]),
        ("context_store rows written", [night.rows_written for night in nights]),
        ("sets of tips written ahead", [night.tips_written for night in nights]),
        ("DAG runs", [night.dag_runs for night in nights]),
        ("asset events", [night.asset_events for night in nights]),
    ]
    works = dict.fromkeys(work for night in nights for work, n in night.saved.items() if n)
    rows += [(f"saved: {work.replace('_', ' ')}", [night.saved.get(work, 0) for night in nights]) for work in works]
    rows.append(("saved: seconds of work, about", [round(night.seconds_saved) for night in nights]))
    steps = dict.fromkeys(step for night in nights for step in night.seconds)
    return rows + [(f"seconds {step}", [night.seconds.get(step, "-") for night in nights]) for step in steps]
