"""Faults of Postgres: restarted and killed in a run, stopped before one, and statements that wait too long."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from psycopg import sql

from faults.child import Point
from faults.row import Row, require
from faults.trial import Trial, last_lines

_PROMISE = "exit 1 in one sentence, nothing half; the next night is as unbroken"

_HOLD = "SELECT pg_advisory_lock(7403, hashtext(%s))"


def restart_in(target: str, mode: str) -> Callable[[Trial], None]:
    """Restart Postgres while a night is held at a call of a function. mode: of pg_ctl."""

    def run(trial: Trial) -> None:
        child = trial.start("materialize", point=Point(target, then="hold"))
        require(child.wait_until_held(), "the night never reached the point")
        control(trial, "restart", "-m", mode)
        child.release()
        outcome = child.wait()
        trial.reconnect()
        trial.require_failed(outcome, "connection")
        trial.require_whole()
        trial.recover()

    return run


def stop_before(trial: Trial) -> None:
    """Run a night while Postgres is stopped."""
    control(trial, "stop", "-m", "fast")
    try:
        outcome = trial.night()
    finally:
        control(trial, "start")
    trial.reconnect()
    trial.require_failed(outcome, "connection")
    trial.require_whole()
    trial.recover()


def control(trial: Trial, action: str, *options: str) -> None:
    """Let pg_ctl stop, start or restart the server of the matrix, with the options that it was started with."""
    require(trial.bench.postgres_folder, "this matrix may not stop its Postgres")
    folder = Path(str(trial.bench.postgres_folder))
    postgres, started_with = (folder / "postmaster.opts").read_text().strip().split(" ", 1)
    program = Path(postgres).with_name("pg_ctl")
    more = ["-o", started_with] if action == "start" else []
    command = [program, action, "-w", "-D", folder, "-l", folder / "restarts.log", *options, *more]
    owner = {"user": folder.stat().st_uid, "group": folder.stat().st_gid, "extra_groups": []}  # pg_ctl refuses root
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=folder, **(owner if os.getuid() == 0 else {})
    )
    require(done.returncode == 0, f"pg_ctl {action}: {done.stdout} {done.stderr}")


def wait_too_long(name: str) -> Callable[[Trial], None]:
    """Let a night wait for the lock of a shard longer than statement_timeout."""

    def run(trial: Trial) -> None:
        database = sql.Identifier(trial.root.name)
        trial.connection.execute(sql.SQL("ALTER DATABASE {} SET statement_timeout = '300ms'").format(database))
        trial.connection.execute(_HOLD, [name])
        outcome = trial.night()
        trial.connection.execute("SELECT pg_advisory_unlock_all()")
        trial.require_failed(outcome, "statement_timeout" if "statement_timeout" in outcome.output else "timeout")
        trial.require_whole()
        trial.require_fresh(trial.users_in(1))
        trial.connection.execute(sql.SQL("ALTER DATABASE {} RESET statement_timeout").format(database))
        trial.recover()

    return run


def refuse_connections(trial: Trial) -> None:
    """Let Postgres end the session of a night again and again, at each of its statements in turn."""
    child = trial.start("materialize", point=Point(_SESSION_POINTS[trial.number], then="hold"))
    require(child.wait_until_held(), "the night never reached the point")
    trial.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    child.release()
    outcome = child.wait()
    require("Traceback" not in outcome.output, f"a traceback: {last_lines(outcome.output)}")
    require(outcome.status == 1, f"the exit status is {outcome.status}: {last_lines(outcome.output)}")
    trial.require_whole()
    trial.recover()


_SESSION_POINTS = (
    "contexts.todoist.accounts:Accounts.load",
    "contexts.todoist.accounts:Accounts.save_sync_states",
    "contexts.themes.vector_cache:VectorCache.add",
    "contexts.assembly.store:ContextStore._write",
    "contexts.postgres.run_log:RunLog.finish_step_run",
)

ROWS = (
    Row(
        "restarted before the tokens are saved",
        "Postgres",
        _PROMISE,
        restart_in("contexts.todoist.accounts:Accounts.save_sync_states", "fast"),
    ),
    Row(
        "crashed and recovered in the upsert",
        "Postgres",
        _PROMISE,
        restart_in("contexts.assembly.store:ContextStore._write", "immediate"),
    ),
    Row("stopped before the night", "Postgres", _PROMISE, stop_before),
    Row("session ended by an administrator", "Postgres", _PROMISE, refuse_connections, 5, 1),
    Row(
        "statement_timeout at the lock of a shard",
        "Postgres",
        "exit 1 in one sentence; the other shard is fresh",
        wait_too_long("user_contexts/0"),
    ),
)
