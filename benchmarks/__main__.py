"""`make bench`: the cost of four simulated nights: the first, 1 % of the users changed, unchanged, and a midnight."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

from rich.console import Console

from benchmarks.output import LOCAL_FOLDER
from benchmarks.pipeline import MemoryMeter, Pipeline, load_tiny_embedder, open_pipeline
from benchmarks.report import BenchFigures, NightCosts, print_figures, read_figures, save_figures
from benchmarks.todoist import TodoistProcess
from benchmarks.users import N_TASKS, Crowd

_FOLDER = LOCAL_FOLDER / "bench"

_FIRST_NIGHT = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
"""The first three nights are a minute apart without a midnight in any time zone: only users' changes matter."""

_MIDNIGHT = _FIRST_NIGHT + timedelta(days=1)
"""The last night, one midnight later in every time zone."""

_CHANGED_SHARE = 0.01
_USERS_PER_SHARD = 400
"""Shards have the same size for every number of users, so that runs can be compared."""

_console = Console(highlight=False)


def main() -> int:
    """Run the nights, print the table, write `.local/bench-<users>.json`."""
    signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        n_users = _number_from_environment("USERS", 1000, 1024 * _USERS_PER_SHARD)
        default_shards = min(1024, max(8, round(n_users / _USERS_PER_SHARD)))
        n_shards = _number_from_environment("N_SHARDS", default_shards, 1024)
    except ValueError as error:
        _console.print(str(error), style="red")
        return 1
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            figures = _measure(stack, n_users, n_shards)
    except KeyboardInterrupt:
        _print_line("stopped")
        return 130
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)
    path = LOCAL_FOLDER / f"bench-{n_users}.json"
    save_figures(figures, path)
    print_figures(figures, read_figures(LOCAL_FOLDER), _console)
    _print_line(f"Figures: .local/{path.name}")
    return 0


def _measure(stack: ExitStack, n_users: int, n_shards: int) -> BenchFigures:
    started = time.process_time()
    embedder = load_tiny_embedder(_FOLDER / "tiny-nomic")
    model_cpu_seconds = time.process_time() - started
    _print_line("Starting Postgres 18 and the local Todoist")
    _print_line(f"{n_users} users with {N_TASKS} tasks each")
    pipeline, todoist, _ = open_pipeline(stack, _FOLDER, Crowd(n_users, _FIRST_NIGHT.date()), n_shards, embedder)
    resident_mb = MemoryMeter.start().resident_mb
    nights = _run_nights(pipeline, todoist, n_users)
    plan_seconds = pipeline.plan_seconds(_MIDNIGHT + timedelta(minutes=1))
    return BenchFigures(
        n_users, N_TASKS, n_shards, model_cpu_seconds, resident_mb, todoist.resident_mb(), plan_seconds, nights
    )


def _run_nights(pipeline: Pipeline, todoist: TodoistProcess, n_users: int) -> tuple[NightCosts, ...]:
    def run_night(name: str, at: datetime, n_to_write: int, change: str) -> NightCosts:
        cpu_before = todoist.cpu_seconds()
        _print_line(f"The {name}: {n_to_write} users {change}")
        costs = pipeline.run(at, _print_line)
        return NightCosts(name, tuple(costs), todoist.cpu_seconds() - cpu_before, n_to_write, change)

    minute, n_changing = timedelta(minutes=1), todoist.n_changing_bucket
    return (
        run_night("first night", _FIRST_NIGHT, n_users, "are new"),
        run_night("1 % night", _FIRST_NIGHT + minute, todoist.change(_CHANGED_SHARE, night=1), "changed some tasks"),
        run_night("unchanged night", _FIRST_NIGHT + 2 * minute, 0, "changed some tasks"),
        run_night("midnight", _MIDNIGHT, n_changing(_FIRST_NIGHT, _MIDNIGHT), "have a task that changes bucket"),
    )


def _number_from_environment(name: str, default: int, maximum: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit() or not 1 <= int(text) <= maximum:
        raise ValueError(f"{name}={text} is not a number from 1 to {maximum}")
    return int(text)


def _raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _print_line(text: str) -> None:
    _console.print(text, markup=False)


if __name__ == "__main__":
    sys.exit(main())
