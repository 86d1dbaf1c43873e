"""CPU for each user that the division of a night into tasks adds to that of one process, measured without Airflow.

    python -m benchmarks.task_cpu --users 2000 --few 200 --shards 64

The tasks of a step plan the step, plan its shards again in each group, and search for stale readers at the end. This
is compared with the planning and recording of the same night in one process. Both materialize the same shards, whose
CPU is left out, but for contexts: Airflow runs their step twice in a changed night, after the fetch and after the
clusters. The cost of a user is the difference between nights of many and of few users in the same shards, divided by
the difference in users. In a changed night one user of each shard has changed tasks. Users have few tasks, because
these costs do not depend on their number.
"""

from __future__ import annotations

import shutil
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean
from typing import ClassVar

import psutil
from rich.console import Console

from assets.definitions import GRAPH
from assets.engine.errors import ShardFailure
from assets.engine.hashing import shard_of
from assets.engine.plan import Plan
from assets.engine.results import ShardResult
from assets.steps import StepRunner
from benchmarks.meter import CpuMeter
from benchmarks.output import LOCAL_FOLDER, numbers_table
from benchmarks.tasks import Tasks
from benchmarks.todoist import TodoistProcess, todoist_process
from benchmarks.users import Crowd, add_accounts
from contexts.postgres.migrate import migrate
from contexts.postgres.sql import connect
from contexts.settings import Settings
from contexts.todoist.credentials import CredentialCipher, new_key
from local import postgres
from local.checkpoint import save_tiny_nomic
from local.clock import utc_now
from local.samples import night_changes

CHANGED, UNCHANGED = "a user of each shard changed", "unchanged"
TASK_SLOTS = 16
FEW_USERS, MANY_USERS, N_SHARDS = 200, 2000, 64
_N_ROUNDS = 2
"""Nights of each kind, in tasks and in one process."""

_N_TASKS = 2
"""Tasks of a user."""

_FOLDER = LOCAL_FOLDER / "bench-tasks"
_FETCH, _CONTEXTS, _OTHERS = "fetch_signals", "compute_context", ("embed_tasks", "cluster_tasks")
_TRIGGERED = {CHANGED: (_FETCH, _CONTEXTS, *_OTHERS, _CONTEXTS), UNCHANGED: (_FETCH, _CONTEXTS)}
"""The steps that Airflow's events trigger."""

_CONTEXT_ASSETS = frozenset(asset.name for asset in GRAPH.steps[_CONTEXTS])

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass
class _Clock:
    """The CPU seconds of this process and of Postgres. work_s: the part spent so far to materialize shards."""

    meter: CpuMeter
    work_s: float = 0.0

    def overhead_s(self) -> float:
        """Return the CPU seconds spent so far on anything but materializing shards."""
        return self.meter.cpu_seconds() - self.work_s


class _MeteredRunner(StepRunner):
    """A step runner that measures the CPU seconds of materialized shards, but for contexts, apart from all others."""

    clock: ClassVar[_Clock]

    def materialize(self, plan: Plan, failures: list[ShardFailure] | None = None) -> Iterator[ShardResult]:
        """Materialize a plan and add its CPU seconds to the work of the clock, unless it is one of contexts."""
        results = super().materialize(plan, failures)
        if any(entry.asset in _CONTEXT_ASSETS for entry in plan):
            yield from results
            return
        while True:
            before = self._cpu_seconds()
            result = next(results, None)
            self.clock.work_s += self._cpu_seconds() - before
            if result is None:
                return
            yield result

    def _cpu_seconds(self) -> float:
        """Return the CPU seconds of this process and its backend, which are read faster than those of the server."""
        backend = psutil.Process(self.runtime.events.connection.info.backend_pid).cpu_times()
        return time.process_time() + float(backend.user + backend.system)


@dataclass(frozen=True)
class TaskCpu:
    """The mean CPU seconds of a night without those of materialized shards but contexts, in tasks and in one process.

    Those of Postgres are included.
    """

    in_tasks: float
    in_one_process: float

    @property
    def added(self) -> float:
        """The CPU seconds that the division into tasks adds."""
        return self.in_tasks - self.in_one_process


@dataclass(frozen=True)
class _Nights:
    """Users with their Todoist and Postgres, and their nights."""

    crowd: Crowd
    todoist: TodoistProcess
    tasks: Tasks
    clock: _Clock

    def change(self, number: int) -> None:
        """Change the tasks of one user in each shard. number: selects the user and the changes."""
        by_shard: dict[int, list[int]] = {}
        for index in range(len(self.crowd)):
            shard = shard_of(self.crowd.account(index).user_id, self.tasks.settings.n_shards)
            by_shard.setdefault(shard, []).append(index)
        for members in by_shard.values():
            user = self.crowd[members[number % len(members)]]
            delta = night_changes(user, user.document, today=self.crowd.today, night=number)
            self.todoist.advance(user.user_id, delta)

    def in_tasks(self, name: str) -> float:
        """Run the steps of a night as tasks; return the CPU seconds, see `TaskCpu`."""
        before = self.clock.overhead_s()
        for step in _TRIGGERED[name]:
            self.tasks.run(step, datetime.now(UTC))
        return self.clock.overhead_s() - before

    def in_one_process(self, _: str) -> float:
        """Run all steps up to the contexts in one process, as `python -m assets materialize` does.

        Returns the CPU seconds without those of materialized shards.
        """
        before, now = self.clock.overhead_s(), datetime.now(UTC)
        with self.tasks.runner(now) as runner:
            runner.estimate(*runner.forecast(), runner.graph)
            for step in (_FETCH, *_OTHERS, _CONTEXTS):
                current = replace(runner, resources=runner.runtime.load_resources())
                plan, planner = current.plan(step)
                current.start(step, f"{step} {now}", now, plan, current.estimate(plan, planner, GRAPH.steps[step]))
                current.finish(step, f"{step} {now}", now, list(current.materialize(plan)))
        return self.clock.overhead_s() - before


def measure(n_users: int, n_shards: int = N_SHARDS, n_rounds: int = _N_ROUNDS) -> dict[str, TaskCpu]:
    """Run a first night, and then changed and unchanged nights, in tasks and in one process in turn."""
    seconds: dict[tuple[str, str], list[float]] = {}
    with _running(n_users, n_shards) as nights:
        nights.in_one_process(CHANGED)
        _console.print(f"{n_users:,} users in {n_shards} shards")
        ways = {"tasks": nights.in_tasks, "one process": nights.in_one_process}
        for number in range(n_rounds * len(ways)):
            way = list(ways)[number % len(ways)]
            nights.change(number)
            for name in (CHANGED, UNCHANGED):
                cpu_s = ways[way](name)
                seconds.setdefault((way, name), []).append(cpu_s)
                _console.print(f"  {way}, {name}: {cpu_s:.2f} s")
    return {
        name: TaskCpu(fmean(seconds["tasks", name]), fmean(seconds["one process", name]))
        for name in (CHANGED, UNCHANGED)
    }


def added_per_user(few: Mapping[str, TaskCpu], many: Mapping[str, TaskCpu], n_more_users: int) -> dict[str, float]:
    """Return the CPU seconds that the division into tasks adds for each user, by night."""
    return {name: (many[name].added - few[name].added) / n_more_users for name in many}


@contextmanager
def _running(n_users: int, n_shards: int) -> Iterator[_Nights]:
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    key, crowd = new_key(), Crowd(n_users, utc_now().date(), _N_TASKS)
    try:
        with (
            todoist_process(full_limit=1000) as todoist,
            postgres.running_postgres(_FOLDER / "postgres") as url,
            connect(url) as connection,
        ):
            migrate(connection)
            todoist.install(crowd)
            add_accounts(connection, crowd, key)
            settings = Settings(
                data_root=str(_FOLDER / "data"),
                n_shards=n_shards,
                task_slots=TASK_SLOTS,
                embedding_model=str(save_tiny_nomic(_FOLDER / "tiny-nomic")),
                embedding_dim=32,
                embedding_device="cpu",
                llm_model=None,
            )
            _MeteredRunner.clock = _Clock(CpuMeter(connection))
            tasks = Tasks(settings, CredentialCipher([key]), url, todoist.url, _MeteredRunner)
            yield _Nights(crowd, todoist, tasks, _MeteredRunner.clock)
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)


def main() -> None:
    """Measure few and many users in the same number of shards, and print what the tasks add."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=MANY_USERS)
    parser.add_argument("--few", type=int, default=FEW_USERS, help="users of the nights to compare with")
    parser.add_argument("--shards", type=int, default=N_SHARDS)
    parser.add_argument("--rounds", type=int, default=_N_ROUNDS, help="nights of each kind")
    arguments = parser.parse_args()
    few, many = (measure(n_users, arguments.shards, arguments.rounds) for n_users in (arguments.few, arguments.users))
    rates = added_per_user(few, many, arguments.users - arguments.few)
    columns = ("users", "in tasks", "in one process", "added")
    table = numbers_table(
        f"CPU seconds beside materialized shards in {arguments.shards} shards, TASK_SLOTS={TASK_SLOTS}",
        "night",
        *columns,
    )
    for n_users, nights in ((arguments.few, few), (arguments.users, many)):
        for name, night in nights.items():
            figures = (night.in_tasks, night.in_one_process, night.added)
            table.add_row(name, f"{n_users:,}", *(f"{each:.1f}" for each in figures))
    _console.print(table)
    for name, rate in rates.items():
        _console.print(f"{name}: {1000 * rate:.2f} ms for each user")


if __name__ == "__main__":
    main()
