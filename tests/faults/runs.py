"""Runs that meet: two nights, an erasure, another number of shards, clocks set back, a pause, a missed night."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from assets.definitions import GRAPH
from assets.options import RunOptions
from assets.steps import StepRunner
from contexts.todoist.accounts import FetchScope
from contexts.todoist.mirror import text_hash
from faults.child import Outcome, Point
from faults.kills import kill_at_random
from faults.row import Row, require
from faults.trial import USERS, Trial, last_lines

_ERASED = "bob"
_OTHERS = tuple(user for user in USERS if user != _ERASED)
_NO_TRACE = "the next night leaves no trace of the user; all others are as unbroken"
_HOUR = timedelta(hours=1)
_COMMANDS = (("materialize",), ("erase", "ann"), ("rebuild", "todoist_tasks", "--shard", "0"), ("why", "ann"))

_USER_TABLES = (
    "SELECT c.table_name, c.column_name FROM information_schema.columns c JOIN information_schema.tables t"
    " USING (table_schema, table_name)"
    " WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE' AND c.column_name = 'user_id'"
)


def two_nights(trial: Trial) -> None:
    """Run two nights at once."""
    children = [trial.start("materialize") for _ in range(2)]
    for outcome in [child.wait() for child in children]:
        require(outcome.status == 0, f"one night ended with {outcome.status}: {last_lines(outcome.output)}")
    trial.require_whole()
    trial.require_fresh(USERS)
    trial.recover()


def erase_beside(trial: Trial) -> None:
    """Erase a user while a night is held at one of its calls, and let both end."""
    night = trial.start("materialize", point=Point("os:replace", trial.number + 1, "hold"))
    require(night.wait_until_held(), "the night never reached the point")
    erasure = trial.start("erase", _ERASED)
    night.release()
    for name, outcome in (("erase", erasure.wait()), ("the night", night.wait())):
        require(outcome.status == 0, f"{name} ended with {outcome.status}: {last_lines(outcome.output)}")
    end_erasure(trial)


def kill_erasure(target: str) -> Callable[[Trial], None]:
    """Kill an erasure at a call of a function: in each trial at a later one."""

    def run(trial: Trial) -> None:
        outcome = trial.run("erase", _ERASED, point=Point(target, trial.number + 1))
        require(outcome.was_killed, f"the erasure was not killed: {last_lines(outcome.output)}")
        end_erasure(trial)

    return run


def end_erasure(trial: Trial) -> None:
    """Run a night; then the user must have left no trace, and the others all they had."""
    trial.recover(users=_OTHERS)
    require(not traces(trial), f"traces of the user are left: {', '.join(traces(trial))}")


def traces(trial: Trial) -> list[str]:
    """The places that still hold the erased user, or a vector of the user's own texts."""
    world = trial.world
    places = [asset for asset in GRAPH.assets if any(row["user_id"] == _ERASED for row in world.rows(asset))]
    places += [
        f"index of {asset.name}"
        for asset in GRAPH
        for footer in world.shards.footers(asset)
        if _ERASED in footer.index.users
    ]
    places += ["history"] * bool(world.history.versions_of(_ERASED))
    for table, column in world.connection.execute(_USER_TABLES).fetchall():
        found = f'SELECT count(*) FROM "{table}" WHERE "{column}" = %s'
        places += [table] * (world.connection.execute(found, [_ERASED]).fetchone() != (0,))
    # Vectors of earlier texts, such as the completed "write to", stay until they expire, as the command says.
    texts = [f"call the dentist of {_ERASED}", f"water the plants of {_ERASED}"]
    cached = "SELECT count(*) FROM text_vectors WHERE text_hash = %s"
    for text in texts:
        n_vectors = world.connection.execute(cached, [bytes.fromhex(text_hash(text))]).fetchone()
        places += [f"the vector of '{text}'"] * (n_vectors != (0,))
    return places


def other_shards(trial: Trial) -> None:
    """Run every command with another N_SHARDS than the root's."""
    before = contents(trial)
    tokens = "SELECT string_agg(t::TEXT, ',' ORDER BY user_id) FROM todoist_accounts t"
    state = trial.connection.execute(tokens).fetchone()
    n_calls = len(trial.todoist.calls)
    for arguments in _COMMANDS:
        outcome = trial.run(*arguments, n_shards=5)
        trial.require_failed(outcome, "N_SHARDS", "5")
    require(contents(trial) == before, "files were changed")
    require(trial.connection.execute(tokens).fetchone() == state, "accounts were changed")
    require(len(trial.todoist.calls) == n_calls, "Todoist was called")
    trial.recover()


def contents(trial: Trial) -> dict[str, str]:
    """A digest of every file of a trial."""
    files = (path for path in trial.root.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def reshard(trial: Trial) -> None:
    """Move the rows to another number of shards, run a night there, and move them back."""
    calls, vectors = len(trial.todoist.calls), n_vectors(trial)
    require_done(trial.run("reshard", "3"))
    require(len(trial.todoist.calls) == calls, "the move called Todoist")
    require(n_vectors(trial) == vectors, "the move embedded texts")
    require_done(trial.run("materialize", n_shards=3))
    trial.require_fresh(USERS)
    require_done(trial.run("reshard", "2", n_shards=3))
    trial.recover()


def n_vectors(trial: Trial) -> Any:
    """The number of cached vectors."""
    return trial.connection.execute("SELECT count(*) FROM text_vectors").fetchone()


def require_done(outcome: Outcome) -> None:
    """Require exit status 0."""
    require(outcome.status == 0, f"the exit status is {outcome.status}: {last_lines(outcome.output)}")


def kill_reshard(target: str) -> Callable[[Trial], None]:
    """Kill a move at a call of a function, a night between, and end the move; in each trial at a later call."""

    def run(trial: Trial) -> None:
        outcome = trial.run("reshard", "3", point=Point(target, 2 * trial.number + 1))
        require(outcome.was_killed, f"the move was not killed: {last_lines(outcome.output)}")
        night = trial.run("materialize")
        require(night.status == 0 or "reshard 3" in night.output, f"the night: {last_lines(night.output)}")
        end_move(trial)

    return run


def kill_reshard_at_random(trial: Trial) -> None:
    """Kill a move at a random instant."""
    kill_at_random(trial, "reshard", "3")
    end_move(trial)


def end_move(trial: Trial) -> None:
    """End a move that was broken off, and move the rows back."""
    require_done(trial.run("reshard", "3"))
    require_done(trial.run("materialize", n_shards=3))
    trial.require_fresh(USERS)
    require_done(trial.run("reshard", "2", n_shards=3))
    trial.recover()


def set_clock_back(trial: Trial) -> None:
    """Run a night by a clock that is two hours ahead, change tasks, and run the next by the right one."""
    with trial.bench.new_stage() as stage, stage.trial(trial.number, trial.chance) as own:
        own.world.night(datetime.now(UTC) + 2 * _HOUR)
        for user in USERS:
            stage.todoist.advance(user, {"items": [{"id": "t8", "content": f"sweep the yard of {user}"}]})
        require_done(own.night())
        own.require_equal(stage.from_nothing())
        claimed = max(row["fetched_at"] for row in own.world.stored().values())
        require(claimed <= datetime.now(UTC), f"a context claims to be of {claimed}, which is in the future")


def pause(trial: Trial) -> None:
    """Pause embed_tasks for a night in which one user changed nothing that is embedded."""
    with trial.bench.new_stage() as stage, stage.trial(trial.number, trial.chance) as own:
        now = datetime.now(UTC)
        own.world.night(now)
        stage.todoist.advance("ann", {"items": [{"id": "t8", "content": "sweep the yard"}]})
        own.world.run(now + _HOUR / 2, RunOptions(), paused="embed_tasks")
        times = {user: row["fetched_at"] for user, row in own.world.stored().items()}
        require(times == {**dict.fromkeys(USERS, now + _HOUR / 2), "ann": now}, f"not fresh alike: {times}")
        own.world.run(now + 3 * _HOUR, RunOptions(), paused="embed_tasks")
        row = own.world.stored()["ann"]
        require("sweep the yard" in row["context_json"], "the changed user waits longer than THEMES_WAIT")
        own.world.night(now + 4 * _HOUR)
        own.require_equal(stage.from_nothing())


def miss_a_night(trial: Trial) -> None:
    """Let the scheduler be down at the night hour."""
    runtime, now = trial.world.runtime, datetime.now(UTC)
    night = runtime.settings.last_night(now) + timedelta(days=1)
    late = night + 4 * _HOUR + timedelta(minutes=1)
    runner = StepRunner(GRAPH, runtime, trial.world.resources, late)
    require(runner.scheduled(late).options.scope is FetchScope.NIGHTLY, "the first run after the night is no night")
    trial.world.night(late, scope=FetchScope.NIGHTLY)
    scopes = {runner.scheduled(late + n * _HOUR).options.scope for n in range(1, 19)}
    require(scopes == {FetchScope.LIKELY}, "a second night on the same day")
    trial.recover()


ROWS = (
    Row("two nights at once", "a night", "both succeed; all is as unbroken", two_nights, 6, 1),
    Row("a user erased beside a night", "erase", _NO_TRACE, erase_beside, 6, 1),
    Row(
        "erasure killed after the account is removed",
        "erase",
        _NO_TRACE,
        kill_erasure("assets.commands:_erase_files"),
    ),
    Row("erasure killed before a rename", "erase", _NO_TRACE, kill_erasure("os:replace"), 6, 1),
    Row(
        "erasure killed before the history",
        "erase",
        _NO_TRACE,
        kill_erasure("contexts.assembly.history:History.erase"),
    ),
    Row("another N_SHARDS", "every command", "refused before anything is read or written", other_shards, 1),
    Row("rows moved to other shards", "reshard", "no fetch, no embedding; nights go on as unbroken", reshard),
    Row(
        "move killed before a rename",
        "reshard",
        "the same command ends it; nights refuse meanwhile or are right",
        kill_reshard("os:replace"),
        6,
    ),
    Row(
        "move killed before a folder is synced",
        "reshard",
        "the same command ends it; nights refuse or are right",
        kill_reshard("contexts.files:_sync_folder"),
        6,
    ),
    Row(
        "move killed at a random instant",
        "reshard",
        "the same command ends it; then as unbroken",
        kill_reshard_at_random,
        6,
    ),
    Row("clock set back by two hours", "a night", "changed contexts are written; as unbroken", set_clock_back),
    Row("embed_tasks paused", "compute_context", "only changed users wait, and not longer than THEMES_WAIT", pause),
    Row(
        "scheduler down at the night hour", "fetch_signals", "the first run after it is the night, once", miss_a_night
    ),
)
