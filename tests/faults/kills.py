"""Kills: a process that is killed with SIGKILL leaves nothing half, and the next night makes up for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from contexts.postgres.sql import connect
from faults.child import Child, Point
from faults.row import Row, require
from faults.trial import Trial, last_lines

_PROMISE = "nothing is half; the next night ends as an unbroken one"
_LOCK_WAIT_S = 60
_POLL_S = 0.02

_WAITS_FOR_A_LOCK = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def at_point(target: str, then: str = "kill", step: int = 1) -> Callable[[Trial], None]:
    """Kill a night at a call of a function: in each trial `step` calls later."""

    def run(trial: Trial) -> None:
        outcome = trial.night(Point(target, step * trial.number + 1, then))  # type: ignore[arg-type]
        require(outcome.was_killed, f"the night was not killed: {last_lines(outcome.output)}")
        trial.require_whole()
        trial.recover()

    return run


def in_the_upsert(trial: Trial) -> None:
    """Kill a night whose upsert waits for a row that another transaction holds."""
    with connect(trial.database) as other, other.transaction(force_rollback=True):
        other.execute("SELECT FROM context_store WHERE user_id = %s FOR UPDATE", ["ann"])
        child = trial.start("materialize")
        wait_for_a_lock(trial, child)
        child.kill()
        outcome = child.wait()
    require(outcome.was_killed, f"the night was not killed: {last_lines(outcome.output)}")
    trial.require_whole()
    trial.recover()


def wait_for_a_lock(trial: Trial, child: Child) -> None:
    """Wait until a session of the trial's database waits for a lock."""
    until = time.monotonic() + _LOCK_WAIT_S
    while trial.connection.execute(_WAITS_FOR_A_LOCK).fetchone() == (0,):
        require(child.is_running and time.monotonic() < until, "the process never waited for the lock")
        time.sleep(_POLL_S)


def at_random(trial: Trial) -> None:
    """Kill a night at a random instant; in every fourth trial the next night, too."""
    for _ in range(2 if trial.number % 4 == 3 else 1):
        kill_at_random(trial, "materialize")
        trial.require_whole()
    trial.recover()


def kill_at_random(trial: Trial, *arguments: str) -> None:
    """Start a command and kill it at a random instant of a night's duration."""
    seconds = trial.chance.uniform(0, trial.stage.expected.seconds)
    child = trial.start(*arguments)
    child.wait_until_held()
    time.sleep(seconds)
    child.kill()
    child.wait()


def first_night(trial: Trial) -> None:
    """Kill the first night of all at a random instant."""
    trial.begin_from_nothing()
    kill_at_random(trial, "materialize")
    trial.recover()


ROWS = (
    Row(
        "killed after the data, before the sync tokens",
        "fetch_signals",
        _PROMISE,
        at_point("contexts.todoist.accounts:Accounts.save_sync_states"),
        2,
        1,
    ),
    Row(
        "killed in the middle of a Parquet write",
        "any file",
        _PROMISE,
        at_point("contexts.files:FileStore._make_folder", "cut"),
        12,
        1,
    ),
    Row("killed before a rename", "any file", _PROMISE, at_point("os:replace", step=2), 6),
    Row(
        "killed after a rename, before the folder is synced",
        "any file",
        _PROMISE,
        at_point("contexts.files:_sync_folder", step=2),
        6,
    ),
    Row(
        "killed between vector cache and file",
        "embed_tasks",
        _PROMISE,
        at_point("contexts.themes.vector_cache:VectorCache.add", "kill after"),
        2,
    ),
    Row(
        "killed between history and store",
        "compute_context",
        _PROMISE,
        at_point("contexts.assembly.store:ContextStore.upsert"),
        2,
    ),
    Row("killed in the middle of the upsert", "compute_context", _PROMISE, in_the_upsert, 2, 1),
    Row(
        "killed between store and file",
        "compute_context",
        _PROMISE,
        at_point("contexts.assembly.store:ContextStore.upsert", "kill after"),
        2,
    ),
    Row(
        "killed before the run is recorded",
        "every step",
        _PROMISE,
        at_point("contexts.postgres.run_log:RunLog.finish_step_run"),
        4,
    ),
    Row("killed at a random instant", "a night", _PROMISE, at_random, 60, 2),
    Row("killed at a random instant", "the first night of all", _PROMISE, first_night, 6),
)
