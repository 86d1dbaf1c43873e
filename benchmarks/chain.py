"""The chain of DAGs through a whole Airflow: seconds, task instances and CPU of nights, read through its REST API.

    USERS=64 N_SHARDS=8 python -m benchmarks.chain

Before each night after the first one some tasks of one user change; an unchanged night follows each of them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import psutil
from rich.console import Console

from assets.definitions import GRAPH
from benchmarks.meter import CpuMeter
from benchmarks.output import LOCAL_FOLDER, numbers_table
from contexts.postgres.run_log import RunLog, StepRun
from contexts.settings import Settings
from local import services
from local.airflow import running_airflow
from local.airflow_api import Airflow
from local.checkpoint import save_tiny_nomic
from local.clock import utc_now
from local.context_store import LocalContextStore, running_context_store
from local.local_run import local_run
from local.postgres import airflow_url, create_database
from local.samples import night_changes, sample_users
from local.scenario import scenario_from_environment

_FOLDER = LOCAL_FOLDER / "bench-chain"
_LAST_STEP = "compute_context"
_N_NIGHTS = 3
_STARTED = {"success", "failed"}
"""States of task instances for which a process was started, unless the task is empty."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class ChainNight:
    """A night.

    seconds: from the trigger to the end of the last run that makes contexts. work_s: seconds of the longest `compute`
    of each DAG run, or of the work in its `plan`, summed. n_tasks: task instances that had a process. n_runs,
    n_working_runs: DAG runs, and those that ran a shard. cpu_s: of all of Airflow's processes. postgres_cpu_s: of the
    server with Airflow's database and the context store. until_end_s: from the trigger until no run was active.
    """

    name: str
    seconds: float
    work_s: float
    n_tasks: int
    n_runs: int
    n_working_runs: int
    cpu_s: float
    postgres_cpu_s: float
    until_end_s: float


@dataclass(frozen=True)
class Chain:
    """A running Airflow, and sample users whose tasks can change."""

    airflow: Airflow
    store: LocalContextStore
    meter: CpuMeter

    def run_night(self, name: str) -> ChainNight:
        """Trigger the first DAG, and wait until no run is active and no event waits."""
        started_at = utc_now()
        cpu_before = self.cpu_seconds()
        self.airflow.trigger("fetch_signals")
        self.airflow.wait_for_runs(started_at)
        cpu_after, until_end_s = self.cpu_seconds(), (utc_now() - started_at).total_seconds()
        runs = self.airflow.runs_since(started_at)
        tasks = [task for run in runs for task in self.airflow.task_instances(run) if _had_process(task)]
        ended = [datetime.fromisoformat(run["end_date"]) for run in runs if run["dag_id"] == _LAST_STEP]
        log = RunLog(self.store.connection)
        working = {(run.step, run.run_id) for run in log.asset_runs_since(started_at) if run.n_shards_run}
        cpu_s, postgres_cpu_s = (after - before for after, before in zip(cpu_after, cpu_before, strict=True))
        return ChainNight(
            name,
            seconds=(max(ended) - started_at).total_seconds(),
            work_s=_critical_work(tasks, log.step_runs_since(started_at)),
            n_tasks=len(tasks),
            n_runs=len(runs),
            n_working_runs=len(working),
            cpu_s=cpu_s,
            postgres_cpu_s=postgres_cpu_s,
            until_end_s=until_end_s,
        )

    def cpu_seconds(self) -> tuple[float, float]:
        """The CPU seconds so far of Airflow, and of Postgres."""
        return _cpu_seconds(self.airflow.pid), self.meter.postgres_seconds()

    def change(self, user_ids: Collection[str], number: int) -> None:
        """Change tasks of some sample users. number: of the change, which decides what changes."""
        change_users(self.store, user_ids, number)


def change_users(store: LocalContextStore, user_ids: Collection[str], number: int) -> None:
    """Change tasks of some sample users in the local Todoist. number: of the change, which decides what changes."""
    todoist, today = store.scenario.todoist, utc_now().date()
    assert todoist
    for sample in sample_users(len(store.scenario.users), today=today):
        if sample.user_id in user_ids:
            delta = night_changes(sample, todoist.document(sample.user_id), today=today, night=number)
            todoist.advance(sample.user_id, delta)


def _had_process(task: dict[str, Any]) -> bool:
    return task["state"] in _STARTED and task["operator"] != "EmptyOperator"


def _critical_work(tasks: Iterable[dict[str, Any]], step_runs: Iterable[StepRun]) -> float:
    """The longest `compute` of each DAG run, summed; without one the seconds of the shards that `plan` ran."""
    longest = {(run.step, run.run_id): sum(filter(None, run.seconds.values())) for run in step_runs}
    mapped: dict[tuple[str, str], float] = {}
    for task in tasks:
        if task["task_id"] == "compute":
            run = (task["dag_id"], task["dag_run_id"])
            mapped[run] = max(mapped.get(run, 0.0), task["duration"] or 0.0)
    return sum((longest | mapped).values())


def _cpu_seconds(pid: int) -> float:
    """CPU seconds of a process tree, with children that have ended."""
    root, seconds = psutil.Process(pid), 0.0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile, and its parent has its seconds
            each = process.cpu_times()
            seconds += each.user + each.system + each.children_user + each.children_system
    return seconds


def _no_preparation(store: LocalContextStore, variables: Mapping[str, str]) -> None:
    return


@contextmanager
def running_chain(
    n_users: int,
    n_shards: int,
    prepare: Callable[[LocalContextStore, Mapping[str, str]], None] = _no_preparation,
) -> Iterator[Chain]:
    """An Airflow over new sample users, with their Todoist and Postgres; stopped at the end.

    prepare: called before Airflow starts, with the context store and the settings of the run.
    """
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    os.environ |= {"USERS": str(n_users), "N_SHARDS": str(n_shards)}
    with (
        scenario_from_environment(os.environ) as scenario,
        local_run(_FOLDER, os.environ, is_lasting=False) as run,
        running_context_store(scenario, run, print_line) as store,
    ):
        model = {
            "EMBEDDING_MODEL": str(save_tiny_nomic(_FOLDER / "tiny-nomic")),
            "EMBEDDING_DIM": "32",
            "EMBEDDING_DEVICE": "cpu",
        }
        variables = {**services.run_settings(scenario, _FOLDER), **model}
        prepare(store, variables)
        metadata_url = create_database(store.server_url, "airflow", replace=True)
        environment = {
            **variables,
            **store.airflow_environment,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_url(metadata_url),
        }
        home = _FOLDER / "airflow"
        with running_airflow(home, environment, tuple(GRAPH.steps), print_line) as airflow:
            yield Chain(airflow, store, CpuMeter(store.connection))


def print_line(text: str) -> None:
    """Print a line of progress."""
    console.print(text, markup=False)


def _measure(n_users: int, n_shards: int) -> list[ChainNight]:
    with running_chain(n_users, n_shards) as chain:
        nights = [chain.run_night("first")]
        print_line(str(nights[-1]))
        user_ids = chain.store.scenario.user_ids
        for number in range(1, _N_NIGHTS):
            for name, changed in (("one user changed", user_ids[number : number + 1]), ("unchanged", [])):
                chain.change(changed, number)
                nights.append(chain.run_night(name))
                print_line(str(nights[-1]))
        return nights


def by_name(nights: Sequence[ChainNight]) -> dict[str, list[ChainNight]]:
    """The nights by name, in the order of the first of each."""
    return {name: [night for night in nights if night.name == name] for name in dict.fromkeys(n.name for n in nights)}


def main() -> int:
    """Run the nights and print the medians."""
    n_users, n_shards = int(os.environ.get("USERS", "64")), int(os.environ.get("N_SHARDS", "8"))
    nights = _measure(n_users, n_shards)
    title = f"{n_users} users, {n_shards} shards, TASK_SLOTS={Settings().task_slots}"
    columns = ("seconds", "beyond its work", "tasks", "CPU s of Airflow", "of Postgres")
    table = numbers_table(title, "night", *columns)
    for name, same in by_name(nights).items():
        figures: list[list[float]] = [
            [night.seconds for night in same],
            [night.seconds - night.work_s for night in same],
            [night.n_tasks for night in same],
            [night.cpu_s for night in same],
            [night.postgres_cpu_s for night in same],
        ]
        table.add_row(name, *(f"{median(values):.1f}" for values in figures))
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
