"""The estimate of a plan, asset by asset: shards, users, units of work, saved work, and seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from assets.engine.asset import Asset
from assets.engine.parquet import Footer
from assets.engine.plan import Plan, PlannedShard, Planner, Reason
from contexts.postgres.run_log import Throughput


@dataclass(frozen=True)
class AssetEstimate:
    """The estimate of one asset.

    n_shards, n_users: to run; the totals include up-to-date ones. n_units: units of work, None while unknown or if
    the asset declares none. is_upper_bound: all numbers are upper bounds; units_are_upper_bound: n_units is one.
    n_likely: the probable number of units. seconds: the probable duration, or an upper bound of it. Both are None
    without comparable past runs. cost_usd: the price of n_units, None if the work has none or it is unknown.
    has_run: whether the work was done before.
    """

    asset: str
    reasons: Mapping[Reason, int]
    n_shards: int
    n_shards_total: int
    n_users: int
    n_users_total: int
    work: str | None
    n_units: int | None
    n_units_total: int
    is_upper_bound: bool
    units_are_upper_bound: bool
    n_likely: int | None
    seconds: float | None
    seconds_are_upper_bound: bool = False
    cost_usd: float | None = None
    has_run: bool = False

    @property
    def n_units_saved(self) -> int:
        """Units of work that do not have to be done again."""
        return 0 if self.n_units is None else max(0, self.n_units_total - self.n_units)


def estimate(
    plan: Plan,
    planner: Planner,
    assets: Iterable[Asset],
    throughput: Mapping[str, Throughput],
    prices: Mapping[str, float] = MappingProxyType({}),
) -> list[AssetEstimate]:
    """Estimate each of `assets`, also those without planned shards.

    throughput: of past runs, by unit of work. prices: in US dollars a unit of work, for work that costs money.
    """
    estimates = [
        _estimate(asset, plan, planner, throughput.get(asset.work.name) if asset.work else None) for asset in assets
    ]
    return [_with_cost(each, prices.get(each.work or "")) for each in estimates]


def planned_units(plan: Plan, assets: Iterable[Asset]) -> dict[str, int]:
    """Return the units of work that a plan has for some assets, by kind of work, as far as they are known."""
    units = {asset.work.name: _n_units(asset, plan.entries_of(asset.name)) for asset in assets if asset.work}
    return {work: n_units for work, n_units in units.items() if n_units is not None}


def _with_cost(estimate: AssetEstimate, price: float | None) -> AssetEstimate:
    if price is None or not estimate.n_units:
        return estimate
    return replace(estimate, cost_usd=price * estimate.n_units)


def footers_of(planner: Planner, asset: Asset) -> dict[int, Footer]:
    """Return the readable footers of an asset by shard."""
    return planner.footers.of_asset(asset)


def _estimate(asset: Asset, plan: Plan, planner: Planner, throughput: Throughput | None) -> AssetEstimate:
    entries = plan.entries_of(asset.name)
    planned = {entry.shard for entry in entries}
    footers = footers_of(planner, asset)
    is_upper_bound = any(entry.is_upper_bound for entry in entries)
    n_units, n_certain = _n_units(asset, entries), _n_certain(asset, entries)
    n_carried = sum(footer.n_users for shard, footer in footers.items() if shard not in planned)
    n_users_total = n_carried + sum(entry.workload.n_users for entry in entries)
    n_observed = _n_observed(plan, planner) if is_upper_bound or n_units is None else 0
    seconds, longest = _seconds(throughput, n_units, n_certain, n_observed), _seconds(throughput, n_units, 0, 0)
    return AssetEstimate(
        asset=asset.name,
        reasons=Counter(entry.reason for entry in entries),
        n_shards=len(entries),
        n_shards_total=len(footers.keys() | planned),
        n_users=sum(len(entry.workload.users) for entry in entries),
        n_users_total=n_users_total,
        work=asset.work.name if asset.work else None,
        n_units=n_units,
        n_units_total=_n_units_total(asset, planner, n_users_total),
        is_upper_bound=is_upper_bound,
        units_are_upper_bound=is_upper_bound or _units_are_upper_bound(asset),
        n_likely=_n_likely(throughput, n_units, n_certain, n_observed),
        seconds=(longest if seconds is None else seconds) if entries else 0.0,
        seconds_are_upper_bound=bool(entries) and seconds is None and longest is not None,
        has_run=throughput is not None,
    )


def _units_are_upper_bound(asset: Asset) -> bool:
    """Whether the asset's units are upper bounds even with known inputs; rows may be reused one by one."""
    return asset.work is not None and (asset.work.is_upper_bound or asset.work.per == "row")


def _n_units(asset: Asset, entries: Iterable[PlannedShard]) -> int | None:
    if asset.work is None:
        return None
    if asset.work.per == "user":
        return sum(len(entry.workload.users) for entry in entries)
    n_rows = [entry.workload.n_rows for entry in entries]
    return None if None in n_rows else sum(n for n in n_rows if n is not None)


def _n_units_total(asset: Asset, planner: Planner, n_users_total: int) -> int:
    if asset.work is None or asset.work.per == "user":
        return n_users_total
    source = asset if asset.is_source else planner.graph[asset.inputs[0].asset]
    return sum(footer.n_rows for footer in footers_of(planner, source).values())


def _n_certain(asset: Asset, entries: Iterable[PlannedShard]) -> int:
    """Return the lower bound of the units of work: those that do not depend on runs before."""
    per_row = asset.work is not None and asset.work.per == "row"
    return sum(entry.workload.n_rows_certain if per_row else entry.workload.n_users_certain for entry in entries)


def _n_likely(throughput: Throughput | None, n_units: int | None, n_certain: int, n_observed: int) -> int | None:
    if throughput is None or throughput.units_per_user is None or not n_observed:
        return None
    likely = max(n_certain, round(throughput.units_per_user * n_observed))
    return likely if n_units is None else min(likely, n_units)


def _seconds(throughput: Throughput | None, n_units: int | None, n_certain: int, n_observed: int) -> float | None:
    """Estimate by units if these are exact; else by users observed, but no less than the certain units take."""
    if throughput is None:
        return None
    if n_observed:
        certain = (throughput.seconds_per_unit or 0.0) * n_certain
        per_user = throughput.seconds_per_user
        return None if per_user is None else max(certain, per_user * n_observed)
    return None if n_units is None or throughput.seconds_per_unit is None else throughput.seconds_per_unit * n_units


def _n_observed(plan: Plan, planner: Planner) -> int:
    """Return the number of users whom the plan's sources observe."""
    sources = [plan.entries_of(asset.name) for asset in planner.graph if asset.is_source]
    return max((sum(len(entry.workload.users) for entry in entries) for entries in sources), default=0)
