"""Materialize planned shards: compute the users whose inputs changed, carry the others over, replace the file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter

import pyarrow as pa
import pyarrow.compute as pc

from assets.engine.asset import KEY, Asset, CurrentUsers, Output, Users
from assets.engine.checks import ShardUnderCheck
from assets.engine.errors import AssetError, CheckFailed, ShardFailure, WrongShardCount, raise_failures
from assets.engine.graph import Graph
from assets.engine.hashing import digest_of, hash_of, recipe_of, shard_of
from assets.engine.index import Index
from assets.engine.parquet import Footer, Shard, Shards
from assets.engine.plan import Plan, PlannedShard, Planner, Request, staleness
from assets.engine.results import ShardResult
from assets.engine.tables import InputShard, InputTables, merge_users, sort_rows

Lock = Callable[[str, int], AbstractContextManager[None]]
"""Holds the exclusive right to write one shard, given the asset's name and the shard's number."""


def unlocked(_: str, __: int) -> AbstractContextManager[None]:
    """Lock nothing: for roots that only one process writes to."""
    return nullcontext()


def materialize(
    plan: Plan,
    graph: Graph,
    shards: Shards,
    *,
    resources: Mapping[type, object],
    now: datetime,
    lock: Lock = unlocked,
    failures: list[ShardFailure] | None = None,
) -> Iterator[ShardResult]:
    """Materialize a plan in its order and yield the result of each shard.

    A shard that was planned as an upper bound is planned again once its inputs have run. A shard that fails, by
    whatever exception, holds up no other one: only the assets that read it are left out in this shard. failures:
    receives the failures; without it the error is raised at the end, as ShardsFailed if there are several.
    """
    run, failed = _Run(graph, shards, resources, now, plan.request, lock), list[ShardFailure]()
    for entry in plan:
        if not graph.ancestors(entry.asset).isdisjoint(each.asset for each in failed if each.shard == entry.shard):
            continue
        try:
            result = run.entry(entry)
        except WrongShardCount:
            raise
        except Exception as error:
            failed.append(ShardFailure(entry.asset, entry.shard, error))
        else:
            if result:
                yield result
    if failures is not None:
        failures += failed
    else:
        raise_failures(failed)


@dataclass(frozen=True)
class _NewShard:
    """The new rows of a shard with their index, and how they were computed.

    is_complete: no stale user is left for a later run.
    """

    table: pa.Table
    index: Index
    n_users_computed: int
    computed: pa.Table
    computed_users: Collection[str]
    output: Output
    is_complete: bool


@dataclass(frozen=True)
class _Run:
    graph: Graph
    shards: Shards
    resources: Mapping[type, object]
    now: datetime
    request: Request
    lock: Lock

    def entry(self, entry: PlannedShard) -> ShardResult | None:
        """Materialize a planned shard; None if it turns out to be up to date once its inputs have run."""
        planner = Planner(self.graph, self.shards, self.resources, self.now)
        exact = planner.replan(entry, self.request) if entry.is_upper_bound else entry
        if exact is None:
            return None
        with self.lock(exact.asset, exact.shard):
            self.shards.check_layout()  # the rows may have been moved while this process waited for the lock
            return self.shard(self.graph[exact.asset], exact)

    def shard(self, asset: Asset, planned: PlannedShard) -> ShardResult:
        """Compute, check and replace one shard, and only then call the output's `after_write`."""
        began = perf_counter()
        with ExitStack() as stack:
            previous = stack.enter_context(self.shards.open(asset, planned.shard))
            inputs = {
                edge.asset: InputShard(
                    self.graph[edge.asset],
                    edge,
                    stack.enter_context(self.shards.open(self.graph[edge.asset], planned.shard)),
                )
                for edge in asset.inputs
            }
            new = self._checked(asset, planned, previous, inputs)
            footer = self._footer(asset, planned, new, inputs, previous)
            before = previous.footer if previous else None
        if before is None or not before.equals_but_time(footer):
            self.shards.write(asset, new.table, footer)
        if before and not set(before.index.users) <= set(new.index.users):
            self.shards.remove_leftovers(asset, planned.shard)  # they can hold rows of the users removed
        if new.output.after_write:
            new.output.after_write(new.index.row_digests(asset.versioned))
        return ShardResult(
            asset=asset.name,
            shard=planned.shard,
            reason=planned.reason,
            changed=before is None or before.data_version != footer.data_version,
            data_version=footer.data_version,
            n_rows=footer.n_rows,
            n_users=footer.n_users,
            n_users_computed=new.n_users_computed,
            seconds=perf_counter() - began,
            counts=new.output.counts,
        )

    def _checked(
        self, asset: Asset, planned: PlannedShard, previous: Shard | None, inputs: Mapping[str, InputShard]
    ) -> _NewShard:
        """Compute a shard and check it.

        Inputs may have been replaced since the plan, one before the other. If a check then refuses the shard, users
        for whom the inputs do not fit each other are left for a later run.
        """
        compute = self._observe if asset.observes else self._derive
        new = compute(asset, planned, previous, inputs)
        try:
            _check(asset, planned, new, inputs, is_first_run=previous is None)
        except CheckFailed:
            waiting = self.request.waiting | self._overtaken(inputs)
            if waiting == self.request.waiting:
                raise
            return replace(self, request=replace(self.request, waiting=waiting))._checked(
                asset, planned, previous, inputs
            )
        return new

    def _overtaken(self, inputs: Mapping[str, InputShard]) -> frozenset[str]:
        """Return the users for whom an input was made from other rows than those that another input has now."""
        users: frozenset[str] = frozenset()
        for source in (each.source for each in inputs.values() if each.source.inputs):
            if inputs.keys() >= {edge.asset for edge in source.inputs}:
                recipe, index = recipe_of(source, self.resources), inputs[source.name].index or Index()
                current = staleness(source, index, _indices(inputs), recipe, self.now)
                users |= current.stale | current.removed
        return users

    def _observe(
        self, asset: Asset, planned: PlannedShard, previous: Shard | None, inputs: Mapping[str, InputShard]
    ) -> _NewShard:
        """Let an observing asset write the whole shard."""
        waiting = self.request.waiting
        users = {
            user: at
            for user, at in self.request.users_for(asset).items()
            if user not in waiting and self._is_in(user, planned.shard)
        }
        tables = {name: source.rows() for name, source in inputs.items()}
        recipe = recipe_of(asset, self.resources)
        recipe_digest = digest_of(hash_of(recipe).encode())
        current = CurrentUsers() if self.request.force else _current_users(asset, previous, recipe_digest)
        output = self._call(asset, previous, _previous_rows(asset, previous), users, tables, current)
        table = sort_rows(asset, output.table)
        all_users = set(pc.unique(table[KEY]).to_pylist())
        _refuse_strangers(asset, all_users, {user for user in all_users if self._is_in(user, planned.shard)})
        if asset.is_source:
            input_digests = _observation_digests(recipe_digest, all_users, users, previous)
            index = Index.from_table(table, asset.versioned, input_digests)
            prefixes = [row.tobytes() for row in index.input_digests]
        else:
            index = Index.from_table(table, asset.versioned, self._written_digests(asset, inputs, recipe, previous))
            prefixes = [recipe_digest] * len(index)
        opaque = [digest_of(prefix, row.tobytes()) for prefix, row in zip(prefixes, index.digests, strict=True)]
        return _NewShard(
            table,
            index.with_opaque(sorted(asset.opaque), opaque),
            n_users_computed=len(users),
            computed=table,
            computed_users=users,
            output=output,
            is_complete=not self.request.leaves_out(index.users if asset.is_source else _first_users(asset, inputs)),
        )

    def _written_digests(
        self, asset: Asset, inputs: Mapping[str, InputShard], recipe: Mapping[str, str], previous: Shard | None
    ) -> Mapping[str, bytes]:
        """Return the input digests of an observing asset's users.

        Users who are left for a later run keep their previous digests, so that it finds them stale.
        """
        current = staleness(asset, Index(), _indices(inputs), recipe, self.now).input_digests
        if not self.request.leaves_out(current):
            return current
        chosen = self.request.restricted(frozenset(current))
        before = previous.footer.index.input_digests_by_user() if previous else {}
        kept = {user: digest for user, digest in before.items() if user in current and user not in chosen}
        return kept | {user: current[user] for user in chosen}

    def _derive(
        self, asset: Asset, planned: PlannedShard, previous: Shard | None, inputs: Mapping[str, InputShard]
    ) -> _NewShard:
        """Compute the stale users of a derived asset and carry the others over."""
        old = _previous_rows(asset, previous)
        old_index = _previous_index(asset, old, previous)
        current = staleness(asset, old_index, _indices(inputs), recipe_of(asset, self.resources), self.now)
        users = current.to_compute(self.request, force=planned.reason == "forced")
        output = Output(asset.schema.empty_table())
        if users:
            output = self._call(
                asset, previous, old, {}, {name: source.rows(users) for name, source in inputs.items()}
            )
        computed = sort_rows(asset, output.table)
        input_digests = {user: current.input_digests[user] for user in users}
        _refuse_strangers(asset, set(computed[KEY].to_pylist()), users)
        new_index = _index(asset, computed, input_digests)
        kept = old_index.without(users | current.removed)
        return _NewShard(
            merge_users((old, old_index, kept), (computed, new_index, new_index)),
            kept.merged(new_index),
            n_users_computed=len(users),
            computed=computed,
            computed_users=users,
            output=output,
            is_complete=current.stale <= users,
        )

    def _call(
        self,
        asset: Asset,
        previous: Shard | None,
        rows: pa.Table,
        users: Users,
        inputs: Mapping[str, pa.Table],
        current_users: CurrentUsers = frozenset(),
    ) -> Output:
        """Call the asset's function. rows: the previous rows with the asset's columns."""
        for name, kind in asset.resources.items():
            if kind not in self.resources:
                raise AssetError(f"{asset.name} asks for '{name}', a {kind.__name__}, which this run does not have.")
        digests = previous.footer.row_digests if previous and "previous_digests" in asset.reserved else {}
        reserved = {
            "previous": rows,
            "previous_digests": digests,
            "current_users": current_users,
            "users": users,
            "due_users": self.request.due_among(users) if "due_users" in asset.reserved else frozenset(),
            "now": self.now,
        }
        output = asset.function(
            **inputs,
            **{name: reserved[name] for name in asset.reserved},
            **{name: self.resources[kind] for name, kind in asset.resources.items()},
        )
        return output if isinstance(output, Output) else Output(output)

    def _footer(
        self,
        asset: Asset,
        planned: PlannedShard,
        new: _NewShard,
        inputs: Mapping[str, InputShard],
        previous: Shard | None,
    ) -> Footer:
        versions = {name: version for name, source in inputs.items() if (version := source.version)}
        recipe = recipe_of(asset, self.resources)
        if not new.is_complete:  # without versions, and with the old recipe, the shard stays stale
            versions, recipe = {}, (previous.footer.recipe if previous else recipe)
        n_shards, at = self.shards.n_shards, datetime.now(UTC)
        return Footer.from_index(asset, planned.shard, n_shards, new.index, recipe, versions, materialized_at=at)

    def _is_in(self, user: str, shard: int) -> bool:
        return shard_of(user, self.shards.n_shards) == shard


def _indices(inputs: Mapping[str, InputShard]) -> Mapping[str, Index | None]:
    return {name: source.index for name, source in inputs.items()}


def _first_users(asset: Asset, inputs: Mapping[str, InputShard]) -> Collection[str]:
    """Return the users of an asset's first input: those whom its shard has after the run."""
    index = inputs[asset.inputs[0].asset].index
    return index.users if index else ()


def _previous_rows(asset: Asset, previous: Shard | None) -> pa.Table:
    """Return the shard's stored rows; columns that an older version of the code did not have are null."""
    if previous is None:
        return asset.schema.empty_table()
    is_older = previous.footer.recipe["code"] != asset.code_version
    return previous.read(asset.schema.names, may_lack=asset.schema.names if is_older or asset.observes else ())


def _previous_index(asset: Asset, old: pa.Table, previous: Shard | None) -> Index:
    """Return the stored index of users, rebuilt if the asset now declares other columns."""
    index = previous.footer.index if previous else Index()
    return index if _has_columns(index, asset) else _index(asset, old, index.input_digests_by_user())


def _has_columns(index: Index, asset: Asset) -> bool:
    """Return whether an index has the columns that the asset declares."""
    return index.columns == (*asset.versioned, *sorted(asset.opaque))


def _index(asset: Asset, rows: pa.Table, input_digests: Mapping[str, bytes]) -> Index:
    """Index a derived asset's rows; the digest of an opaque column is the digest of the user's inputs."""
    index = Index.from_table(rows, asset.versioned, input_digests)
    return index.with_opaque(sorted(asset.opaque), [row.tobytes() for row in index.input_digests])


def _current_users(asset: Asset, previous: Shard | None, recipe_digest: bytes) -> CurrentUsers:
    """Return the users whose stored rows the recipe made, with the asset's columns, if the asset asks for them."""
    if previous is None or "current_users" not in asset.reserved or not _has_columns(previous.footer.index, asset):
        return CurrentUsers()
    digests = previous.footer.index.input_digests_by_user()
    return frozenset(user for user, digest in digests.items() if digest == recipe_digest)


def _observation_digests(
    recipe_digest: bytes, users: Iterable[str], observed: Users, previous: Shard | None
) -> dict[str, bytes]:
    """Return for each user of a source the digest of the recipe of their last observation."""
    before = previous.footer.index.input_digests_by_user() if previous else {}
    return {user: recipe_digest if user in observed else before.get(user, recipe_digest) for user in users}


def _refuse_strangers(asset: Asset, users: Iterable[str], allowed: Iterable[str]) -> None:
    strangers = sorted(set(users) - set(allowed))
    if strangers:
        raise CheckFailed(
            f"{asset.name} returned rows of '{strangers[0]}', a user it was not asked for."
            f" Return only users of the inputs."
        )


def _check(
    asset: Asset, planned: PlannedShard, new: _NewShard, inputs: Mapping[str, InputShard], *, is_first_run: bool
) -> None:
    # Stale users who are left for a later run do not fit the inputs yet: only computed users are checked.
    is_partial = not new.is_complete and not asset.observes
    shard = ShardUnderCheck(
        table=new.computed if is_partial else new.table,
        computed=new.computed,
        inputs=InputTables(inputs, new.computed_users if is_partial else None),
        n_users=len(new.index),
        n_users_computed=new.n_users_computed,
        is_full_rebuild=is_first_run or planned.reason in ("code", "model", "forced"),
    )
    for check in asset.checks:
        if refusal := check(shard):
            raise CheckFailed(
                f"{asset.name}, shard {planned.shard}: {refusal}. The shard's file stays as it was."
                f" If the data is right, fix the check in the asset's definition."
            )
