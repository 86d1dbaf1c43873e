"""The commands of `python -m assets`, as generators of the lines to print."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import duckdb
import psycopg
import pyarrow as pa

from assets import reports
from assets.analysis.map import draw_task_map, mapped_tasks
from assets.analysis.result_text import Format, show_result, write_result
from assets.analysis.session import session_from_environment
from assets.analysis.shell import enable_completion, run_shell
from assets.calibration import measure_calibration
from assets.definitions import GRAPH
from assets.definitions.context_store import context_store
from assets.definitions.task_clusters import task_clusters
from assets.engine.erase import erase
from assets.engine.errors import (
    AssetError,
    OptionsError,
    ShardFailure,
    ShardsFailed,
    ShardUnreadable,
    WrongShardCount,
    failure_lines,
)
from assets.engine.hashing import shard_of
from assets.engine.parquet import Shards
from assets.engine.plan import Plan
from assets.engine.results import ShardResult
from assets.options import RunOptions
from assets.reshard import reshard
from assets.runtime import LAYOUT_LOCK, Runtime, runtime_from_environment
from assets.steps import StepRunner
from contexts.assembly.explain import UnknownDecision
from contexts.assembly.explanation_text import explain_decision, explain_user
from contexts.assembly.history import HISTORY, HistoryUnreadable, set_history_aside
from contexts.postgres.errors import describe_error
from contexts.postgres.locks import locked
from contexts.postgres.migrate import MigrationsMissing, check_migrated
from contexts.postgres.run_log import AssetRun, RunLog
from contexts.postgres.sql import connect
from contexts.progress import ProgressLogger
from contexts.settings import DatabaseSettings, Settings, SettingsError, check_settings, read_settings
from contexts.text import counted
from contexts.themes.cluster import Calibration
from contexts.themes.model_loading import EmbeddingError
from contexts.todoist.accounts import batch_notice
from contexts.todoist.client import TodoistError
from contexts.todoist.credentials import CredentialsError
from contexts.todoist.refusals import MostRefused, RefusalVerdict

_MAPS = Path(".local") / "maps"
"""The folder of maps without a name of their own."""

KNOWN_ERRORS = (
    SettingsError,
    AssetError,
    EmbeddingError,
    HistoryUnreadable,
    TodoistError,
    CredentialsError,
    UnknownDecision,
    MigrationsMissing,
    duckdb.Error,
    pa.ArrowException,
    psycopg.Error,
    OSError,
)
"""Errors whose message says all; any other one is a fault of the code."""


def show_plan(options: RunOptions, *, each: bool) -> Iterator[str]:
    """Estimate a run that would begin now. each: add a line for each asset and shard."""
    with _step_runner(options) as runner:
        if runner.runtime.shards.layout() is None:
            yield f"Nothing was ever written below DATA_ROOT={runner.runtime.settings.data_root}: a first night"
        forecast, planner = runner.forecast()
        yield from reports.estimate_table(runner.estimate(forecast, planner, runner.selected))
        yield from reports.events_lines(runner.n_users_with_events)
        yield from reports.waiting_lines(forecast)
        yield from reports.shard_lines(forecast, planner, runner.selected) if each else ()


def run_pipeline(options: RunOptions) -> Iterator[str]:
    """Run the pipeline, or a part of it, in this process: the estimate first, then the progress of each step.

    A shard that fails holds up no other one and no later step. Raises ShardsFailed at the end if there are such
    shards, and MostRefused if Todoist refused most accounts.
    """
    asset_runs, failures = list[AssetRun](), list[ShardFailure]()
    with _step_runner(options) as runner:
        yield from reports.estimate_table(runner.estimate(*runner.forecast(), runner.selected))
        run_id = f"by hand {runner.now:%Y-%m-%d %H:%M:%S} {uuid4().hex[:6]}"
        for step in GRAPH.steps:
            if runner.members(step):
                # The step before may have calibrated the model, and its calibration is a resource.
                current = replace(runner, resources=runner.runtime.load_resources())
                asset_runs += yield from _run_step(current, step, run_id, failures)
    _raise_unexpected(failures)
    failures = [_described(failure) for failure in failures]
    try:
        RefusalVerdict.of(asset_run.counts for asset_run in asset_runs).raise_if_outage()
    except MostRefused as error:
        if failures:
            raise AssetError("\n".join([*failure_lines(failures), str(error)])) from error
        raise
    if failures:
        raise ShardsFailed(failures)


def _described(failure: ShardFailure) -> ShardFailure:
    """Return a failure whose error is a sentence, also if it comes from Postgres."""
    if not isinstance(failure.error, psycopg.Error):
        return failure
    return replace(failure, error=AssetError(describe_error(failure.error)))


def _raise_unexpected(failures: Iterable[ShardFailure]) -> None:
    """Raise a failure that is none of the known errors as it is: a fault of the code needs its traceback."""
    for failure in failures:
        if not isinstance(failure.error, KNOWN_ERRORS):
            failure.error.add_note("\n".join(failure_lines(failures)))
            raise failure.error


def _run_step(
    runner: StepRunner, step: str, run_id: str, failures: list[ShardFailure]
) -> Generator[str, None, list[AssetRun]]:
    started_at = datetime.now(UTC)
    runner.begin(step, run_id, started_at)
    step_plan, planner = runner.plan(step)
    runner.start(step, run_id, started_at, step_plan, runner.estimate(step_plan, planner, runner.members(step)))
    results, failed = list[ShardResult](), list[ShardFailure]()
    is_complete = False
    try:
        yield from _materialize(runner, step, step_plan, results, failed)
        yield from reports.waiting_lines(step_plan)
        is_complete = not failed
        failures += failed
    finally:
        asset_runs = runner.finish(step, run_id, started_at, results, is_complete=is_complete)
    return asset_runs


def _materialize(
    runner: StepRunner, step: str, step_plan: Plan, results: list[ShardResult], failed: list[ShardFailure]
) -> Iterator[str]:
    began, messages = time.monotonic(), list[str]()
    progress = ProgressLogger(f"shards of {step}", len(step_plan.entries), messages.append)
    for result in runner.materialize(step_plan, failed):
        results.append(result)
        progress.add(1)
        while messages:
            yield f"  {messages.pop()}"
    yield reports.step_summary(step, results, time.monotonic() - began)
    if failed:
        yield f"  failed: {counted(len(failed), 'shard')}, which the end of this run names with the remedy"


def show_runs(days: int) -> Iterator[str]:
    """Show the run log of the last days."""
    with runtime_from_environment() as runtime:
        step_runs = runtime.run_log.step_runs_since(datetime.now(UTC) - timedelta(days=days))
    if not step_runs:
        yield f"no runs in the last {days} days"
    for step_run in step_runs:
        yield from reports.run_lines(step_run)


def explain(user: str | None, decision: str | None, last: int) -> Iterator[str]:
    """Explain the last changes of a user's context, or the origin of a decision's tip."""
    with runtime_from_environment() as runtime:
        if user is not None:
            if not runtime.accounts.existing([user]):
                raise AssetError(f"there is no user '{user}'. See: python -m contexts accounts list")
            yield from explain_user(runtime.history, user, last)
        else:
            yield from explain_decision(runtime.history, str(decision))


def erase_user(user: str) -> Iterator[str]:
    """Erase a user from Postgres, the Parquet files and the history."""
    with runtime_from_environment() as runtime:
        held_until = runtime.accounts.held_at_provider_until(user)
        existed = runtime.accounts.remove(user)
        n_rows, n_versions = _erase_files(runtime, user)
        if not existed and not n_rows and not n_versions:
            raise AssetError(f"there is no trace of a user '{user}'. See: python -m contexts accounts list")
        rows, versions = counted(n_rows, "row"), counted(n_versions, "version")
        yield f"erased {user}: the rows in Postgres, {rows} of assets and {versions} of contexts"
        if held_until is not None:
            yield batch_notice(user, held_until)
        n_days = runtime.settings.embedding_cache_days
        yield f"Vectors of the user's earlier texts, which are stored without a user, expire within {n_days} days."


def _erase_files(runtime: Runtime, user: str) -> tuple[int, int]:
    """Erase a user from all files that can be read, and return the numbers of rows and of versions of contexts.

    Raises AssetError at the end if there are others. The vectors of the user's texts are erased, too.
    """
    n_rows, n_versions, unreadable, text_hashes = 0, 0, dict[str, None](), set[str]()

    def erase_history() -> int:
        try:
            with runtime.lock(context_store.name, shard_of(user, runtime.settings.n_shards)):
                runtime.store.remove_orphans([user])
                return runtime.history.erase([user])
        except HistoryUnreadable as error:
            unreadable[str(error)] = None
            return 0

    def erase_vectors(rows: pa.Table) -> None:
        if "text_hash" in rows.column_names:
            text_hashes.update(filter(None, rows["text_hash"].to_pylist()))
            runtime.vector_cache.erase(text_hashes)

    # The history first: if this command dies, the next run ends the erasure for users who still have rows of assets.
    n_versions = erase_history()
    try:
        n_rows = erase(GRAPH, runtime.shards, [user], runtime.lock, erase_vectors)
    except ShardsFailed as error:
        unreadable[str(error)] = None
    # A run that held a lock before may have written the vectors, the history and the row of the store again.
    runtime.vector_cache.erase(text_hashes)
    n_versions += erase_history()
    if unreadable:
        raise AssetError(
            "\n".join(unreadable) + f"\nSuch a file can hold data of {user}. After the remedy erase the user again,"
            f" which also removes files set aside: python -m assets erase {user}"
        )
    return n_rows, n_versions


def calibrate_threshold(*, force: bool) -> Iterator[str]:
    """Calibrate the model from the stored vectors. force: replace a stored calibration."""
    with runtime_from_environment() as runtime:
        model = runtime.embedder.version
        stored, measured = runtime.calibrations.get(model), measure_calibration(runtime.shards, model)
        if not measured.n_used:
            raise AssetError(f"there are no vectors of {model} yet. Run: python -m assets materialize")
        yield (
            f"{model}: {_calibration_text(measured.calibration)},"
            f" from {measured.n_used:,} of {measured.n_texts:,} texts"
        )
        if stored is not None and not force:
            yield (
                f"kept the stored {_calibration_text(stored)}: a new one would change everybody's themes."
                f" Replace it: --force"
            )
        else:
            runtime.calibrations.set(model, measured.calibration, measured.n_texts)
            yield f"stored; the next run of {task_clusters.step} clusters all users with it"


def _calibration_text(calibration: Calibration) -> str:
    n_means = len(calibration.centering.means)
    means = {0: "no mean", 1: "the mean of all texts"}.get(n_means, f"the means of {n_means} languages")
    return f"threshold {calibration.threshold:.4f}, spread {calibration.spread:.4f}, {means}"


def draw_map(user: str, path: str | None) -> Iterator[str]:
    """Draw a user's tasks in two dimensions, coloured by theme."""
    target = Path(path) if path else _MAPS / f"{Path(user).name}.png"
    tasks = mapped_tasks(_shards(), user)
    n_themes = len({task.theme_id for task in tasks} - {None})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draw_task_map(tasks, f"{user}: {len(tasks)} tasks, {n_themes} themes", target)
    except (OSError, ValueError) as error:
        raise AssetError(f"{target} cannot be written: {error}. Name another file: map {user} FILE.png") from None
    yield f"{target}: {len(tasks)} tasks in {n_themes} themes"


def show_graph() -> Iterator[str]:
    """List the steps with their assets and inputs."""
    for step, members in GRAPH.steps.items():
        yield step
        for member in members:
            inputs = ", ".join(edge.asset for edge in member.inputs) or "the outside world"
            yield f"  {member.name:16} reads {inputs}"


def show_shards(asset: str) -> Iterator[str]:
    """List the shards of an asset with rows, time and versions."""
    shards, unreadable, n_found = _shards(), list[str](), 0
    for shard in range(shards.n_shards):
        try:
            footer = shards.footer(GRAPH[asset], shard)
        except WrongShardCount:
            raise
        except ShardUnreadable as error:
            yield f"shard {shard:>4}  unreadable"
            unreadable.append(str(error))
            continue
        if footer is None:
            continue
        n_found += 1
        yield (
            f"shard {footer.shard:>4}  {footer.n_users:>7} users  {footer.n_rows:>9} rows"
            f"  {footer.materialized_at:%Y-%m-%d %H:%M}  data {footer.data_version[:12]}  {dict(footer.recipe)}"
        )
    if unreadable:
        raise ShardUnreadable("\n".join(unreadable))
    if not n_found:
        yield f"{asset} has no shards yet. Run: python -m assets materialize"


def answer_sql(statements: str | None, days: int, form: Format | None = None) -> Iterator[str]:
    """Answer DuckDB statements; None reads them from standard input, with a prompt at a terminal.

    form: None shows results as they fit at a terminal, and whole tables elsewhere.
    """
    with session_from_environment(days) as session:
        if statements is not None or not sys.stdin.isatty():
            text = sys.stdin.read() if statements is None else statements
            for result in session.results(text):
                is_shown = form is None and sys.stdout.isatty()
                yield from show_result(result) if is_shown else write_result(result, form or Format.TABLE)
        else:
            enable_completion(session.names())
            yield from run_shell(session, input)


def move_rows(n_shards: int) -> Iterator[str]:
    """Move the rows of all assets and of the history to another number of shards."""
    check_settings(Settings, DatabaseSettings)
    settings, url = read_settings(Settings), read_settings(DatabaseSettings).database_url
    with connect(url) as connection, locked(connection, LAYOUT_LOCK):
        check_migrated(connection)
        yield from filter(None, reshard(GRAPH, settings.data_root, n_shards))
        RunLog(connection).forget_waits()


def rebuild_shard(asset: str, shard: int, day: date | None) -> Iterator[str]:
    """Set a shard's file aside, so that the next run rebuilds it.

    day: of a file of the history; None for all unreadable ones of the shard.
    """
    shards = _shards()
    if asset == HISTORY:
        yield from _rebuild_history(shards, shard, day)
        return
    if day is not None:
        raise OptionsError(f"{asset} has no days: --day is for {HISTORY}")
    aside = shards.set_aside(GRAPH[asset], shard)
    yield f"moved the file to {aside}; the next run of {GRAPH[asset].step} rebuilds shard {shard}"


def _rebuild_history(shards: Shards, shard: int, day: date | None) -> Iterator[str]:
    try:
        asides = set_history_aside(shards.root, shard, day)
    except FileNotFoundError as error:
        raise OptionsError(f"{error} does not exist: there is nothing to set aside") from None
    for aside in asides:
        yield f"moved the file to {aside}; the versions of that day are lost for the users of shard {shard}"
    if not asides:
        yield f"every file of {HISTORY} in shard {shard} can be read"


def _shards() -> Shards:
    settings = read_settings(Settings)
    shards = Shards(settings.data_root, settings.n_shards)
    shards.check_layout()
    return shards


@contextmanager
def _step_runner(options: RunOptions) -> Iterator[StepRunner]:
    with runtime_from_environment() as runtime:
        yield StepRunner(GRAPH, runtime, runtime.load_resources(), datetime.now(UTC), options)
