"""The plan: which shards would run and why. Versions in footers decide, never an event."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Literal

from assets.engine.asset import Asset, DueUsers, Users
from assets.engine.errors import ShardUnreadable
from assets.engine.footers import Footers
from assets.engine.graph import Graph
from assets.engine.hashing import DIGEST_BYTES, digest_of, hash_of, recipe_of, shard_of
from assets.engine.index import Index
from assets.engine.parquet import Footer, Shards

Reason = Literal["observe", "demand", "missing", "code", "model", "data", "expired", "forced", "unreadable"]
"""Why a shard runs.

observe: to see new fetches. demand: the output is demanded for some users. missing: no file. code, model, data: a
different version of the code, of a resource, of an input. expired: a row's `valid_until` has passed. forced: on
request. unreadable: the run will raise.
"""


@dataclass(frozen=True)
class Request:
    """The work that a run is asked to do.

    observed: the users whom observing assets receive as `users`, each with the instant of the last fetch. due: those
    of them for whom an observing asset has work whatever its inputs, None for all.
    observe_shards: the shards in which observing assets run, also those without an observed user. only_shards,
    only_users: the shards and users to which the run is restricted, None for no restriction. waiting: users who are
    left for a later run, see `Wait`. force: compute up-to-date users, too, unless the shard of the first input is
    missing, which would drop their rows. demanded: the users whom assets on demand receive, each with the instant of
    the request that the output is for.
    """

    observed: Users = field(default_factory=dict)
    observe_shards: frozenset[int] = frozenset()
    only_shards: frozenset[int] | None = None
    only_users: frozenset[str] | None = None
    waiting: frozenset[str] = frozenset()
    force: bool = False
    demanded: Users = field(default_factory=dict)
    due: frozenset[str] | None = None

    def due_among(self, users: Iterable[str]) -> DueUsers:
        """Return those of some users whom an observing asset receives as `due_users`."""
        return frozenset(users) if self.due is None or self.force else self.due.intersection(users)

    def users_for(self, asset: Asset) -> Users:
        """Return the users whom an observing asset receives."""
        return self.demanded if asset.on_demand else self.observed

    def restricted(self, users: frozenset[str]) -> frozenset[str]:
        """Return the users that the request allows to compute."""
        return (users if self.only_users is None else users & self.only_users) - self.waiting

    def leaves_out(self, users: Iterable[str]) -> bool:
        """Whether users may be left for a later run: the run is for single users, or one of `users` waits."""
        return self.only_users is not None or not self.waiting.isdisjoint(users)


def build_request(
    n_shards: int,
    observed: Users,
    *,
    only_shards: Iterable[int] | None = None,
    only_users: Iterable[str] | None = None,
    force: bool = False,
) -> Request:
    """Build the request of a run for everybody, for some shards, or for some users in their shards."""
    users = None if only_users is None else frozenset(only_users)
    shards = None if only_shards is None else frozenset(only_shards)
    if users is not None:
        observed = {user: at for user, at in observed.items() if user in users}
        own_shards = frozenset(shard_of(user, n_shards) for user in users)
        shards = own_shards if shards is None else shards & own_shards
    observe_shards = frozenset(shard_of(user, n_shards) for user in observed) | (shards or frozenset())
    return Request(observed, observe_shards, shards, users, force=force)


def request_by_shard(request: Request, shards: Iterable[int], n_shards: int) -> dict[int, Request]:
    """Return the request of each of some shards, restricted to it and to its users."""
    observed = _users_by_shard(request.observed, n_shards)
    demanded = _users_by_shard(request.demanded, n_shards)
    requests = {}
    for shard in shards:
        own = frozenset([shard])
        requests[shard] = replace(
            request,
            observed=observed.get(shard, {}),
            observe_shards=request.observe_shards & own,
            only_shards=own if request.only_shards is None else request.only_shards & own,
            demanded=demanded.get(shard, {}),
        )
    return requests


@dataclass(frozen=True)
class Workload:
    """The amount of work in a planned shard: exact, or an upper bound if the shard's `is_upper_bound` is true.

    users: the users to compute (for a source: to fetch). n_users: users of the shard after the run. n_rows: rows read
    for `users`, None if unknown (a source's answer). n_users_certain, n_rows_certain: the lower bounds.
    """

    users: frozenset[str] = field(default=frozenset(), repr=False)
    n_users: int = 0
    n_rows: int | None = 0
    n_users_certain: int = 0
    n_rows_certain: int = 0


@dataclass(frozen=True)
class PlannedShard:
    """One shard of one asset that is to run.

    is_upper_bound: an input runs before it and may come out unchanged, so the shard is planned again in its turn.
    workload: for estimates; the run itself does not read it. changed: for the reason "data", the inputs that have
    another version than the file was made from, or that run before it.
    """

    asset: str
    shard: int
    reason: Reason
    is_upper_bound: bool = False
    workload: Workload = field(default=Workload(), compare=False)
    changed: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Wait:
    """Users of a shard who are left for a later run, because an asset of another run is stale for them.

    asset: the asset that has to run first. is_whole: the whole shard waits, because that asset's file is unreadable.
    """

    shard: int
    asset: str
    users: frozenset[str]
    is_whole: bool = False


@dataclass(frozen=True)
class Plan:
    """The shards to run, in order, and the request that they answer. A run does nothing beyond its plan.

    waits: the users who are left out. stale_upstream: the shards in which an asset of an earlier step is stale,
    whether or not users still wait for it.
    """

    entries: tuple[PlannedShard, ...]
    request: Request
    waits: tuple[Wait, ...] = ()
    stale_upstream: frozenset[int] = frozenset()

    def __iter__(self) -> Iterator[PlannedShard]:
        """Iterate over the planned shards in order."""
        return iter(self.entries)

    def __bool__(self) -> bool:
        """Whether anything is to run."""
        return bool(self.entries)

    @property
    def by_shard(self) -> dict[int, list[str]]:
        """The names of the assets to run, by shard, in order."""
        shards = sorted({entry.shard for entry in self})
        return {shard: [entry.asset for entry in self if entry.shard == shard] for shard in shards}

    def entries_of(self, asset: str) -> list[PlannedShard]:
        """Return the planned shards of an asset."""
        return [entry for entry in self.entries if entry.asset == asset]


@dataclass(frozen=True)
class Staleness:
    """The comparison of a shard with its inputs, user by user.

    input_digests: the current input digest of each user of the first input. stale: users whose rows were computed
    from something else or have expired. removed: users no longer in the first input.
    """

    input_digests: Mapping[str, bytes]
    stale: frozenset[str]
    removed: frozenset[str]

    def to_compute(self, request: Request, *, force: bool) -> frozenset[str]:
        """Return the users whom a run computes; force: all of them, stale or not."""
        return request.restricted(frozenset(self.input_digests) if force else self.stale)


def staleness(
    asset: Asset, index: Index, inputs: Mapping[str, Index | None], recipe: Mapping[str, str], now: datetime
) -> Staleness:
    """Compare the input digests that users' rows were made from with the current ones."""
    current = _current_digests(asset, inputs, recipe)
    stored = index.input_digests_by_user()
    stale = {user for user, digest in current.items() if stored.get(user) != digest}
    stale |= index.expired(now) & current.keys()
    return Staleness(current, frozenset(stale), frozenset(stored.keys() - current.keys()))


def _current_digests(asset: Asset, inputs: Mapping[str, Index | None], recipe: Mapping[str, str]) -> dict[str, bytes]:
    """Return for each user of the first input a digest of the recipe and of the columns read."""
    prefix = hash_of(recipe).encode()
    read = [(index.digests_of(edge.columns) if (index := inputs[edge.asset]) else {}) for edge in asset.inputs]
    no_rows = [bytes(DIGEST_BYTES * len(edge.columns)) for edge in asset.inputs]
    return {
        user: digest_of(prefix, *(digests.get(user, none) for digests, none in zip(read, no_rows, strict=True)))
        for user in read[0]
    }


@dataclass(frozen=True)
class Planner:
    """Plans from footers alone and reads each footer once, so all plans of a planner see the same versions.

    resources: the resources of the run; their versions are part of every recipe. shared_footers: those of other
    planners, which then see the same versions; None to read them again.
    """

    graph: Graph
    shards: Shards
    resources: Mapping[type, object]
    now: datetime
    shared_footers: Footers | None = field(default=None, repr=False, compare=False)

    @cached_property
    def footers(self) -> Footers:
        """The footers as of their first reading."""
        return self.shared_footers or Footers(self.shards)

    def plan(
        self, assets: Iterable[Asset], request: Request | None = None, before: Iterable[PlannedShard] = ()
    ) -> Plan:
        """Plan `assets` in the graph's order.

        An observing asset runs in the shards to observe, any other asset where its inputs changed. A source also runs
        where the stored rows lack a column, and then observes nobody. A shard whose input runs earlier, in this plan
        or in the plan `before`, is planned as an upper bound.
        """
        request = request or Request()
        observed, demanded = (
            {shard: frozenset(members) for shard, members in _users_by_shard(users, self.shards.n_shards).items()}
            for users in (request.observed, request.demanded)
        )
        entries: dict[tuple[str, int], PlannedShard] = {}
        earlier = {(entry.asset, entry.shard): entry for entry in before}
        shards = range(self.shards.n_shards) if request.only_shards is None else sorted(request.only_shards)
        assets = list(assets)
        self._load(assets, shards)
        for asset in assets:
            for shard in shards:
                users = observed.get(shard, frozenset()) if shard in request.observe_shards else None
                if asset.on_demand:
                    users = demanded.get(shard, frozenset())
                keys = [(edge.asset, shard) for edge in asset.inputs]
                upstream = [entry for key in keys if (entry := entries.get(key) or earlier.get(key))]
                if planned := self._planned(asset, shard, users, upstream, request):
                    entries[asset.name, shard] = planned
        return Plan(tuple(entries.values()), request)

    def waits(self, members: Iterable[Asset], plan: Plan, assumed: Iterable[str] = ()) -> list[Wait]:
        """Return the users of a plan for whom an ancestor of `members` is stale, for each ancestor and shard.

        A run before the ancestor's would do the same work again right after it. assumed: names of ancestors that run
        before the plan does.
        """
        names = {asset.name for asset in members}
        ancestors = set().union(*(self.graph.ancestors(name) for name in names)) - names - set(assumed)
        assets = [asset for asset in self.graph if asset.name in ancestors]
        shards = sorted({entry.shard for entry in plan})
        self._load(assets, shards)
        waits = (self._wait(asset, shard, plan.request) for shard in shards for asset in assets)
        return [wait for wait in waits if wait]

    def without_waiting(
        self, plan: Plan, members: Sequence[Asset], waits: Iterable[Wait], before: Collection[PlannedShard] = ()
    ) -> Plan:
        """Leave users who wait out of the plan of `members`, which then names the first wait of each user.

        before: see `plan`.
        """
        waits = tuple(_first_waits(waits))
        if not waits:
            return plan
        request = replace(plan.request, waiting=frozenset().union(*(wait.users for wait in waits)))
        shards = frozenset(wait.shard for wait in waits)
        rest = shards - {wait.shard for wait in waits if wait.is_whole}
        entries = [entry for entry in plan if entry.shard not in shards]
        entries += self.plan(members, replace(request, only_shards=rest), before)
        order = {asset.name: position for position, asset in enumerate(members)}
        entries.sort(key=lambda entry: (order[entry.asset], entry.shard))
        return replace(plan, entries=tuple(entries), request=request, waits=waits)

    def replan(self, entry: PlannedShard, request: Request) -> PlannedShard | None:
        """Plan one shard again, after its inputs have run; None if there is nothing left to do."""
        plan = self.plan([self.graph[entry.asset]], replace(request, only_shards=frozenset([entry.shard])))
        return plan.entries[0] if plan else None

    def footer(self, asset: Asset, shard: int) -> Footer | None:
        """Return a shard's footer as of its first reading, None if there is no file."""
        return self.footers.get(asset, shard)

    def readable_footer(self, asset: Asset, shard: int) -> Footer | None:
        """Return a shard's footer, None also if it cannot be read: a run of the shard reports the error."""
        return self.footers.readable(asset, shard)

    def _load(self, assets: Iterable[Asset], shards: Iterable[int]) -> None:
        """Read the footers of assets and of their inputs at the same time."""
        names = {name for asset in assets for name in (asset.name, *(edge.asset for edge in asset.inputs))}
        self.footers.load((asset for asset in self.graph if asset.name in names), shards)

    def _planned(
        self,
        asset: Asset,
        shard: int,
        observed: frozenset[str] | None,
        upstream: Sequence[PlannedShard],
        request: Request,
    ) -> PlannedShard | None:
        """Plan one shard. observed: the users to observe in it, None if the shard is not observed."""
        try:
            if asset.is_source:
                is_planned = observed is not None or self._lacks_columns(asset, shard)
                return self._planned_source(asset, shard, observed or frozenset()) if is_planned else None
            if asset.on_demand:
                return self._planned_on_demand(asset, shard, observed or frozenset(), upstream, request)
            is_observed = asset.observes and observed is not None
            return self._planned_derived(asset, shard, upstream, request, is_observed=is_observed)
        except ShardUnreadable:
            return PlannedShard(asset.name, shard, "unreadable")

    def _lacks_columns(self, source: Asset, shard: int) -> bool:
        """Return whether an earlier version of the code stored a shard without columns that other assets may read."""
        footer = self.readable_footer(source, shard)
        return footer is not None and not {*source.schema.names} <= {*footer.columns, *footer.opaque}

    def _planned_source(self, asset: Asset, shard: int, observed: frozenset[str]) -> PlannedShard:
        footer = self.footer(asset, shard)
        users = footer.index.users if footer else ()
        workload = Workload(observed, len(observed.union(users)), n_rows=None if observed else 0)
        return PlannedShard(asset.name, shard, "observe", workload=workload)

    def _planned_on_demand(
        self,
        asset: Asset,
        shard: int,
        demanded: frozenset[str],
        upstream: Sequence[PlannedShard],
        request: Request,
    ) -> PlannedShard | None:
        """Plan a shard if there is a demand for users of its first input, or if that input lost a user."""
        first = self._inputs(asset, shard)[asset.inputs[0].asset]
        if first is None:
            return None
        footer, present = self.footer(asset, shard), frozenset(first.index.users)
        users = request.restricted(demanded & present)
        is_left = footer is not None and not present.issuperset(footer.index.users)
        if not users and not is_left:
            return None
        workload = Workload(users, len(present), len(users), len(users), len(users))
        return PlannedShard(asset.name, shard, "demand" if users else "data", bool(upstream), workload)

    def _planned_derived(
        self, asset: Asset, shard: int, upstream: Sequence[PlannedShard], request: Request, *, is_observed: bool
    ) -> PlannedShard | None:
        inputs = self._inputs(asset, shard)
        if inputs[asset.inputs[0].asset] is None and not upstream:
            return None
        footer = self.footer(asset, shard)
        reason: Reason | None = "forced" if request.force else self._reason(asset, footer, inputs)
        reason = reason or ("data" if upstream else None) or ("observe" if is_observed else None)
        if reason is None:
            return None
        current = self._staleness(asset, footer, inputs)
        workload = _workload(current, footer, inputs[asset.inputs[0].asset], upstream, request)
        if request.waiting and not _has_work(current, workload, request, is_observed=is_observed):
            return None
        changed = self._changed(asset, footer, inputs, upstream) if reason == "data" else ()
        return PlannedShard(asset.name, shard, reason, bool(upstream), workload, changed)

    def _wait(self, asset: Asset, shard: int, request: Request) -> Wait | None:
        """Return the wait for an asset that a plan does not run, None if it is up to date for the plan's users."""
        if asset.is_source:  # a plan does not decide when a source is observed
            return None
        try:
            inputs = self._inputs(asset, shard)
            if inputs[asset.inputs[0].asset] is None:
                return None
            footer = self.footer(asset, shard)
            if self._reason(asset, footer, inputs) is None:
                return None
            users = request.restricted(self._staleness(asset, footer, inputs).stale)
        except ShardUnreadable:
            return Wait(shard, asset.name, request.restricted(self._users(shard)), is_whole=True)
        return Wait(shard, asset.name, users) if users else None

    def _users(self, shard: int) -> frozenset[str]:
        """Return the users of a shard as far as its sources can be read."""
        users: frozenset[str] = frozenset()
        for asset in (asset for asset in self.graph if asset.is_source):
            with suppress(ShardUnreadable):
                footer = self.footer(asset, shard)
                users = users.union(footer.index.users if footer else ())
        return users

    def _inputs(self, asset: Asset, shard: int) -> Mapping[str, Footer | None]:
        return {edge.asset: self.footer(self.graph[edge.asset], shard) for edge in asset.inputs}

    def _reason(self, asset: Asset, footer: Footer | None, inputs: Mapping[str, Footer | None]) -> Reason | None:
        return _difference(footer, recipe_of(asset, self.resources), _versions(asset, inputs), self.now)

    def _changed(
        self,
        asset: Asset,
        footer: Footer | None,
        inputs: Mapping[str, Footer | None],
        upstream: Iterable[PlannedShard],
    ) -> tuple[str, ...]:
        """Return the inputs that changed; none if the last run left users out, whose file names no versions."""
        before, now = dict(footer.inputs) if footer else {}, _versions(asset, inputs)
        running = {entry.asset for entry in upstream}
        names = (edge.asset for edge in asset.inputs)
        return tuple(name for name in names if name in running or (before and before.get(name) != now.get(name)))

    def _staleness(self, asset: Asset, footer: Footer | None, inputs: Mapping[str, Footer | None]) -> Staleness:
        indices = {name: each.index if each else None for name, each in inputs.items()}
        index = footer.index if footer else Index()
        return staleness(asset, index, indices, recipe_of(asset, self.resources), self.now)


def _versions(asset: Asset, inputs: Mapping[str, Footer | None]) -> dict[str, str]:
    """Return the versions of the columns that an asset reads, by input; without inputs that have no file."""
    return {edge.asset: source.edge_version(edge.columns) for edge in asset.inputs if (source := inputs[edge.asset])}


def _first_waits(waits: Iterable[Wait]) -> Iterator[Wait]:
    """Yield waits in order, without the users of earlier ones."""
    seen: set[str] = set()
    for wait in waits:
        if (users := wait.users - seen) or wait.is_whole:
            yield replace(wait, users=users)
        seen |= wait.users


def _workload(
    current: Staleness,
    footer: Footer | None,
    first: Footer | None,
    upstream: Iterable[PlannedShard],
    request: Request,
) -> Workload:
    """Return the workload of a derived asset's shard. first: the footer of its first input."""
    source, index = first.index if first else Index(), footer.index if footer else Index()
    certain = current.to_compute(request, force=request.force)
    possible = request.restricted(frozenset().union(*(entry.workload.users for entry in upstream)))
    users = certain | possible
    has_all_rows = all(user in source.position for user in users)
    return Workload(
        users,
        n_users=len((set(index.users) - current.removed) | users),
        n_rows=source.rows_of(users) if has_all_rows else None,
        n_users_certain=len(certain),
        n_rows_certain=source.rows_of(certain),
    )


def _has_work(current: Staleness, workload: Workload, request: Request, *, is_observed: bool) -> bool:
    """Whether anything is left to do in a shard without the users who wait."""
    can_observe = is_observed and bool(request.restricted(frozenset(current.input_digests)))
    return bool(workload.users or current.removed or can_observe)


def _users_by_shard(users: Users, n_shards: int) -> dict[int, dict[str, datetime]]:
    by_shard: dict[int, dict[str, datetime]] = {}
    for user, at in users.items():
        by_shard.setdefault(shard_of(user, n_shards), {})[user] = at
    return by_shard


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
    return "expired" if footer.valid_until and footer.valid_until <= now else None
