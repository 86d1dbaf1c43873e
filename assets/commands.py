"""The commands of `python -m assets`; each gives lines to print."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from assets import bill
from assets.calibration import measured
from assets.definitions import GRAPH, context_store, task_clusters
from assets.doors import Doors, doors_from_environment
from assets.errors import AssetError
from assets.forget import forget
from assets.map import draw, rows_of, tasks_of
from assets.night import Night, Order
from assets.parquet import Shards
from assets.plan import Plan
from assets.records import Record
from assets.session import session_from_environment
from assets.shell import complete_lines, converse, shown
from assets.versions import shard_of
from contexts import why as reasons
from contexts.accounts import Look
from contexts.ledger import Page
from contexts.progress import Progress
from contexts.settings import Settings, read_settings


def plan(look: Look, *, each: bool, **order: Any) -> Iterator[str]:
    """The bill of a night that would begin now. each: with a line for each asset and shard."""
    with _night(look, order) as night:
        found, planner = night.forecast()
        chosen = night.order.selected
        yield from bill.lines(night.bill(found, planner, chosen))
        yield from _left_out(found)
        yield from bill.details(found, planner, chosen) if each else ()


def materialize(look: Look, **order: Any) -> Iterator[str]:
    """A night in this process: step by step its plan, then what came of it."""
    with _night(look, order) as night:
        yield from bill.lines(night.bill(*night.forecast(), night.order.selected))
        run_id = f"by hand {night.now:%Y-%m-%d %H:%M:%S} {uuid4().hex[:6]}"
        for step in GRAPH.steps:
            if night.order.of(step):
                yield from _run_step(night, step, run_id)


def _run_step(night: Night, step: str, run_id: str) -> Iterator[str]:
    began = datetime.now(UTC)
    found, planner = night.plan(step)
    night.open(step, run_id, began, night.bill(found, planner, night.order.of(step)))
    records: list[Record] = []
    is_whole = False
    try:
        yield from _progress(night, step, found, records)
        yield from _left_out(found)
        is_whole = True
    finally:
        night.close(step, run_id, began, records, is_whole=is_whole)


def _left_out(found: Plan) -> Iterator[str]:
    for name in sorted(set(found.waiting.values())):
        n_shards = list(found.waiting.values()).count(name)
        yield f"left out: {n_shards} shards, until {name} was made, which they read and which is behind"


def _progress(night: Night, step: str, found: Plan, records: list[Record]) -> Iterator[str]:
    began, told = time.monotonic(), list[str]()
    progress = Progress(f"shards of {step}", len(found.entries), told.append)
    for record in night.execute(found):
        records.append(record)
        progress.add(1)
        while told:
            yield f"  {told.pop()}"
    n_users = sum(record.n_users_changed for record in records)
    counts: dict[str, int] = {}
    for record in records:
        for name, n in record.counts.items():
            counts[name] = counts.get(name, 0) + n
    told_counts = "".join(f", {n:,} {name.replace('_', ' ')}" for name, n in counts.items() if n)
    yield f"{step}: {len(records)} shards, {n_users:,} users{told_counts} in {time.monotonic() - began:.1f} s"


def ledger(days: int) -> Iterator[str]:
    """The ledger's pages of the last days."""
    with doors_from_environment() as doors:
        pages = doors.ledger.pages(datetime.now(UTC) - timedelta(days=days))
    if not pages:
        yield f"no runs in the last {days} days"
    for page in pages:
        yield from _page(page)


def _page(page: Page) -> Iterator[str]:
    state = f"ended {page.finished_at:%H:%M:%S}" if page.finished_at else "did not end"
    users = "" if page.n_users is None else f", {page.n_users:,} users"
    yield f"{page.started_at:%Y-%m-%d %H:%M:%S}  {page.step}, {state}{users}  ({page.run_id})"
    for work in dict.fromkeys([*page.planned, *page.done, *page.saved]):
        cells = (
            f"{name} {amounts[work]:,.{digits}f}"
            for name, amounts, digits in (
                ("planned", page.planned, 0),
                ("done", page.done, 0),
                ("saved", page.saved, 0),
                ("seconds", page.seconds, 1),
            )
            if work in amounts
        )
        yield f"    {work.replace('_', ' '):20} {', '.join(cells)}"


def why(user: str | None, decision: str | None, last: int) -> Iterator[str]:
    """What changed in a user's context, or what a tip was made from."""
    with doors_from_environment() as doors:
        doors.shards.footer(context_store, 0)  # another N_SHARDS would look for the user in another shard
        if user is not None:
            yield from reasons.explain_user(doors.history, user, last)
        else:
            yield from reasons.explain_decision(doors.history, str(decision))


def forget_user(user: str) -> Iterator[str]:
    """Remove every trace of a user."""
    with doors_from_environment() as doors:
        is_known, texts = doors.accounts.remove(user), _texts_of(doors, user)
        n_rows = forget(GRAPH, doors.shards, [user], doors.lock)
        with doors.lock(context_store.name, shard_of(user, doors.settings.n_shards)):
            n_versions = doors.history.forget([user])
        doors.vectors.forget(texts)
        if not is_known and not n_rows and not n_versions:
            raise AssetError(f"there is no trace of a user '{user}'. See: python -m contexts.accounts list")
        yield f"{user} is gone from Postgres, {n_rows} rows of assets and {n_versions} versions of contexts with it"
        yield "A run that is under way may write rows of it back; the next run of fetch_signals takes them out again."
        n_days = doors.settings.embedding_cache_days
        yield f"Vectors of texts that they had changed or done before, under no name, go within {n_days} days."


def _texts_of(doors: Doors, user: str) -> set[str]:
    """The hashes of the texts that a user's tasks have, and had when they were embedded."""
    found: set[str] = set()
    for asset in (GRAPH["todoist_tasks"], GRAPH["task_embeddings"]):
        rows = rows_of(doors.shards, asset, user, ["text_hash"])
        found.update(each for each in rows["text_hash"].to_pylist() if each)
    return found


def calibrate(*, force: bool) -> Iterator[str]:
    """Choose the model's similarity threshold from the vectors that there are. force: also where there is one."""
    with doors_from_environment() as doors:
        model = doors.embedder.version
        stored, found = doors.store.threshold(model), measured(doors.shards, model)
        if not found.n_used:
            raise AssetError(f"there are no vectors of {model} yet. Run: python -m assets materialize")
        yield f"{model}: {found.threshold:.4f} by {found.n_used:,} of {found.n_texts:,} texts"
        if stored is not None and not force:
            yield f"kept is {stored:.4f}: another one would change everybody's themes. To replace it: --force"
        else:
            doors.store.set_threshold(model, found.threshold, found.n_texts)
            yield f"kept; the next run of {task_clusters.step} clusters everybody by it"


def draw_map(user: str, path: str | None) -> Iterator[str]:
    """Draw a user's tasks in two dimensions, coloured by theme."""
    written = Path(path or f"{Path(user).name}.png")
    tasks = tasks_of(_shards(), user)
    n_themes = len({task.theme_id for task in tasks} - {None})
    try:
        draw(tasks, f"{user}: {len(tasks)} tasks, {n_themes} themes", written)
    except (OSError, ValueError) as error:
        raise AssetError(f"{written} cannot be written: {error}. Name another file: map {user} FILE.png") from None
    yield f"{written}: {len(tasks)} tasks in {n_themes} themes"


def graph() -> Iterator[str]:
    """The steps, their assets and what these read."""
    for step, members in GRAPH.steps.items():
        yield step
        for member in members:
            reads = ", ".join(edge.asset for edge in member.inputs) or "the world outside"
            yield f"  {member.name:16} reads {reads}"


def shards(asset: str) -> Iterator[str]:
    """Each shard's rows, time and versions."""
    for footer in _shards().footers(GRAPH[asset]):
        yield (
            f"shard {footer.shard:>4}  {footer.n_users:>7} users  {footer.n_rows:>9} rows"
            f"  {footer.materialized_at:%Y-%m-%d %H:%M}  data {footer.data_version[:12]}  {dict(footer.recipe)}"
        )


def sql(statements: str | None, days: int) -> Iterator[str]:
    """What DuckDB answers; without statements they are read from the input, at a terminal with a prompt."""
    with session_from_environment(days) as opened:
        if statements is not None or not sys.stdin.isatty():
            yield from map(shown, opened.answers(sys.stdin.read() if statements is None else statements))
        else:
            complete_lines(opened.names())
            yield from converse(opened, input)


def rebuild(asset: str, shard: int) -> Iterator[str]:
    """Set a shard's file aside."""
    aside = _shards().set_aside(GRAPH[asset], shard)
    yield f"{aside} is what was there; the next run of {GRAPH[asset].step} makes shard {shard} anew"


def _shards() -> Shards:
    settings = read_settings(Settings)
    return Shards(settings.data_root, settings.n_shards)


@contextmanager
def _night(look: Look, order: dict[str, Any]) -> Iterator[Night]:
    asked = Order.read(look, **order)
    with doors_from_environment() as doors:
        yield Night(doors, datetime.now(UTC), asked)
