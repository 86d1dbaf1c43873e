"""What would run, and why: the versions in the footers decide, never an event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from assets.asset import Asset
from assets.errors import ShardUnreadable
from assets.graph import Graph
from assets.parquet import Footer, Shards
from assets.versions import recipe_of

Reason = Literal["observe", "missing", "code", "model", "data", "stale", "forced", "unreadable"]
"""Why a shard runs: it looks at the world; no file; other code; other resources; other inputs; a row's time is
up; asked for; a file is broken, and the run will say which."""


@dataclass(frozen=True)
class Planned:
    """One shard of one asset that is to run."""

    asset: str
    shard: int
    reason: Reason


@dataclass(frozen=True)
class Planner:
    """Reads footers only. `resources` are those of the run: their versions are part of every recipe."""

    graph: Graph
    shards: Shards
    resources: Mapping[type, object]
    now: datetime

    def plan(
        self, asset: Asset, shards: Iterable[int] | None = None, *, observed: Iterable[int] = (), force: bool = False
    ) -> Iterator[Planned]:
        """The shards of `asset` to run, of `shards` (all by default).

        An asset that observes runs in the shards `observed`, and where its inputs changed. force: also what is up to
        date, but never without the first input, as its rows would be lost.
        """
        looked_at = set(observed)
        for shard in range(self.shards.n_shards) if shards is None else shards:
            try:
                reason = self._reason(asset, shard, is_observed=shard in looked_at, force=force)
            except ShardUnreadable:
                reason = "unreadable"
            if reason:
                yield Planned(asset.name, shard, reason)

    def waits_for(self, members: Iterable[Asset], shard: int) -> str | None:
        """The name of an asset that `members` read, directly or not, and that is itself behind in this shard.

        Whoever runs before it would do the same work again right after it.
        """
        inside = {each.name for each in members}
        above = set().union(*(self.graph.ancestors(name) for name in inside)) - inside
        behind = (each.name for each in self.graph if each.name in above and any(self.plan(each, [shard])))
        return next(behind, None)

    def _reason(self, asset: Asset, shard: int, *, is_observed: bool = False, force: bool = False) -> Reason | None:
        if asset.is_source:
            return "observe" if is_observed else None
        wanted = self._input_versions(asset, shard)
        if asset.inputs[0].asset not in wanted:
            return None
        if force:
            return "forced"
        footer = self.shards.footer(asset, shard)
        reason = _difference(footer, recipe_of(asset, self.resources), wanted, self.now)
        return reason or ("observe" if is_observed and asset.observes else None)

    def _input_versions(self, asset: Asset, shard: int) -> dict[str, str]:
        footers = {edge: self.shards.footer(self.graph[edge.asset], shard) for edge in asset.inputs}
        return {edge.asset: footer.edge_version(edge.columns) for edge, footer in footers.items() if footer}


def _difference(
    footer: Footer | None, recipe: Mapping[str, str], inputs: Mapping[str, str], now: datetime
) -> Reason | None:
    if footer is None:
        return "missing"
    if footer.recipe["code"] != recipe["code"]:
        return "code"
    if footer.recipe != recipe:
        return "model"
    if footer.inputs != inputs:
        return "data"
    return "stale" if footer.valid_until and footer.valid_until <= now else None
