"""`make bench`: what a first night costs, one in which 1 % of the users changed, an unchanged one, and a midnight."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from benchmarks.night import Memory, Pipeline
from benchmarks.report import Bench, Night, save, saved, show
from benchmarks.todoist import StandIn, standing_in
from benchmarks.users import N_TASKS, Crowd, add_accounts
from contexts.embed import Embedder
from contexts.migrate import migrate
from contexts.sql import connect
from contexts.todoist import Todoist
from contexts.vault import new_key
from local import postgres
from local.checkpoint import save_tiny_nomic

LOCAL = Path(__file__).parent.parent / ".local"
FOLDER = LOCAL / "bench"
FIRST = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
"""The first three nights are a minute apart, and it is midnight nowhere: what changes is what users changed."""

A_DAY_LATER = FIRST + timedelta(days=1)
"""Of the last night: it was midnight everywhere, once."""

SHARE = 0.01
USERS_PER_SHARD = 400
"""Shards of one size, so that runs with different numbers of users can be compared."""

console = Console(highlight=False)


def main() -> int:
    """Run the nights, print the table, write `.local/bench-<users>.json`."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        n_users = _number("USERS", 1000, 1024 * USERS_PER_SHARD)
        n_shards = _number("N_SHARDS", min(1024, max(8, round(n_users / USERS_PER_SHARD))), 1024)
    except ValueError as error:
        console.print(str(error), style="red")
        return 1
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            bench = _bench(stack, n_users, n_shards)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    path = LOCAL / f"bench-{n_users}.json"
    save(bench, path)
    show(bench, saved(LOCAL), console)
    say(f"The figures: .local/{path.name}")
    return 0


def _bench(stack: ExitStack, n_users: int, n_shards: int) -> Bench:
    began = time.process_time()
    embedder = _embedder()
    model_cpu_seconds = time.process_time() - began
    say("Starting Postgres 18 and the local Todoist")
    url = stack.enter_context(postgres.running(FOLDER / "postgres"))
    connection = stack.enter_context(connect(url))
    migrate(connection)
    todoist = stack.enter_context(standing_in())
    say(f"{n_users} users of {N_TASKS} tasks")
    key, crowd = new_key(), Crowd(n_users, FIRST.date())
    todoist.settle(crowd)
    add_accounts(connection, crowd, key)
    pipeline = Pipeline(connection, Todoist(todoist.url), embedder, FOLDER / "data", n_shards, key)
    resident_mb = Memory.measured().resident_mb
    nights = _nights(pipeline, todoist, n_users)
    plan_seconds = pipeline.seconds_to_plan(A_DAY_LATER + timedelta(minutes=1))
    return Bench(
        n_users, N_TASKS, n_shards, model_cpu_seconds, resident_mb, todoist.resident_mb(), plan_seconds, nights
    )


def _nights(pipeline: Pipeline, todoist: StandIn, n_users: int) -> tuple[Night, ...]:
    def night(name: str, at: datetime, n_to_write: int, why: str) -> Night:
        before = todoist.cpu_seconds()
        say(f"The {name}: {n_to_write} users {why}")
        costs = pipeline.night(at, say)
        return Night(name, tuple(costs), todoist.cpu_seconds() - before, n_to_write, why)

    minute, why = timedelta(minutes=1), "changed some tasks"
    return (
        night("first night", FIRST, n_users, "are new"),
        night("1 % night", FIRST + minute, todoist.change(SHARE, night=1), why),
        night("unchanged night", FIRST + 2 * minute, 0, why),
        night("midnight", A_DAY_LATER, todoist.n_turning(FIRST, A_DAY_LATER), "have a task that changes bucket"),
    )


def _embedder() -> Embedder:
    """A tiny nomic, loaded; one thread, so that CPU seconds are those of the work and not of threads that wait."""
    import torch

    torch.set_num_threads(1)
    folder = save_tiny_nomic(FOLDER / "tiny-nomic")
    embedder = Embedder(str(folder), prompt="clustering: ", dim=32, device="cpu")
    embedder.encode(["one text to load the model"])
    return embedder


def _number(name: str, default: int, at_most: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit() or not 1 <= int(text) <= at_most:
        raise ValueError(f"{name}={text}: a number from 1 to {at_most} is wanted")
    return int(text)


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def say(text: str) -> None:
    """One line of progress, at once."""
    console.print(text, markup=False)


if __name__ == "__main__":
    sys.exit(main())
