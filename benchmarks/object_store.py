"""Requests to an object store in nights whose steps run as in Airflow: a plan, groups of shards, and a collect.

python -m benchmarks.object_store --users 1024 --shards 256 --delay 0.03
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import fsspec
from rich.console import Console

from assets.definitions import GRAPH
from benchmarks.output import LOCAL_FOLDER, numbers_table
from benchmarks.s3_server import S3Process, s3_process
from benchmarks.tasks import Tasks
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

_N_TASKS = 2
"""Number of tasks of a user, on which the number of requests does not depend."""

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Counted:
    """A night or a plan. counts: its requests by verb. seconds, cpu_s: the time of a plan; None for a night."""

    name: str
    counts: dict[str, int]
    seconds: float | None = None
    cpu_s: float | None = None


def _measure(n_users: int, n_shards: int, delay_s: float) -> list[Counted]:
    key = new_key()
    with (
        s3_process() as s3,
        todoist_process() as todoist,
        postgres.running_postgres(_FOLDER / "postgres") as url,
        connect(url) as connection,
    ):
        _use_s3(s3)
        migrate(connection)
        crowd = Crowd(n_users, _FIRST_NIGHT.date(), _N_TASKS)
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
        tasks = Tasks(settings, CredentialCipher([key]), url, todoist.url)
        return [*_nights(tasks, s3, todoist), *_plans(tasks, s3, delay_s)]


def _nights(tasks: Tasks, s3: S3Process, todoist: TodoistProcess) -> Iterator[Counted]:
    s3.take_counts()

    def night(name: str, number: int, steps: tuple[str, ...]) -> Counted:
        _console.print(name)
        for step in steps:
            tasks.run(step, _FIRST_NIGHT + number * timedelta(minutes=1))
        return Counted(name, s3.take_counts())

    every_step = tuple(step for step in GRAPH.steps if step != "write_tips")
    yield night("first night", 0, every_step)
    yield night("unchanged night", 1, _AFTER_A_FETCH)
    todoist.change(0.01, night=1)
    yield night("1 % of the users changed", 2, every_step)
    yield night("unchanged night again", 3, _AFTER_A_FETCH)


def _plans(tasks: Tasks, s3: S3Process, delay_s: float) -> Iterator[Counted]:
    """Plan a night, with each answer delayed: with footers in the cache objects, and without these objects."""
    for name in ("plan", "plan without cached footers", "plan once more"):
        files = fsspec.filesystem("s3", use_listings_cache=False)
        if "without" in name:
            files.rm(files.glob(f"{_BUCKET}/data/*/footers.parquet"))
        fsspec.filesystem("s3").invalidate_cache()
        s3.set_delay(delay_s)
        with tasks.runner(_FIRST_NIGHT + timedelta(minutes=4)) as runner:
            started, cpu_before = time.perf_counter(), time.process_time()
            tasks.plan(runner, "fetch_signals")
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_before
        yield Counted(name, s3.take_counts(), seconds, cpu_s)


def _use_s3(s3: S3Process) -> None:
    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(access | {"AWS_ENDPOINT_URL": s3.url})
    fsspec.filesystem("s3").mkdir(_BUCKET)


def main() -> None:
    """Run four nights and three plans; print the requests for one shard, and the seconds of the plans."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=256)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--delay", type=float, default=0.03, help="seconds before each answer while plans are made")
    arguments = parser.parse_args()
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    try:
        measured = _measure(arguments.users, arguments.shards, arguments.delay)
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)
    title = (
        f"{arguments.users:,} users, {arguments.shards} shards, {arguments.delay * 1000:.0f} ms a request of a plan"
    )
    table = numbers_table(title, "night", "requests a shard", "GET", "PUT", "LIST", "other", "seconds", "CPU s")
    for each in measured:
        counts = dict(each.counts)
        n_requests = sum(counts.values())
        known = [counts.pop(verb, 0) for verb in ("GET", "PUT", "LIST")]
        cells = [f"{n_requests / arguments.shards:.1f}", *map(str, [*known, sum(counts.values())])]
        table.add_row(each.name, *cells, *("" if n is None else f"{n:.1f}" for n in (each.seconds, each.cpu_s)))
    _console.print(table)


if __name__ == "__main__":
    main()
