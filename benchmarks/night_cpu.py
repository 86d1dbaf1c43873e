"""CPU minutes of a night of 100,000 users in 256 shards through Airflow, extrapolated from nights of few users.

    python -m benchmarks.night_cpu

The overhead of a night is the CPU of Airflow and of Postgres, less the CPU of an idle Airflow, less the CPU of the
same night in one process. It is modelled as a cost for each task instance, for each shard and for each user. Nights
of two sizes give the first two. The third is too small to be seen with so few users, so `benchmarks.task_cpu`
measures it with more users. In a changed night each shard has one user with changed tasks.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from rich.table import Table
from scipy.optimize import nnls

from assets.engine.hashing import shard_of
from benchmarks.chain import ChainNight, change_users, console, print_line, running_chain
from benchmarks.meter import CpuMeter
from benchmarks.output import numbers_table
from benchmarks.task_cpu import CHANGED, FEW_USERS, MANY_USERS, TASK_SLOTS, UNCHANGED, added_per_user
from benchmarks.task_cpu import measure as measure_tasks
from contexts.postgres.sql import connect
from local.context_store import LocalContextStore
from local.paths import ROOT
from local.postgres import create_database
from local.scenario import install


@dataclass(frozen=True)
class Size:
    """The size of a night."""

    n_users: int
    n_shards: int


SIZES = (Size(64, 8), Size(256, 64))
TARGET = Size(100_000, 256)
FIRST = "first"
_N_ROUNDS = 2
"""Changed nights of a size, and unchanged ones."""

_IDLE_S = 15.0

_WITH_IMPORTS = """
import runpy, sys
import duckdb, scipy.cluster.hierarchy, scipy.spatial.distance
runpy.run_module("assets", run_name="__main__", alter_sys=True)
"""
"""Runs a command of the pipeline in a process that has imported what Airflow's tasks find imported."""


@dataclass(frozen=True)
class Cost:
    """The cost of a night in CPU seconds. work_s: of the night in one process. overhead_s: beyond `work_s`."""

    size: Size
    night: ChainNight
    overhead_s: float
    work_s: float


@dataclass(frozen=True)
class Rates:
    """CPU seconds of overhead for each task instance and each shard.

    error: the largest difference, in CPU seconds, between the overhead of a measured night and that of these rates.
    """

    task: float
    shard: float
    error: float


def measure(size: Size) -> Iterator[Cost]:
    """Run the nights of a size in one process, and then in Airflow."""
    work_s: dict[str, float] = {}

    def run_in_one_process(store: LocalContextStore, variables: Mapping[str, str]) -> None:
        work_s.update(_one_process(store, variables, size))

    with running_chain(size.n_users, size.n_shards, run_in_one_process) as chain:
        users, nights = _one_per_shard(chain.store, size), [chain.run_night(FIRST)]
        for number in range(_N_ROUNDS):
            chain.change(users, 1 + _N_ROUNDS + number)
            nights += [chain.run_night(CHANGED), chain.run_night(UNCHANGED)]
        before, began_at = sum(chain.cpu_seconds()), time.monotonic()
        time.sleep(_IDLE_S)
        idle = (sum(chain.cpu_seconds()) - before) / (time.monotonic() - began_at)
    print_line(f"idle: {idle:.2f} CPU seconds a second")
    for night in nights:
        in_airflow = night.cpu_s + night.postgres_cpu_s - idle * night.until_end_s
        yield Cost(size, night, in_airflow - work_s[night.name], work_s[night.name])


def _one_process(store: LocalContextStore, variables: Mapping[str, str], size: Size) -> dict[str, float]:
    """Return the mean CPU seconds of each night in one process and in Postgres, without the start of the process."""
    url = create_database(store.server_url, "single")
    own = {"DATABASE_URL": url, "DATA_ROOT": f"{variables['DATA_ROOT']}-single"}
    environment = {**os.environ, **variables, **store.environment, **own}
    with connect(url) as connection:
        install(connection, store.key, store.scenario)
        meter = CpuMeter(connection)

        def cpu_of(*words: str) -> float:
            before = meter.postgres_seconds() + _children_seconds()
            command = [sys.executable, "-c", _WITH_IMPORTS, *words]
            subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
            return meter.postgres_seconds() + _children_seconds() - before

        nights, start_s = {FIRST: [cpu_of("materialize")]}, cpu_of("shards", "todoist_tasks")
        for number in range(_N_ROUNDS):
            change_users(store, _one_per_shard(store, size), 1 + number)
            for name in (CHANGED, UNCHANGED):
                nights.setdefault(name, []).append(cpu_of("materialize"))
    return {name: fmean(seconds) - start_s for name, seconds in nights.items()}


def _children_seconds() -> float:
    """CPU seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _one_per_shard(store: LocalContextStore, size: Size) -> list[str]:
    """One user of each shard that has any."""
    return list({shard_of(user, size.n_shards): user for user in store.scenario.user_ids}.values())


def rates_of(costs: Sequence[Cost]) -> Rates:
    """The non-negative rates that fit the costs best. costs: of nights of the same kind, of all sizes."""
    rows = [(cost.night.n_tasks, cost.size.n_shards) for cost in costs]
    overheads = np.array([cost.overhead_s for cost in costs])
    rates, _ = nnls(np.array(rows, dtype=float), overheads)
    errors = np.array(rows) @ rates - overheads
    task, shard = map(float, rates)
    return Rates(task, shard, error=float(np.abs(errors).max()))


def n_target_tasks(costs: Iterable[Cost]) -> int:
    """The number of task instances of the extrapolated night.

    Each step with work has a plan, `TASK_SLOTS` groups and a collect; each other step has a plan.
    """
    nights = [cost.night for cost in costs]
    n_working = max(night.n_working_runs for night in nights)
    n_idle = max(night.n_runs - night.n_working_runs for night in nights)
    return n_working * (TASK_SLOTS + 2) + n_idle


def tables(costs: Sequence[Cost], per_user: Mapping[str, float]) -> Iterator[Table]:
    """The measured nights, and the extrapolated ones. per_user: added CPU seconds, by night."""
    measured = numbers_table(
        "Measured: CPU seconds",
        "night",
        *("users", "shards", "tasks", "Airflow and Postgres", "in one process", "beyond the work"),
    )
    for cost in costs:
        night, size = cost.night, cost.size
        counts = (size.n_users, size.n_shards, night.n_tasks)
        seconds = (night.cpu_s + night.postgres_cpu_s, cost.work_s, cost.overhead_s)
        measured.add_row(night.name, *(f"{n:,}" for n in counts), *(f"{each:.1f}" for each in seconds))
    yield measured
    extrapolated = numbers_table(
        f"Beyond the work of {TARGET.n_users:,} users in {TARGET.n_shards} shards, TASK_SLOTS={TASK_SLOTS}",
        "night",
        *("s a task", "ms a shard", "error, s", "ms a user", "tasks", "CPU minutes"),
    )
    for name in (FIRST, CHANGED, UNCHANGED):
        same = [cost for cost in costs if cost.night.name == name]
        rates, n_tasks, user = rates_of(same), n_target_tasks(same), per_user[name]
        figures = (rates.task, 1000 * rates.shard, rates.error, 1000 * user)
        total_s = rates.task * n_tasks + rates.shard * TARGET.n_shards + user * TARGET.n_users
        extrapolated.add_row(name, *(f"{each:.2f}" for each in figures), str(n_tasks), f"{total_s / 60:.1f}")
    yield extrapolated


def main() -> int:
    """Measure nights through Airflow and what tasks add for each user, and print the tables."""
    few, many = (measure_tasks(n_users) for n_users in (FEW_USERS, MANY_USERS))
    per_user = added_per_user(few, many, MANY_USERS - FEW_USERS)
    costs = []
    for size in SIZES:
        print_line(f"{size.n_users:,} users in {size.n_shards} shards")
        costs += list(measure(size))
        print_line(
            f"  beyond the work: {fmean(cost.overhead_s for cost in costs if cost.size == size):.1f} s a night"
        )
    for table in tables(costs, per_user | {FIRST: per_user[CHANGED]}):
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
