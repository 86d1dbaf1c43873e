"""Run assets, shard by shard: compute the users whose inputs changed, carry the others over, replace the file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter

import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import KEY, Asset, Output, Users
from assets.checks import Candidate
from assets.digests import digest_of
from assets.errors import AssetError, CheckFailed
from assets.feeds import Feed, Tables
from assets.graph import Graph
from assets.index import Index
from assets.parquet import Footer, Shard, Shards
from assets.plan import Plan, Planned, Planner, Request, staleness
from assets.records import Record
from assets.rows import merged, ordered
from assets.versions import hash_of, recipe_of, shard_of

NOBODY: Users = {}


def materialize(
    graph: Graph,
    shards: Shards,
    *,
    resources: Mapping[type, object],
    now: datetime,
    users: Users = NOBODY,
    select: Iterable[str] | None = None,
    only_shards: Iterable[int] | None = None,
    only_users: Iterable[str] | None = None,
    force: bool = False,
) -> list[Record]:
    """Plan and execute: bring the selected assets up to date in this process, each after those that it reads.

    users: whom the observing assets look at. select: names, `+name`, `name+`; all by default. only_shards: no others,
    and observing assets look there even when they have no user to look at. only_users: compute no one else, in their
    shards. force: compute even what is up to date. Gives a record for each shard that ran.
    """
    chosen = list(graph) if select is None else graph.select(select)
    request = asked(shards.n_shards, users, only_shards=only_shards, only_users=only_users, force=force)
    plan = Planner(graph, shards, resources, now).plan(chosen, request)
    return list(execute(plan, graph, shards, resources=resources, now=now))


def asked(
    n_shards: int,
    users: Users,
    *,
    only_shards: Iterable[int] | None = None,
    only_users: Iterable[str] | None = None,
    force: bool = False,
) -> Request:
    """The request of a run for everybody, for some shards, or for some users in theirs; see `materialize`."""
    only = None if only_users is None else frozenset(only_users)
    named = None if only_shards is None else frozenset(only_shards)
    if only is not None:
        users = {user: at for user, at in users.items() if user in only}
        own = frozenset(shard_of(user, n_shards) for user in only)
        named = own if named is None else named & own
    look = frozenset(shard_of(user, n_shards) for user in users) | (named or frozenset())
    return Request(users, look, named, only, force)


Lock = Callable[[str, int], AbstractContextManager[None]]
"""Holds the right to write a shard of an asset, by the asset's name and the shard's number."""


def unlocked(_: str, __: int) -> AbstractContextManager[None]:
    """For roots that one process alone writes to."""
    return nullcontext()


def execute(
    plan: Plan,
    graph: Graph,
    shards: Shards,
    *,
    resources: Mapping[type, object],
    now: datetime,
    lock: Lock = unlocked,
) -> Iterator[Record]:
    """Do what a plan says, in its order; what it gives at most is looked at again when its inputs are there."""
    run = _Run(graph, shards, resources, now, plan.request.users, plan.request.only)
    for entry in plan:
        is_settled = not entry.at_most
        exact = entry if is_settled else Planner(graph, shards, resources, now).again(entry, plan.request)
        if exact:
            with lock(exact.asset, exact.shard):
                record = run.shard(graph[exact.asset], exact)
            yield record


@dataclass(frozen=True)
class _Made:
    """A shard's new rows with their index, and how they came about. is_complete: nobody was left for a later run."""

    table: pa.Table
    index: Index
    n_users_changed: int
    fresh: pa.Table
    fresh_users: Collection[str]
    output: Output
    is_complete: bool


@dataclass(frozen=True)
class _Run:
    graph: Graph
    shards: Shards
    resources: Mapping[type, object]
    now: datetime
    users: Users
    only: frozenset[str] | None

    def shard(self, asset: Asset, planned: Planned) -> Record:
        """Compute, check, replace, and only then let the output's own consequence happen."""
        began = perf_counter()
        with ExitStack() as stack:
            previous = stack.enter_context(self.shards.open(asset, planned.shard))
            inputs = {
                edge.asset: Feed(
                    self.graph[edge.asset],
                    edge,
                    stack.enter_context(self.shards.open(self.graph[edge.asset], planned.shard)),
                )
                for edge in asset.inputs
            }
            make = self._observe if asset.observes else self._derive
            made = make(asset, planned, previous, inputs)
            is_anew = previous is None or planned.reason in ("code", "model", "forced")
            _check(asset, planned, made, inputs, is_anew=is_anew)
            footer = self._footer(asset, planned, made, inputs, previous)
            before = previous.footer if previous else None
        if before is None or not before.says_the_same_as(footer):
            self.shards.write(asset, made.table, footer)
        if before and not set(before.index.users) <= set(made.index.users):
            self.shards.remove_leftovers(asset, planned.shard)  # they may hold rows of those who left
        if made.output.then:
            made.output.then()
        return Record(
            asset=asset.name,
            shard=planned.shard,
            reason=planned.reason,
            changed=before is None or before.data_version != footer.data_version,
            data_version=footer.data_version,
            n_rows=footer.n_rows,
            n_users=footer.n_users,
            n_users_changed=made.n_users_changed,
            seconds=perf_counter() - began,
            counts=made.output.counts,
        )

    def _observe(self, asset: Asset, planned: Planned, previous: Shard | None, inputs: Mapping[str, Feed]) -> _Made:
        users = {user: at for user, at in self.users.items() if shard_of(user, self.shards.n_shards) == planned.shard}
        output = self._call(
            asset, _former(asset, previous), users, {name: feed.rows() for name, feed in inputs.items()}
        )
        table = ordered(asset, output.table)
        found = set(pc.unique(table[KEY]).to_pylist())
        _refuse_strangers(
            asset, found, {user for user in found if shard_of(user, self.shards.n_shards) == planned.shard}
        )
        recipe = recipe_of(asset, self.resources)
        stamp = digest_of(hash_of(recipe).encode())
        if asset.is_source:
            index = Index.of(table, asset.plain, _looked_at_by(stamp, found, users, previous))
            stamps = [row.tobytes() for row in index.made_from]
        else:
            index = Index.of(table, asset.plain, self._handed(asset, inputs, recipe, previous))
            stamps = [stamp] * len(index)
        marks = [digest_of(each, row.tobytes()) for each, row in zip(stamps, index.digests, strict=True)]
        return _Made(
            table,
            index.also(sorted(asset.opaque), marks),
            n_users_changed=len(users),
            fresh=table,
            fresh_users=users,
            output=output,
            is_complete=self.only is None,
        )

    def _handed(
        self, asset: Asset, inputs: Mapping[str, Feed], recipe: Mapping[str, str], previous: Shard | None
    ) -> Mapping[str, bytes]:
        """What the inputs hold of each user; of those who are left for a later run, what was handed over before."""
        hashes = staleness(asset, Index(), _indices(inputs), recipe, self.now).made_from
        if self.only is None:
            return hashes
        before = previous.footer.index.known() if previous else {}
        return {user: made for user, made in before.items() if user in hashes and user not in self.only} | {
            user: made for user, made in hashes.items() if user in self.only
        }

    def _derive(self, asset: Asset, planned: Planned, previous: Shard | None, inputs: Mapping[str, Feed]) -> _Made:
        old = _former(asset, previous)
        former = _former_index(asset, old, previous)
        found = staleness(asset, former, _indices(inputs), recipe_of(asset, self.resources), self.now)
        stale = frozenset(found.made_from) if planned.reason == "forced" else found.stale
        changed = stale if self.only is None else stale & self.only
        output = Output(asset.schema.empty_table())
        if changed:
            fed = {name: feed.rows(changed) for name, feed in inputs.items()}
            output = self._call(asset, old, {}, fed)
        fresh = ordered(asset, output.table)
        made_from = {user: found.made_from[user] for user in changed}
        _refuse_strangers(asset, set(fresh[KEY].to_pylist()), changed)
        new = _index(asset, fresh, made_from)
        kept = former.without(changed | found.gone)
        return _Made(
            merged((old, former, kept), (fresh, new, new)),
            kept.merged(new),
            n_users_changed=len(changed),
            fresh=fresh,
            fresh_users=changed,
            output=output,
            is_complete=found.stale <= changed,
        )

    def _call(self, asset: Asset, previous: pa.Table, users: Users, inputs: Mapping[str, pa.Table]) -> Output:
        for name, kind in asset.resources.items():
            if kind not in self.resources:
                raise AssetError(f"{asset.name} asks for '{name}', a {kind.__name__}, which this run does not have.")
        reserved = {"previous": previous, "users": users, "now": self.now}
        result = asset.function(
            **inputs,
            **{name: reserved[name] for name in asset.reserved},
            **{name: self.resources[kind] for name, kind in asset.resources.items()},
        )
        return result if isinstance(result, Output) else Output(result)

    def _footer(
        self, asset: Asset, planned: Planned, made: _Made, inputs: Mapping[str, Feed], previous: Shard | None
    ) -> Footer:
        read = {name: version for name, feed in inputs.items() if (version := feed.version)}
        recipe = recipe_of(asset, self.resources)
        if not made.is_complete:  # some users are still to be computed, so the shard stays behind
            read, recipe = {}, (previous.footer.recipe if previous else recipe)
        return Footer.of(
            asset, planned.shard, self.shards.n_shards, made.index, recipe, read, materialized_at=datetime.now(UTC)
        )


def _indices(inputs: Mapping[str, Feed]) -> Mapping[str, Index | None]:
    return {name: feed.index for name, feed in inputs.items()}


def _former(asset: Asset, previous: Shard | None) -> pa.Table:
    """The shard's rows as they stand; columns that an older version of the code did not have are null."""
    if previous is None:
        return asset.schema.empty_table()
    is_older = previous.footer.recipe["code"] != asset.code_version
    missing = {name for name in asset.schema.names if (is_older or asset.observes) and not previous.has(name)}
    table = previous.read([name for name in asset.schema.names if name not in missing])
    for name in missing:
        table = table.append_column(name, pa.nulls(len(table), asset.schema.field(name).type))
    return table.select(asset.schema.names)


def _former_index(asset: Asset, old: pa.Table, previous: Shard | None) -> Index:
    """What is known of the users, in today's columns."""
    index = previous.footer.index if previous else Index()
    if index.columns == (*asset.plain, *sorted(asset.opaque)):
        return index
    return _index(asset, old, index.known())


def _index(asset: Asset, rows: pa.Table, made_from: Mapping[str, bytes]) -> Index:
    """The index of a derived asset's rows; opaque columns follow from what the rows were made from."""
    index = Index.of(rows, asset.plain, made_from)
    return index.also(sorted(asset.opaque), [row.tobytes() for row in index.made_from])


def _looked_at_by(stamp: bytes, users: Iterable[str], looked: Users, previous: Shard | None) -> dict[str, bytes]:
    """The stamp of the recipe by which a source last looked at each of its users."""
    before = previous.footer.index.known() if previous else {}
    return {user: stamp if user in looked else before.get(user, stamp) for user in users}


def _refuse_strangers(asset: Asset, found: Iterable[str], asked: Iterable[str]) -> None:
    strangers = sorted(set(found) - set(asked))
    if strangers:
        raise CheckFailed(
            f"{asset.name} gave rows of '{strangers[0]}', for whom it was not asked. Return only users of the inputs."
        )


def _check(asset: Asset, planned: Planned, made: _Made, inputs: Mapping[str, Feed], *, is_anew: bool) -> None:
    is_part = not made.is_complete and not asset.observes  # then the others' rows do not fit their inputs yet
    tables = Tables(inputs, made.fresh_users if is_part else None)
    judged = made.fresh if is_part else made.table
    candidate = Candidate(judged, made.fresh, tables, len(made.index), made.n_users_changed, is_anew=is_anew)
    for check in asset.checks:
        if refusal := check(candidate):
            raise CheckFailed(
                f"{asset.name}, shard {planned.shard}: {refusal}. The shard's file stays as it was."
                f" If the data is right, mend the check in its definition."
            )
