"""Requests to an object store in nights as Airflow's tasks run them: plan, groups of shards and collect of each step.

python -m benchmarks.object_store --users 512 --shards 256 --delay 0.03
"""

from __future__ import annotations

import os
import shutil
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import fsspec
from rich.console import Console

from assets.definitions import GRAPH
from assets.groups import group_shards
from assets.runtime import Runtime
from assets.steps import StepRunner
from benchmarks.output import LOCAL_FOLDER, numbers_table
from benchmarks.s3_server import S3Process, s3_process
from benchmarks.todoist import TodoistProcess, todoist_process
from benchmarks.users import Crowd, add_accounts
from contexts.postgres.migrate import migrate
from contexts.postgres.sql import connect
from contexts.settings import Settings
from contexts.todoist.credentials import CredentialCipher, new_key
from local import postgres
from local.checkpoint import save_tiny_nomic

_FOLDER = LOCAL_FOLDER / "bench-s3"
_FIRST_NIGHT = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
_BUCKET = "tips"
_AFTER_A_FETCH = ("fetch_signals", "compute_context")
"""The steps of a night in which nothing changed."""

_console = Console(highlight=False)


@dataclass(frozen=True)
class Night:
    """A night: its requests by verb, and the seconds of the first plan."""

    name: str
    counts: dict[str, int]
    plan_seconds: float


@dataclass(frozen=True)
class Tasks:
    """Runs steps like the tasks of a DAG, each with a runtime of its own."""

    settings: Settings
    cipher: CredentialCipher
    database_url: str
    todoist_url: str

    @contextmanager
    def runner(self, now: datetime) -> Iterator[StepRunner]:
        """A runner as a task opens it."""
        with connect(self.database_url) as connection:
            runtime = Runtime.connect(self.settings, self.cipher, connection, self.todoist_url, n_threads=1)
            yield StepRunner(GRAPH, runtime, runtime.load_resources(), now)

    def run(self, step: str, now: datetime) -> float:
        """Run a step; return the seconds of its plan."""
        with self.runner(now) as runner:
            runner, started = runner.with_footers(), time.perf_counter()
            plan, planner = runner.plan(step)
            estimates = runner.estimate(plan, planner, GRAPH.steps[step])
            if GRAPH.is_source_step(step):
                runner.estimate(*runner.forecast(), GRAPH)
            seconds = time.perf_counter() - started
            runner.start(step, f"{step} {now}", now, plan, estimates)
        results = []
        for group in group_shards(plan, self.settings.task_slots):
            with self.runner(now) as runner:
                results += list(runner.materialize_shards(step, group.shards))
        with self.runner(now) as runner:
            runner = runner.with_footers()
            runner.finish(step, f"{step} {now}", now, results)
            replace(runner, resources=runner.runtime.load_resources()).unchanged_but_needed(step)
        return seconds


def _measure(n_users: int, n_shards: int, delay_s: float) -> list[Night]:
    key = new_key()
    with (
        s3_process(delay_s) as s3,
        todoist_process() as todoist,
        postgres.running_postgres(_FOLDER / "postgres") as url,
        connect(url) as connection,
    ):
        _use_s3(s3)
        migrate(connection)
        crowd = Crowd(n_users, _FIRST_NIGHT.date())
        todoist.install(crowd)
        add_accounts(connection, crowd, key)
        settings = Settings(
            data_root=f"s3://{_BUCKET}/data",
            n_shards=n_shards,
            embedding_model=str(save_tiny_nomic(_FOLDER / "tiny-nomic")),
            embedding_dim=32,
            embedding_device="cpu",
            llm_model=None,
        )
        return list(_nights(Tasks(settings, CredentialCipher([key]), url, todoist.url), s3, todoist))


def _nights(tasks: Tasks, s3: S3Process, todoist: TodoistProcess) -> Iterator[Night]:
    s3.take_counts()

    def night(name: str, number: int, steps: tuple[str, ...]) -> Night:
        _console.print(name)
        seconds = [tasks.run(step, _FIRST_NIGHT + number * timedelta(minutes=1)) for step in steps]
        return Night(name, s3.take_counts(), seconds[0])

    every_step = tuple(step for step in GRAPH.steps if step != "write_tips")
    yield night("first night", 0, every_step)
    yield night("unchanged night", 1, _AFTER_A_FETCH)
    todoist.change(0.01, night=1)
    yield night("1 % of the users changed", 2, every_step)
    yield night("unchanged night again", 3, _AFTER_A_FETCH)


def _use_s3(s3: S3Process) -> None:
    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(access | {"AWS_ENDPOINT_URL": s3.url})
    fsspec.filesystem("s3").mkdir(_BUCKET)


def main() -> None:
    """Run four nights and print the requests of each, for one shard, and the seconds of the first plan."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=256)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--delay", type=float, default=0.03, help="seconds before each answer of the store")
    arguments = parser.parse_args()
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    try:
        nights = _measure(arguments.users, arguments.shards, arguments.delay)
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)
    title = f"{arguments.users} users, {arguments.shards} shards, {arguments.delay * 1000:.0f} ms a request"
    table = numbers_table(title, "night", "requests a shard", "GET", "PUT", "LIST", "other", "plan, s")
    for night in nights:
        counts = dict(night.counts)
        n_requests = sum(counts.values())
        known = [counts.pop(verb, 0) for verb in ("GET", "PUT", "LIST")]
        cells = [f"{n_requests / arguments.shards:.1f}", *map(str, [*known, sum(counts.values())])]
        table.add_row(night.name, *cells, f"{night.plan_seconds:.1f}")
    _console.print(table)


if __name__ == "__main__":
    main()
