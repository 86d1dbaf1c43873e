"""The chain of DAGs through a whole Airflow: seconds, task instances and CPU of nights, read through its REST API.

    USERS=64 N_SHARDS=8 python -m benchmarks.chain

The night's changes are those of the sample users: each night after the first one user changed some tasks; an
unchanged night follows each of them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import psutil
from rich.console import Console

from assets.definitions import GRAPH
from benchmarks.output import LOCAL_FOLDER, numbers_table
from contexts.settings import Settings, read_settings
from local import services
from local.airflow import running_airflow
from local.airflow_api import Airflow
from local.checkpoint import save_tiny_nomic
from local.clock import utc_now
from local.context_store import running_context_store
from local.local_run import local_run
from local.postgres import airflow_url, create_database
from local.scenario import scenario_from_environment

_FOLDER = LOCAL_FOLDER / "bench-chain"
_LAST_STEP = "compute_context"
_N_NIGHTS = 3
_STARTED = {"success", "failed"}
"""States of task instances for which a process was started, unless the task is empty."""

_console = Console(highlight=False)


@dataclass(frozen=True)
class ChainNight:
    """A night.

    seconds: from the trigger to the end of the last run that makes contexts. work_s: seconds of the longest `compute`
    of each DAG run, summed. n_tasks: task instances that had a process. cpu_s: of all of Airflow's processes.
    """

    name: str
    seconds: float
    work_s: float
    n_tasks: int
    cpu_s: float


def _run_night(airflow: Airflow, name: str) -> ChainNight:
    started_at, cpu_before = utc_now(), _cpu_seconds(airflow.pid)
    airflow.trigger("fetch_signals")
    airflow.wait_for_runs(started_at, lambda _: None)
    runs = airflow.runs_since(started_at)
    tasks = [task for run in runs for task in airflow.task_instances(run) if _had_process(task)]
    ended = [datetime.fromisoformat(run["end_date"]) for run in runs if run["dag_id"] == _LAST_STEP]
    return ChainNight(
        name,
        (max(ended) - started_at).total_seconds(),
        _critical_work(tasks),
        len(tasks),
        _cpu_seconds(airflow.pid) - cpu_before,
    )


def _had_process(task: dict[str, Any]) -> bool:
    return task["state"] in _STARTED and task["operator"] != "EmptyOperator"


def _critical_work(tasks: Iterable[dict[str, Any]]) -> float:
    """The longest `compute` of each DAG run, summed."""
    longest: dict[str, float] = {}
    for task in tasks:
        if task["task_id"] == "compute":
            run_id = task["dag_run_id"]
            longest[run_id] = max(longest.get(run_id, 0.0), task["duration"] or 0.0)
    return sum(longest.values())


def _cpu_seconds(pid: int) -> float:
    """CPU seconds of a process tree, with children that have ended."""
    root, seconds = psutil.Process(pid), 0.0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile, and its parent has its seconds
            each = process.cpu_times()
            seconds += each.user + each.system + each.children_user + each.children_system
    return seconds


def _measure(stack: ExitStack) -> list[ChainNight]:
    scenario = stack.enter_context(scenario_from_environment(os.environ))
    run = stack.enter_context(local_run(_FOLDER, os.environ, is_lasting=False))
    store = stack.enter_context(running_context_store(scenario, run, _print_line))
    model = {
        "EMBEDDING_MODEL": str(save_tiny_nomic(_FOLDER / "tiny-nomic")),
        "EMBEDDING_DIM": "32",
        "EMBEDDING_DEVICE": "cpu",
    }
    variables = {**services.run_settings(scenario, _FOLDER), **model}
    os.environ.update(variables)
    read_settings(Settings)
    metadata_url = create_database(store.server_url, "airflow", replace=True)
    environment = {
        **store.airflow_environment,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_url(metadata_url),
    }
    airflow = stack.enter_context(running_airflow(_FOLDER / "airflow", environment, tuple(GRAPH.steps), _print_line))
    nights = [_run_night(airflow, "first")]
    _print_line(str(nights[-1]))
    for number in range(1, _N_NIGHTS):
        for name, change in (("one user changed", True), ("unchanged", False)):
            if change:
                scenario.change(number)
            nights.append(_run_night(airflow, name))
            _print_line(str(nights[-1]))
    return nights


def _print_line(text: str) -> None:
    _console.print(text, markup=False)


def main() -> int:
    """Run the nights and print the medians."""
    os.environ.setdefault("USERS", "64")
    os.environ.setdefault("N_SHARDS", "8")
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    with ExitStack() as stack:
        nights = _measure(stack)
    title = f"{os.environ['USERS']} users, {os.environ['N_SHARDS']} shards, TASK_SLOTS={Settings().task_slots}"
    table = numbers_table(title, "night", "seconds", "beyond its work", "tasks", "CPU seconds of Airflow")
    for name in dict.fromkeys(night.name for night in nights):
        same = [night for night in nights if night.name == name]
        columns: list[list[float]] = [
            [night.seconds for night in same],
            [night.seconds - night.work_s for night in same],
            [night.n_tasks for night in same],
            [night.cpu_s for night in same],
        ]
        table.add_row(name, *(f"{median(values):.1f}" for values in columns))
    _console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
