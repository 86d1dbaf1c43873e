"""`python -m benchmarks.sizes`: the CPU of a night for each user, with many users beside few.

Two pipelines with shards of equal size run the same nights in turns: for each shard of the small one, several of the
large one, so that whatever else the machine does slows both. Each has a Postgres of its own, whose CPU counts. Users
have few tasks, because the question is what a night costs beside its tasks.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from rich.console import Console

from benchmarks.meter import CpuMeter
from benchmarks.output import LOCAL_FOLDER, numbers_table
from benchmarks.pipeline import Pipeline, load_tiny_embedder, open_pipeline
from benchmarks.todoist import TodoistProcess
from benchmarks.users import Crowd
from contexts.progress import ProgressLogger
from contexts.themes.embed import Embedder

_FOLDER = LOCAL_FOLDER / "bench-sizes"
_FIRST_NIGHT = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
_NIGHTS = {"first": 0.0, "1 % changed": 0.01, "unchanged": 0.0}
"""The share of users with changed tasks before each night, by its name."""

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass
class Population:
    """A pipeline over its own Postgres, Todoist and files.

    client_s: CPU seconds that this process spent on the pipeline.
    """

    n_users: int
    pipeline: Pipeline
    todoist: TodoistProcess
    meter: CpuMeter
    client_s: float = 0.0
    cpu_ms: dict[str, float] = field(default_factory=dict)
    """CPU milliseconds for each user, by night."""

    def cpu_seconds(self) -> float:
        """The CPU seconds of the pipeline and of its Postgres so far."""
        return self.client_s + self.meter.postgres_seconds()


def main() -> int:
    """Run the nights and print the table."""
    parser = ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--users", type=int, nargs=2, default=[10_000, 100_000], help="of the two sizes")
    parser.add_argument("--tasks", type=int, default=10, help="of each user (10)")
    parser.add_argument("--users-per-shard", type=int, default=400, help="(400)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    try:
        with ExitStack() as stack:
            embedder = load_tiny_embedder(_FOLDER / "tiny-nomic")
            populations = [
                _populate(stack, embedder, n_users, options.tasks, max(1, n_users // options.users_per_shard))
                for n_users in sorted(options.users)
            ]
            for number, (night, share) in enumerate(_NIGHTS.items()):
                _run_night(populations, number, night, share)
    except KeyboardInterrupt:
        _console.print("stopped")
        return 130
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)
    _print(populations, options.tasks)
    return 0


def _populate(stack: ExitStack, embedder: Embedder, n_users: int, n_tasks: int, n_shards: int) -> Population:
    _console.print(f"{n_users:,} users with {n_tasks} tasks each in {n_shards} shards")
    crowd = Crowd(n_users, _FIRST_NIGHT.date(), n_tasks)
    pipeline, todoist, connection = open_pipeline(stack, _FOLDER / str(n_users), crowd, n_shards, embedder)
    return Population(n_users, pipeline, todoist, CpuMeter(connection))


def _run_night(populations: Sequence[Population], number: int, night: str, share: float) -> None:
    """Run a night of all populations in turns, and note what it cost."""
    at, n_turns = _FIRST_NIGHT + timedelta(minutes=number), min(each.pipeline.n_parts for each in populations)
    for population in populations:
        if share:
            population.todoist.change(share, night=number)
    before = [population.cpu_seconds() for population in populations]
    runs = [population.pipeline.run_in_parts(at) for population in populations]
    progress = ProgressLogger(f"turns of the night '{night}'", n_turns, _console.print)
    for turn in range(n_turns):
        for population, run in zip(populations, runs, strict=True):
            n_parts = population.pipeline.n_parts
            started = time.process_time()
            for _ in range(turn * n_parts // n_turns, (turn + 1) * n_parts // n_turns):
                next(run)
            population.client_s += time.process_time() - started
        progress.add(1)
    for population, seconds in zip(populations, before, strict=True):
        population.cpu_ms[night] = 1000 * (population.cpu_seconds() - seconds) / population.n_users


def _print(populations: Sequence[Population], n_tasks: int) -> None:
    columns = [f"{each.n_users:,} users" for each in populations]
    few, many = populations
    table = numbers_table(
        f"CPU of a night for each user of {n_tasks} tasks, ms, with the fetch and Postgres",
        "night",
        *columns,
        "ratio",
    )
    for night in _NIGHTS:
        table.add_row(night, *(f"{each.cpu_ms[night]:.2f}" for each in populations), _ratio(many, few, night))
    _console.print(table)


def _ratio(many: Population, few: Population, night: str) -> str:
    return f"{many.cpu_ms[night] / few.cpu_ms[night]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
