"""What would run, and why: the versions in the footers decide, never an event."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from assets.asset import Asset, Users
from assets.digests import SIZE, digest_of
from assets.errors import ShardUnreadable
from assets.graph import Graph
from assets.index import Index
from assets.parquet import Footer, Shards
from assets.versions import hash_of, recipe_of, shard_of

Reason = Literal["observe", "missing", "code", "model", "data", "stale", "forced", "unreadable"]
"""Why a shard runs: it looks at the world; no file; other code; other resources; other inputs; a row's time is
up; asked for; a file is broken, and the run will say which."""


@dataclass(frozen=True)
class Request:
    """What a run is asked for. users: whom the observing assets look at. look: the shards in which they do. shards:
    no others. only: compute no one else. force: also what is up to date, but never without the first input, as its
    rows would be lost.
    """

    users: Users = field(default_factory=dict)
    look: frozenset[int] = frozenset()
    shards: frozenset[int] | None = None
    only: frozenset[str] | None = None
    force: bool = False


@dataclass(frozen=True)
class Planned:
    """One shard of one asset that is to run.

    users: whom it computes (a source: looks at), of `n_users` that it then has. n_rows: rows of those users that it
    reads, None where they are not known yet (what a source will find). at_most: something that it reads is to run
    before it, and may come to nothing; then these numbers are bounds, of rows as they stand, and n_users_sure and
    n_rows_sure say how much of it is to be done in any case.
    """

    asset: str
    shard: int
    reason: Reason
    users: frozenset[str] = field(default=frozenset(), repr=False)
    n_users: int = 0
    n_rows: int | None = 0
    at_most: bool = False
    n_users_sure: int = 0
    n_rows_sure: int = 0


@dataclass(frozen=True)
class Plan:
    """What is to run, in order of work, and what it was asked for. A run executes this very object.

    waiting: shards that are left out, each with the asset that has to be made before.
    """

    entries: tuple[Planned, ...]
    request: Request
    waiting: Mapping[int, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Planned]:
        return iter(self.entries)

    def __bool__(self) -> bool:
        return bool(self.entries)

    @property
    def shards(self) -> dict[int, list[str]]:
        """The shards in which something is to run, in order, each with the assets that are."""
        return {shard: [e.asset for e in self if e.shard == shard] for shard in sorted({e.shard for e in self})}

    def of(self, asset: str) -> list[Planned]:
        """The entries of an asset."""
        return [each for each in self.entries if each.asset == asset]


@dataclass(frozen=True)
class Staleness:
    """Of each user of the first input, what they are to be made from; who is to be computed, and who is gone."""

    made_from: Mapping[str, bytes]
    stale: frozenset[str]
    gone: frozenset[str]


def staleness(
    asset: Asset, own: Index, inputs: Mapping[str, Index | None], recipe: Mapping[str, str], now: datetime
) -> Staleness:
    """Compare what users' rows were made from with what the inputs hold of them now."""
    hashes = _made_from(asset, inputs, recipe)
    known = own.known()
    stale = {user for user, made in hashes.items() if known.get(user) != made} | (own.over(now) & hashes.keys())
    return Staleness(hashes, frozenset(stale), frozenset(known.keys() - hashes.keys()))


def _made_from(asset: Asset, inputs: Mapping[str, Index | None], recipe: Mapping[str, str]) -> dict[str, bytes]:
    """For each user of the first input a digest of the recipe and of the columns read of them."""
    stamp = hash_of(recipe).encode()
    read = [(index.of_columns(edge.columns) if (index := inputs[edge.asset]) else {}) for edge in asset.inputs]
    nothing = [bytes(SIZE * len(edge.columns)) for edge in asset.inputs]
    return {
        user: digest_of(stamp, *(each.get(user, none) for each, none in zip(read, nothing, strict=True)))
        for user in read[0]
    }


@dataclass(frozen=True)
class Planner:
    """Reads footers only, each once: a planner sees the shards as they stood when it first looked.

    resources: those of the run; their versions are part of every recipe.
    """

    graph: Graph
    shards: Shards
    resources: Mapping[type, object]
    now: datetime
    _seen: dict[tuple[str, int], Footer | None] = field(default_factory=dict, repr=False, compare=False)

    def plan(self, assets: Iterable[Asset], request: Request | None = None, before: Iterable[Planned] = ()) -> Plan:
        """What of `assets`, in the graph's order, is to run: an asset that observes where it is to look, and any
        where its inputs changed. Behind one that is to run, here or in the plan `before`, others are planned at most.
        """
        request = request or Request()
        users = _by_shard(request.users, self.shards.n_shards)
        entries: dict[tuple[str, int], Planned] = {}
        earlier = {(each.asset, each.shard): each for each in before}
        wanted = range(self.shards.n_shards) if request.shards is None else sorted(request.shards)
        for asset in assets:
            for shard in wanted:
                looked = users.get(shard, frozenset()) if shard in request.look else None
                keys = [(edge.asset, shard) for edge in asset.inputs]
                above = [each for key in keys if (each := entries.get(key) or earlier.get(key))]
                if entry := self._planned(asset, shard, looked, above, request):
                    entries[asset.name, shard] = entry
        return Plan(tuple(entries.values()), request)

    def ready(self, plan: Plan, members: Collection[Asset]) -> Plan:
        """The plan without the shards in which something that `members` read is behind and not itself planned."""
        shards = {each.shard for each in plan}
        waiting = {shard: name for shard in sorted(shards) if (name := self.waits_for(members, shard))}
        left = tuple(each for each in plan if each.shard not in waiting)
        return replace(plan, entries=left, waiting=waiting)

    def again(self, entry: Planned, request: Request) -> Planned | None:
        """What an entry comes to now that what it reads has run."""
        found = self.plan([self.graph[entry.asset]], replace(request, shards=frozenset([entry.shard])))
        return found.entries[0] if found else None

    def waits_for(self, members: Iterable[Asset], shard: int) -> str | None:
        """The name of an asset that `members` read, directly or not, and that is itself behind in this shard.

        Whoever runs before it would do the same work again right after it.
        """
        inside = {each.name for each in members}
        above = set().union(*(self.graph.ancestors(name) for name in inside)) - inside
        request = Request(shards=frozenset([shard]))
        behind = (each.name for each in self.graph if each.name in above and self.plan([each], request))
        return next(behind, None)

    def footer(self, asset: Asset, shard: int) -> Footer | None:
        """A shard's footer, as it stood at the first look; None where there is none that knows its users."""
        key = (asset.name, shard)
        if key not in self._seen:
            found = self.shards.footer(asset, shard)
            self._seen[key] = None if found is None or found.is_former else found
        return self._seen[key]

    def _planned(
        self, asset: Asset, shard: int, looked: frozenset[str] | None, above: Sequence[Planned], request: Request
    ) -> Planned | None:
        try:
            if asset.is_source:
                return None if looked is None else self._look(asset, shard, looked)
            return self._derive(asset, shard, looked is not None, above, request)
        except ShardUnreadable:
            return Planned(asset.name, shard, "unreadable")

    def _look(self, asset: Asset, shard: int, looked: frozenset[str]) -> Planned:
        footer = self.footer(asset, shard)
        index = footer.index if footer else Index()
        return Planned(
            asset.name, shard, "observe", looked, len(looked.union(index.users)), n_rows=None if looked else 0
        )

    def _derive(
        self, asset: Asset, shard: int, is_looked_at: bool, above: Sequence[Planned], request: Request
    ) -> Planned | None:
        inputs = {edge.asset: self.footer(self.graph[edge.asset], shard) for edge in asset.inputs}
        first, later = inputs[asset.inputs[0].asset], frozenset().union(*(each.users for each in above))
        if first is None and not above:
            return None
        footer, recipe = self.footer(asset, shard), recipe_of(asset, self.resources)
        wanted = {e.asset: found.edge_version(e.columns) for e in asset.inputs if (found := inputs[e.asset])}
        reason = "forced" if request.force else _difference(footer, recipe, wanted, self.now)
        reason = reason or ("data" if above else None) or ("observe" if is_looked_at and asset.observes else None)
        if reason is None:
            return None
        indices = {name: found.index if found else None for name, found in inputs.items()}
        own = footer.index if footer else Index()
        at_hand = staleness(asset, own, indices, recipe, self.now)
        sure = frozenset(at_hand.made_from if request.force else at_hand.stale)
        users = sure | later
        if request.only is not None:
            sure, users = sure & request.only, users & request.only
        source = first.index if first else Index()
        is_known = all(user in source.position for user in users)
        return Planned(
            asset.name,
            shard,
            reason,
            users,
            n_users=len((set(own.users) - at_hand.gone) | users),
            n_rows=source.rows_of(users) if is_known else None,
            at_most=bool(above),
            n_users_sure=len(sure),
            n_rows_sure=source.rows_of(sure),
        )


def _by_shard(users: Iterable[str], n_shards: int) -> dict[int, frozenset[str]]:
    found: dict[int, set[str]] = {}
    for user in users:
        found.setdefault(shard_of(user, n_shards), set()).add(user)
    return {shard: frozenset(own) for shard, own in found.items()}


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
