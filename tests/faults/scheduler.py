"""Faults of Airflow, in a real one: its scheduler killed in the night, and runs with a conf that nobody knows."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from assets.definitions import GRAPH
from contexts.postgres.sql import connect
from contexts.themes.embed import Embedder
from faults.row import PromiseBroken, Row, require
from faults.trial import N_SHARDS, USERS, Bench, Stage, Trial
from local.airflow import running_airflow
from local.airflow_api import Airflow, DagRun
from local.checkpoint import save_tiny_nomic
from local.clock import utc_now
from local.paths import ROOT
from local.postgres import airflow_url, create_database
from local.processes import child_process

_DIM = 32
_TIMEOUT_S = 300
_POLL_S = 0.2
_MAX_TIMEOUTS = 5
_N_CALIBRATION_TEXTS = 10_000
_LEAST_COSINE = 0.9

_QUICK_ADOPTION = {
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
}
"""Settings by which a new scheduler takes over the tasks of a dead one in seconds instead of minutes."""


@dataclass
class Scheduled:
    """A trial whose nights Airflow runs. variables: the settings of its tasks."""

    trial: Trial
    airflow: Airflow
    variables: Mapping[str, str]


def in_airflow(run: Callable[[Scheduled], None]) -> Callable[[Trial], None]:
    """Run a fault in the only Airflow of the matrix, which starts with the first of them."""

    def run_there(trial: Trial) -> None:
        run(trial.bench.once(Scheduled, scheduled))

    return run_there


@contextmanager
def scheduled(bench: Bench) -> Iterator[Scheduled]:
    """An Airflow over a trial of its own, with the tiny model."""
    stage, home = bench.stage, bench.folder / "airflow"
    with stage.trial(0, random.Random(bench.seed)) as trial:
        variables = _variables(stage, trial.root, bench.folder / "model")
        calibrate(trial.database, variables)
        metadata = create_database(bench.server, f"faults_airflow_{bench.seed}", replace=True)
        airflow_variables = {
            **variables,
            **_QUICK_ADOPTION,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_url(metadata),
            "AIRFLOW_CONN_CONTEXT_STORE": trial.database,
            "AIRFLOW_CONN_TODOIST": stage.todoist_url,
        }
        with running_airflow(home, airflow_variables, tuple(GRAPH.steps), _quiet) as airflow:
            yield Scheduled(trial, airflow, variables)


def _variables(stage: Stage, root: Path, model: Path) -> dict[str, str]:
    """The settings of nights that are triggered: the schedule is half a day away."""
    hour = (utc_now().hour + 12) % 24
    return {
        "DATA_ROOT": str(root),
        "N_SHARDS": str(N_SHARDS),
        "CREDENTIALS_KEYS": stage.key,
        "MATERIALIZE_SCHEDULE": f"0 {hour} * * *",
        "NIGHT_HOUR": str(hour),
        "EMBEDDING_MODEL": str(save_tiny_nomic(model)),
        "EMBEDDING_PROMPT": "",
        "EMBEDDING_DIM": str(_DIM),
        "EMBEDDING_DEVICE": "cpu",
    }


def calibrate(database: str, variables: Mapping[str, str]) -> None:
    """Store a threshold of the tiny model that no run replaces."""
    version = Embedder(variables["EMBEDDING_MODEL"], prompt="", dim=_DIM).version
    with connect(database) as connection:
        connection.execute(
            "INSERT INTO cluster_thresholds (model, threshold, n_texts, n_means) VALUES (%s, %s, %s, 0)",
            [version, _LEAST_COSINE, _N_CALIBRATION_TEXTS],
        )


def unknown_conf(there: Scheduled) -> None:
    """Start runs whose conf has a name that no parameter has, and a value of another type."""
    n_calls, since = len(there.trial.todoist.calls), utc_now()
    path, states = "/api/v2/dags/fetch_signals/dagRuns", list[str]()
    for conf in ({"users": "ann"}, {"shard": "0"}, {"user": ["ann"]}):
        try:
            there.airflow.request("POST", path, json={"logical_date": None, "conf": conf})
        except httpx.HTTPStatusError as error:  # Airflow itself checks the types of known names
            states.append(f"refused with {error.response.status_code}")
    states += [run.state for run in follow(there.airflow, since)]
    require(states == ["refused with 400", "failed", "failed"], f"the runs ended as {states}")
    require(len(there.trial.todoist.calls) == n_calls, "Todoist was called")
    require(there.trial.world.stored() == there.trial.before, "contexts were changed")


def kill_scheduler(there: Scheduled) -> None:
    """Kill the scheduler and its workers with SIGKILL while tasks run, and start it again."""
    since = utc_now()
    there.airflow.trigger("fetch_signals")
    wait_for(lambda: "running" in states_of_tasks(there.airflow, since, "embed_tasks"))
    scheduler = process_of(there.airflow, "scheduler")
    command, environment = scheduler.cmdline(), scheduler.environ()
    tree = [scheduler, *scheduler.children(recursive=True)]
    for process in tree:
        process.kill()
    wait_for(lambda: all(has_ended(process) for process in tree))
    log_file = there.airflow.log_file.with_name("second_scheduler.log")
    with child_process(command, environment, log_file, stop_timeout_s=30):
        follow(there.airflow, since)
        there.trial.require_whole_rows()
        since = utc_now()
        there.airflow.trigger("fetch_signals")
        runs = follow(there.airflow, since)
    require(
        all(run.state == "success" for run in runs), f"the next night: {[(run.dag_id, run.state) for run in runs]}"
    )
    require(there.trial.world.plain_contexts() == from_nothing(there), "the contexts are not as unbroken")


def follow(airflow: Airflow, since: datetime) -> list[DagRun]:
    """Follow all runs since an instant to their ends; the API may be slow to answer while a scheduler starts."""
    for _ in range(_MAX_TIMEOUTS):
        with suppress(httpx.TimeoutException):
            return airflow.wait_for_runs(since, _quiet)
    raise PromiseBroken(f"Airflow's API did not answer {_MAX_TIMEOUTS} times")


def process_of(airflow: Airflow, name: str) -> psutil.Process:
    """Return a process of Airflow by its command: the eldest."""
    children = psutil.Process(airflow.pid).children(recursive=True)
    found = [child for child in children if name in command_of(child)]
    require(found, f"Airflow has no process with the argument {name}")
    return min(found, key=lambda child: child.create_time())


def command_of(process: psutil.Process) -> list[str]:
    """The command line of a process; empty if it has ended."""
    try:
        command: list[str] = process.cmdline()
    except psutil.NoSuchProcess:
        return []
    return command


def has_ended(process: psutil.Process) -> bool:
    """Whether a process is gone, or a zombie that `airflow standalone` does not reap."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def states_of_tasks(airflow: Airflow, since: datetime, dag_id: str) -> set[str]:
    """The states of all tasks of a DAG's runs since an instant."""
    runs = [run for run in airflow.runs_since(since) if run["dag_id"] == dag_id]
    return {str(task["state"]) for run in runs for task in airflow.task_instances(run)}


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll a condition until it holds."""
    until = time.monotonic() + _TIMEOUT_S
    while not condition():
        require(time.monotonic() < until, f"nothing after {_TIMEOUT_S} s")
        time.sleep(_POLL_S)


def from_nothing(there: Scheduled) -> dict[str, Any]:
    """The contexts that `python -m assets materialize` makes from nothing with the tiny model."""
    stage = there.trial.stage
    name = f"{stage.name}_unscheduled"
    database, root = stage.new_database(name), stage.bench.folder / name
    with connect(database) as connection:
        stage.fill(connection, USERS)
        calibrate(database, there.variables)
        variables = {"DATABASE_URL": database, "TODOIST_API_URL": stage.todoist_url, "DATA_ROOT": str(root)}
        subprocess.run(
            [sys.executable, "-m", "assets", "materialize"],
            cwd=ROOT,
            env={**os.environ, **there.variables, **variables},
            check=True,
            capture_output=True,
        )
        return stage.world(connection, root).plain_contexts()


def _quiet(_: str) -> None:
    """Print nothing."""


ROWS = (
    Row("unknown conf keys", "Airflow", "the run fails before it reads or writes anything", in_airflow(unknown_conf)),
    Row(
        "scheduler and workers killed in the night, started again",
        "Airflow",
        "nothing is half; the next night is as unbroken",
        in_airflow(kill_scheduler),
    ),
)
