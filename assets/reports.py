"""Lines to print: estimates, plans, and the log of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from assets.engine.asset import Asset
from assets.engine.plan import Plan, PlannedShard, Planner, Wait
from assets.engine.results import ShardResult
from assets.estimate import AssetEstimate, footers_of
from contexts.postgres.run_log import StepRun
from contexts.text import counted

_NO_EXPERIENCE = "first night: no experience yet"


def estimate_table(estimates: Iterable[AssetEstimate]) -> Iterator[str]:
    """Yield the estimates in aligned columns below a heading."""
    rows = [("asset", "shards", "why", "users", "work", "saved", "seconds"), *map(_cells, estimates)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def estimate_note(estimates: Iterable[AssetEstimate]) -> str:
    """Return the estimates as a Markdown list."""
    return "\n".join("- " + " · ".join(filter(None, _cells(estimate))) for estimate in estimates)


def shard_lines(plan: Plan, planner: Planner, assets: Iterable[Asset]) -> Iterator[str]:
    """Yield a line for each asset and shard: run with reason and users, wait with the stale asset, or up to date."""
    for asset in assets:
        planned = {entry.shard: entry for entry in plan.entries_of(asset.name)}
        ancestors = planner.graph.ancestors(asset.name)
        waits = [wait for wait in plan.waits if wait.asset in ancestors]
        shards = {*planned, *(wait.shard for wait in waits), *footers_of(planner, asset)}
        for shard in sorted(shards):
            action = _action(planned.get(shard), [wait for wait in waits if wait.shard == shard])
            yield f"{asset.name:16} shard {shard:>4}  {action}"


def waiting_lines(plan: Plan) -> Iterator[str]:
    """Yield a line for each asset that users of the plan wait for."""
    for name in sorted({wait.asset for wait in plan.waits}):
        yield _waiting(name, plan.waits)


def events_lines(n_users: int) -> Iterator[str]:
    """Yield a line with the number of users whose events are to be folded, if there are any."""
    if n_users:
        yield f"of the users of todoist_tasks, {n_users:,} have events: no call, unless an event needs one"


def step_summary(step: str, results: Iterable[ShardResult], seconds: float) -> str:
    """Return one line with the shards, users and counts of a finished step."""
    listed = list(results)
    counts: dict[str, int] = {}
    for result in listed:
        for name, n in result.counts.items():
            counts[name] = counts.get(name, 0) + n
    work = "".join(f", {n:,} {_words(name)}" for name, n in counts.items() if n)
    n_users = sum(result.n_users_computed for result in listed)
    return f"{step}: {counted(len(listed), 'shard', ',')}, {counted(n_users, 'user', ',')}{work} in {seconds:.1f} s"


def run_lines(run: StepRun) -> Iterator[str]:
    """Yield a heading and a line for each kind of work of a step's run."""
    unfinished = "did not finish" if run.planned or run.done else "did not get beyond its plan"
    state = f"ended {run.finished_at:%H:%M:%S}" if run.finished_at else unfinished
    users = "" if run.n_users is None else f", {counted(run.n_users, 'user', ',')}"
    yield f"{run.started_at:%Y-%m-%d %H:%M:%S}  {run.step}, {state}{users}  ({run.run_id})"
    for work in dict.fromkeys([*run.planned, *run.done, *run.saved]):
        cells = (
            f"{name} unknown" if (amount := amounts[work]) is None else f"{name} {amount:,.{digits}f}"
            for name, amounts, digits in (
                ("planned", run.planned, 0),
                ("done", run.done, 0),
                ("saved", run.saved, 0),
                ("seconds", run.seconds, 1),
            )
            if work in amounts
        )
        yield f"    {_words(work):20} {', '.join(cells)}"


def _waiting(name: str, waits: Iterable[Wait]) -> str:
    users = frozenset().union(*(wait.users for wait in waits if wait.asset == name))
    return f"waiting for {name}: {counted(len(users), 'user', ',')}"


def _action(entry: PlannedShard | None, waits: Sequence[Wait]) -> str:
    waiting = [_waiting(name, waits) for name in dict.fromkeys(wait.asset for wait in waits)]
    if entry is None:
        return ", ".join(waiting) or "up to date"
    bound = "at most " if entry.is_upper_bound else ""
    changed = f" of {', '.join(entry.changed)}" if entry.changed else ""
    run = f"run   {entry.reason}{changed}: {bound}{len(entry.workload.users):,} of {entry.workload.n_users:,} users"
    return ", ".join([run, *waiting])


def _cells(estimate: AssetEstimate) -> tuple[str, ...]:
    if not estimate.n_shards:
        return (estimate.asset, f"0 of {estimate.n_shards_total}", "up to date", *[""] * 4)
    bound, reasons = "at most " if estimate.is_upper_bound else "", estimate.reasons
    return (
        estimate.asset,
        f"{bound}{estimate.n_shards} of {estimate.n_shards_total}",
        ", ".join(f"{reason} {n}" if len(reasons) > 1 else reason for reason, n in reasons.items()),
        f"{bound}{estimate.n_users:,} of {estimate.n_users_total:,}",
        _work_cell(estimate),
        _saved_cell(estimate),
        _seconds_cell(estimate),
    )


def _work_cell(estimate: AssetEstimate) -> str:
    if estimate.work is None:
        return ""
    unit, n_likely = _words(estimate.work), estimate.n_likely
    likely = f", likely {n_likely:,}" if n_likely is not None and n_likely != estimate.n_units else ""
    if estimate.n_units is None:
        return f"{unit}: not known yet{likely}"
    cost = f", ${estimate.cost_usd:,.2f}" if estimate.cost_usd is not None else ""
    return f"{'at most ' if estimate.units_are_upper_bound else ''}{estimate.n_units:,} {unit}{likely}{cost}"


def _saved_cell(estimate: AssetEstimate) -> str:
    if estimate.work is None or estimate.n_units is None:
        return ""
    return f"{'at least ' if estimate.units_are_upper_bound else ''}{estimate.n_units_saved:,}"


def _seconds_cell(estimate: AssetEstimate) -> str:
    if estimate.seconds is None:
        return "" if estimate.work is None else "not known yet" if estimate.has_run else _NO_EXPERIENCE
    return f"{'at most ' if estimate.seconds_are_upper_bound else ''}~{estimate.seconds:,.1f}"


def _words(name: str) -> str:
    return name.replace("_", " ")
