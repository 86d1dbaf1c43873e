"""What a plan comes to, asset by asset: how much is to be done, of how much, why, and in about what time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from assets.asset import Asset
from assets.errors import ShardUnreadable
from assets.parquet import Footer
from assets.plan import Plan, Planned, Planner, Reason


class Pace(Protocol):
    """How a kind of work went lately: seconds for a unit that was planned when the inputs were known; seconds and
    units done for a user that was looked at, whatever came of it. None: not known.
    """

    @property
    def seconds_a_unit(self) -> float | None: ...

    @property
    def seconds_a_look(self) -> float | None: ...

    @property
    def units_a_look(self) -> float | None: ...


@dataclass(frozen=True)
class Line:
    """One asset. n_shards, n_users: that run, of all. n_units: of its work, None where it is not known yet, or where
    the asset names none. at_most: all numbers are bounds; is_bound: that of the units is one. n_likely: the units
    that it will probably come to, where that is not n_units; seconds: an estimate. Both are None without past runs.
    """

    asset: str
    reasons: Mapping[Reason, int]
    n_shards: int
    n_shards_all: int
    n_users: int
    n_users_all: int
    work: str | None
    n_units: int | None
    n_units_all: int
    at_most: bool
    is_bound: bool
    n_likely: int | None
    seconds: float | None

    @property
    def n_units_saved(self) -> int:
        """Units of work that are not to be done again."""
        return 0 if self.n_units is None else max(0, self.n_units_all - self.n_units)


def bill(plan: Plan, planner: Planner, assets: Iterable[Asset], paces: Mapping[str, Pace]) -> list[Line]:
    """A line for each of `assets`, also for those with nothing to do. paces: of past runs, by the work's name."""
    return [_line(asset, plan, planner, paces.get(asset.work.count) if asset.work else None) for asset in assets]


def _line(asset: Asset, plan: Plan, planner: Planner, pace: Pace | None) -> Line:
    entries = plan.of(asset.name)
    planned = {each.shard: each for each in entries}
    own = _footers(planner, asset)
    at_most = any(each.at_most for each in entries)
    n_units = _units(asset, entries)
    carried = sum(footer.n_users for shard, footer in own.items() if shard not in planned)
    n_users_all = carried + sum(each.n_users for each in entries)
    n_looks = _n_looks(plan, planner) if at_most or n_units is None else 0
    return Line(
        asset=asset.name,
        reasons=Counter(each.reason for each in entries),
        n_shards=len(entries),
        n_shards_all=len(own.keys() | planned.keys()),
        n_users=sum(len(each.users) for each in entries),
        n_users_all=n_users_all,
        work=asset.work.count if asset.work else None,
        n_units=n_units,
        n_units_all=_units_all(asset, planner, n_users_all),
        at_most=at_most,
        is_bound=at_most or (asset.work is not None and (asset.work.is_bound or asset.work.per == "row")),
        n_likely=_likely(pace, n_units, _sure(asset, entries), n_looks),
        seconds=_seconds(pace, n_units, _sure(asset, entries), n_looks) if entries else 0.0,
    )


def _units(asset: Asset, entries: Iterable[Planned]) -> int | None:
    if asset.work is None:
        return None
    if asset.work.per == "user":
        return sum(len(each.users) for each in entries)
    rows = [each.n_rows for each in entries]
    return None if None in rows else sum(n for n in rows if n is not None)


def _units_all(asset: Asset, planner: Planner, n_users_all: int) -> int:
    if asset.work is None or asset.work.per == "user":
        return n_users_all
    source = asset if asset.is_source else planner.graph[asset.inputs[0].asset]
    return sum(footer.n_rows for footer in _footers(planner, source).values())


def _sure(asset: Asset, entries: Iterable[Planned]) -> int:
    """The units that are to be done whatever comes of what runs before."""
    per_row = asset.work is not None and asset.work.per == "row"
    return sum(each.n_rows_sure if per_row else each.n_users_sure for each in entries)


def _likely(pace: Pace | None, n_units: int | None, n_sure: int, n_looks: int) -> int | None:
    if pace is None or pace.units_a_look is None or not n_looks:
        return None
    likely = max(n_sure, round(pace.units_a_look * n_looks))
    return likely if n_units is None else min(likely, n_units)


def _seconds(pace: Pace | None, n_units: int | None, n_sure: int, n_looks: int) -> float | None:
    """By the units planned; where it is open what comes of a look, by the users looked at, and what is sure."""
    if pace is None:
        return None
    if n_looks:
        sure = (pace.seconds_a_unit or 0.0) * n_sure
        return None if pace.seconds_a_look is None else max(sure, pace.seconds_a_look * n_looks)
    return None if n_units is None or pace.seconds_a_unit is None else pace.seconds_a_unit * n_units


def _n_looks(plan: Plan, planner: Planner) -> int:
    """How many users the plan looks at before anything else, whatever comes of it."""
    looks = [[len(entry.users) for entry in plan.of(each.name)] for each in planner.graph if each.is_source]
    return max(map(sum, looks), default=0)


def _footers(planner: Planner, asset: Asset) -> dict[int, Footer]:
    found = {}
    for shard in range(planner.shards.n_shards):
        try:
            footer = planner.footer(asset, shard)
        except ShardUnreadable:
            footer = None
        if footer:
            found[shard] = footer
    return found


def lines(bill: Iterable[Line]) -> Iterator[str]:
    """The bill in aligned columns, a heading first."""
    rows = [("asset", "shards", "why", "users", "work", "spared", "seconds"), *map(_cells, bill)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def details(plan: Plan, planner: Planner, assets: Iterable[Asset]) -> Iterator[str]:
    """A line for each asset and shard: run, and why and for how many; wait, and for what; or skip."""
    for asset in assets:
        planned = {each.shard: each for each in plan.of(asset.name)}
        for shard in sorted({*planned, *plan.waiting, *_footers(planner, asset)}):
            yield f"{asset.name:16} shard {shard:>4}  {_detail(planned.get(shard), plan.waiting.get(shard))}"


def _detail(entry: Planned | None, waits_for: str | None) -> str:
    if entry is None:
        return f"wait  for {waits_for}" if waits_for else "skip"
    bound = "at most " if entry.at_most else ""
    return f"run   {entry.reason}: {bound}{len(entry.users):,} of {entry.n_users:,} users"


def brief(bill: Iterable[Line]) -> str:
    """The bill without columns, as a list in Markdown."""
    return "\n".join("- " + " · ".join(filter(None, _cells(line))) for line in bill)


def _cells(line: Line) -> tuple[str, ...]:
    if not line.n_shards:
        return (line.asset, f"0 of {line.n_shards_all}", "nothing to do", *[""] * 4)
    bound = "at most " if line.at_most else ""
    return (
        line.asset,
        f"{bound}{line.n_shards} of {line.n_shards_all}",
        ", ".join(f"{reason} {n}" if len(line.reasons) > 1 else reason for reason, n in line.reasons.items()),
        f"{bound}{line.n_users:,} of {line.n_users_all:,}",
        _work(line),
        _spared(line),
        "?" if line.seconds is None else f"~{line.seconds:,.1f}",
    )


def _spared(line: Line) -> str:
    if line.work is None or line.n_units is None:
        return ""
    return f"{'at least ' if line.is_bound else ''}{line.n_units_saved:,}"


def _work(line: Line) -> str:
    if line.work is None:
        return ""
    what = line.work.replace("_", " ")
    likely = f", likely {line.n_likely:,}" if line.n_likely is not None and line.n_likely != line.n_units else ""
    if line.n_units is None:
        return f"{what}: not known yet{likely}"
    return f"{'at most ' if line.is_bound else ''}{line.n_units:,} {what}{likely}"
