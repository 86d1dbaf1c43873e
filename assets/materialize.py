"""Run assets, shard by shard: compute the users whose inputs changed, carry the others over, replace the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import INPUT_HASH, KEY, VALID_UNTIL, Asset, Output, Users
from assets.checks import Candidate
from assets.errors import AssetError, CheckFailed
from assets.graph import Graph
from assets.parquet import Footer, Shard, Shards
from assets.plan import Planned, Planner
from assets.records import Record
from assets.versions import column_versions, hash_of, input_hashes, recipe_of, shard_of

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
    """Bring the selected assets up to date in this process, each after those that it reads.

    users: whom the observing assets look at. select: names, `+name`, `name+`; all by default. only_shards: no others,
    and observing assets look there even when they have no user to look at. only_users: compute no one else, in their
    shards. force: compute even what is up to date. Gives a record for each shard that ran.
    """
    chosen = list(graph) if select is None else graph.select(select)
    only = None if only_users is None else frozenset(only_users)
    named = None if only_shards is None else set(only_shards)
    if only is not None:
        users = {user: at for user, at in users.items() if user in only}
        named = {shard_of(user, shards.n_shards) for user in only}
    observed = {shard_of(user, shards.n_shards) for user in users} | (named or set())
    planner = Planner(graph, shards, resources, now)
    run = _Run(graph, shards, resources, now, users, only)
    wanted = None if named is None else sorted(named)
    return [
        run.shard(asset, planned)
        for asset in chosen
        for planned in planner.plan(asset, wanted, observed=observed, force=force)
    ]


@dataclass(frozen=True)
class _Made:
    """A shard's new rows, and how they came about. is_complete: nobody was left for a later run."""

    table: pa.Table
    n_users: int
    n_users_changed: int
    output: Output
    without_rows: Mapping[str, str]
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
                edge.asset: _Feed(
                    self.graph[edge.asset],
                    edge.columns,
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
        if before is None or _is_news(before, footer):
            self.shards.write(asset, made.table, footer)
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

    def _observe(self, asset: Asset, planned: Planned, previous: Shard | None, inputs: Mapping[str, _Feed]) -> _Made:
        users = {user: at for user, at in self.users.items() if shard_of(user, self.shards.n_shards) == planned.shard}
        old = _former(asset, previous).select(asset.schema.names)
        output = self._call(asset, old, users, {name: feed.rows() for name, feed in inputs.items()})
        table = _ordered(asset, asset.conform(output.table))
        found = set(_users(table))
        own = {user for user in found if shard_of(user, self.shards.n_shards) == planned.shard}
        _refuse_strangers(asset, found, own)
        return _Made(table, len(found), len(users), output, {}, is_complete=self.only is None)

    def _derive(self, asset: Asset, planned: Planned, previous: Shard | None, inputs: Mapping[str, _Feed]) -> _Made:
        recipe = {**recipe_of(asset, self.resources), **{name: feed.recipe for name, feed in inputs.items()}}
        hashes = input_hashes(asset, {name: feed.visible for name, feed in inputs.items()}, recipe)
        old = _former(asset, previous)
        known = _known_hashes(old, previous)
        stale = hashes.keys() if planned.reason == "forced" else _stale(hashes, known, old, self.now)
        gone = known.keys() - hashes.keys()
        changed, left = (stale, gone) if self.only is None else (stale & self.only, gone & self.only)
        output = Output(asset.schema.empty_table())
        if changed:
            fed = {name: feed.rows(changed) for name, feed in inputs.items()}
            output = self._call(asset, old.select(asset.schema.names), {}, fed)
        fresh = asset.conform(output.table)
        _refuse_strangers(asset, _users(fresh), changed)
        fresh = fresh.append_column(INPUT_HASH, pa.array([hashes[user] for user in _users(fresh)], pa.string()))
        carried = old.filter(pc.invert(pc.is_in(old[KEY], pa.array(sorted(changed | left), pa.string()))))
        table = _ordered(asset, pa.concat_tables([carried, fresh]))
        with_rows = set(pc.unique(table[KEY]).to_pylist())
        now_known = {user: known[user] for user in known.keys() - left - changed} | {u: hashes[u] for u in changed}
        return _Made(
            table,
            n_users=len(now_known),
            n_users_changed=len(changed),
            output=output,
            without_rows={user: version for user, version in now_known.items() if user not in with_rows},
            is_complete=changed == stale and left == gone,
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
        self, asset: Asset, planned: Planned, made: _Made, inputs: Mapping[str, _Feed], previous: Shard | None
    ) -> Footer:
        read = {name: version for name, feed in inputs.items() if (version := feed.version)}
        recipe = recipe_of(asset, self.resources)
        if not made.is_complete:  # some users are still to be computed, so the shard stays behind
            read, recipe = {}, (dict(previous.footer.recipe) if previous else recipe)
        times = made.table[VALID_UNTIL] if VALID_UNTIL in made.table.column_names else None
        return Footer(
            asset=asset.name,
            shard=planned.shard,
            n_shards=self.shards.n_shards,
            recipe=recipe,
            columns=column_versions(asset, made.table.select(asset.schema.names)),
            inputs=read,
            rows_version=hash_of(made.table[INPUT_HASH].to_pylist()) if not asset.observes else "",
            n_rows=len(made.table),
            n_users=made.n_users,
            materialized_at=datetime.now(UTC),
            valid_until=None if times is None else pc.min(times).as_py(),
            without_rows=made.without_rows,
        )


@dataclass(frozen=True)
class _Feed:
    """One input of a shard: the columns that the edge names, of the file as it was opened."""

    source: Asset
    columns: tuple[str, ...]
    shard: Shard | None

    @property
    def version(self) -> str | None:
        return self.shard.footer.edge_version(self.columns) if self.shard else None

    @property
    def recipe(self) -> str:
        """What made the opaque columns of a source, whose rows carry no hash of their own."""
        is_asked = self.source.observes and not self.source.opaque.isdisjoint(self.columns)
        return hash_of(self.shard.footer.recipe) if self.shard and is_asked else ""

    @property
    def visible(self) -> pa.Table:
        """All rows without opaque columns; for those stands what their users were computed from."""
        names = [name for name in self.columns if name not in self.source.opaque]
        if len(names) < len(self.columns):
            names = [*names, INPUT_HASH] if not self.source.observes else _plain(self.source)
        return self._read(names)

    def rows(self, users: Iterable[str] | None = None) -> pa.Table:
        """All columns, of some users or of all."""
        table = self._read(self.columns)
        return table if users is None else table.filter(pc.is_in(table[KEY], pa.array(sorted(users), pa.string())))

    def _read(self, columns: Iterable[str]) -> pa.Table:
        names = list(columns)
        if self.shard is None:
            full = self.source.schema.append(pa.field(INPUT_HASH, pa.string()))
            return pa.schema([full.field(name) for name in names]).empty_table()
        return self.shard.read(names)


def _stale(hashes: Mapping[str, str], known: Mapping[str, str], old: pa.Table, now: datetime) -> set[str]:
    changed = {user for user, version in hashes.items() if known.get(user) != version}
    if VALID_UNTIL in old.column_names:
        over = old.filter(pc.less_equal(old[VALID_UNTIL], pa.scalar(now, old[VALID_UNTIL].type)))
        changed |= set(_users(over)) & hashes.keys()
    return changed


def _known_hashes(old: pa.Table, previous: Shard | None) -> dict[str, str]:
    with_rows: dict[str, str] = dict(zip(_users(old), old[INPUT_HASH].to_pylist(), strict=True))
    return with_rows | dict(previous.footer.without_rows if previous else {})


def _users(table: pa.Table) -> list[str]:
    return cast(list[str], table[KEY].to_pylist())


def _former(asset: Asset, previous: Shard | None) -> pa.Table:
    """The shard's rows as they stand; columns that an older version of the code did not have are null."""
    full = asset.schema.append(pa.field(INPUT_HASH, pa.string()))
    if previous is None:
        return full.empty_table()
    is_older = previous.footer.recipe["code"] != asset.code_version
    missing = {name for name in full.names if (is_older or asset.observes) and not previous.has(name)}
    table = previous.read([name for name in full.names if name not in missing])
    for name in missing:
        table = table.append_column(name, pa.nulls(len(table), full.field(name).type))
    return table.select(full.names)


def _ordered(asset: Asset, table: pa.Table) -> pa.Table:
    """The rows in the one order that content alone gives."""
    names = (name for name in _plain(asset) if not pa.types.is_nested(asset.schema.field(name).type))
    return table.combine_chunks().sort_by([(name, "ascending") for name in names])


def _plain(asset: Asset) -> list[str]:
    return [name for name in asset.schema.names if name not in asset.opaque]


def _refuse_strangers(asset: Asset, found: Iterable[str], asked: Iterable[str]) -> None:
    strangers = sorted(set(found) - set(asked))
    if strangers:
        raise CheckFailed(
            f"{asset.name} gave rows of '{strangers[0]}', for whom it was not asked. Return only users of the inputs."
        )


def _check(asset: Asset, planned: Planned, made: _Made, inputs: Mapping[str, _Feed], *, is_anew: bool) -> None:
    candidate = Candidate(made.table, _Visible(inputs), made.n_users, made.n_users_changed, is_anew=is_anew)
    for check in asset.checks:
        if refusal := check(candidate):
            raise CheckFailed(
                f"{asset.name}, shard {planned.shard}: {refusal}. The shard's file stays as it was."
                f" If the data is right, mend the check in its definition."
            )


class _Visible(Mapping[str, pa.Table]):
    """The inputs as checks see them, read when asked for."""

    def __init__(self, inputs: Mapping[str, _Feed]) -> None:
        self._inputs = inputs

    def __getitem__(self, name: str) -> pa.Table:
        return self._inputs[name].visible

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)


def _is_news(before: Footer, after: Footer) -> bool:
    """Whether anything but the time differs."""
    return replace(before, materialized_at=after.materialized_at) != after
