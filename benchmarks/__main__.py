"""`make bench`: what a first night, one in which 1 % of the users changed and an unchanged one cost."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from benchmarks.night import Pipeline
from benchmarks.report import Bench, Night, save, show
from benchmarks.todoist import StandIn, standing_in
from benchmarks.users import N_TASKS, users_of_equal_size
from contexts.embed import Embedder
from contexts.migrate import migrate
from contexts.sql import connect
from contexts.todoist import Credentials, Todoist
from local import postgres
from local.checkpoint import save_tiny_nomic
from local.samples import SampleUser, changed_users, night_changes

LOCAL = Path(__file__).parent.parent / ".local"
FOLDER = LOCAL / "bench"
FIRST = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
"""Nights are a minute apart, and it is midnight nowhere: what changes is what users changed."""

console = Console(highlight=False)


def main() -> int:
    """Run the nights, print the table, write `.local/bench.json`."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        n_users, n_shards = _number("USERS", 1000, 20_000), _number("N_SHARDS", 8, 1024)
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
    save(bench, LOCAL / "bench.json")
    show(bench, console)
    say("The figures: .local/bench.json")
    return 0


def _bench(stack: ExitStack, n_users: int, n_shards: int) -> Bench:
    say(f"Making {n_users} users of {N_TASKS} tasks")
    users = users_of_equal_size(n_users, today=FIRST.date())
    say("Starting Postgres 18 and the local Todoist")
    url = stack.enter_context(postgres.running(FOLDER / "postgres"))
    connection = stack.enter_context(connect(url))
    migrate(connection)
    todoist = stack.enter_context(standing_in())
    began = time.process_time()
    embedder = _embedder()
    model_cpu_seconds = time.process_time() - began
    pipeline = Pipeline(connection, Todoist(todoist.url), embedder, FOLDER / "data", n_shards)
    _load(users, pipeline, todoist)
    nights = [_night("first night", 0, pipeline, todoist)]
    say(f"{_change(users, todoist)} users change some tasks")
    nights.append(_night("1 % night", 1, pipeline, todoist))
    nights.append(_night("unchanged night", 2, pipeline, todoist))
    return Bench(n_users, N_TASKS, n_shards, model_cpu_seconds, tuple(nights))


def _embedder() -> Embedder:
    """A tiny nomic, loaded; one thread, so that CPU seconds are those of the work and not of threads that wait."""
    import torch

    torch.set_num_threads(1)
    folder = save_tiny_nomic(FOLDER / "tiny-nomic")
    embedder = Embedder(str(folder), prompt="clustering: ", dim=32, device="cpu")
    embedder.encode(["one text to load the model"])
    return embedder


def _load(users: Sequence[SampleUser], pipeline: Pipeline, todoist: StandIn) -> None:
    say("Loading the users")
    for user in users:
        todoist.load(user.user_id, user.api_token, user.document)
        credentials = Credentials(user.api_token)
        pipeline.accounts.add(user.user_id, email=user.email, timezone=user.timezone, credentials=credentials)


def _change(users: Sequence[SampleUser], todoist: StandIn) -> int:
    """One in a hundred users changes some tasks; gives how many."""
    changed = changed_users(users, share=0.01, night=1)
    for user in changed:
        todoist.advance(user.user_id, night_changes(user, user.document, today=FIRST.date(), night=1))
    return len(changed)


def _night(name: str, number: int, pipeline: Pipeline, todoist: StandIn) -> Night:
    before = todoist.cpu_seconds()
    say(f"The {name}")
    costs = pipeline.night(FIRST + timedelta(minutes=number), say)
    return Night(name, tuple(costs), todoist.cpu_seconds() - before)


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
