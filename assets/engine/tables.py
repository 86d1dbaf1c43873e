"""Tables sorted by user: the inputs of one shard, and the operations on their rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.engine.asset import KEY, Asset, Input
from assets.engine.errors import SchemaError
from assets.engine.hashing import canonical_texts, shard_of
from assets.engine.index import Index
from assets.engine.parquet import Shard, Shards


@dataclass(frozen=True)
class InputShard:
    """One input of a shard: the columns that the edge names, in the file as it was opened (None: no file)."""

    source: Asset
    edge: Input
    shard: Shard | None

    @property
    def version(self) -> str | None:
        """The version of the columns that the edge reads, None without a file."""
        return self.shard.footer.edge_version(self.edge.columns) if self.shard else None

    @property
    def index(self) -> Index | None:
        """The index of the input's users, None without a file."""
        return self.shard.footer.index if self.shard else None

    @cached_property
    def table(self) -> pa.Table:
        """The rows of all users."""
        if self.shard is None:
            return pa.schema([self.source.schema.field(name) for name in self.edge.columns]).empty_table()
        return self.shard.read(self.edge.columns, may_lack=self._new_columns)

    @property
    def _new_columns(self) -> list[str]:
        """The columns that an earlier version of a derived asset may lack; sources are rewritten before that matters.

        A step that no longer waits for the asset's step reads what that version stored.
        """
        assert self.shard is not None
        if self.source.is_source or self.shard.footer.recipe["code"] == self.source.code_version:
            return []
        return [field.name for field in self.source.schema if field.nullable]

    def rows(self, users: Iterable[str] | None = None) -> pa.Table:
        """Return the rows of some users, or of all."""
        return self.table if users is None or self.index is None else take_users(self.table, self.index, users)


class InputTables(Mapping[str, pa.Table]):
    """The inputs as checks see them: tables by name, of some users or of all, each read on first access."""

    def __init__(self, inputs: Mapping[str, InputShard], users: Collection[str] | None) -> None:
        self._inputs = inputs
        self._users = users

    def __getitem__(self, name: str) -> pa.Table:
        """Return the rows of an input."""
        return self._inputs[name].rows(self._users)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the inputs."""
        return iter(self._inputs)

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self._inputs)


def sort_rows(asset: Asset, table: pa.Table) -> pa.Table:
    """Return an asset's rows sorted by user, in an order that depends on content alone; may raise SchemaError."""
    table = asset.conform(table).combine_chunks()
    if table[KEY].null_count:
        raise SchemaError(f"{asset.name} returned a row without a '{KEY}'. Every row belongs to a user: omit it.")
    names = list(dict.fromkeys([KEY, *asset.versioned]))
    keys = [name for name in names if _is_sortable(asset.schema.field(name).type)]
    table = table.sort_by([(name, "ascending") for name in keys])
    if len(keys) == len(names) or not _has_equal_neighbours(table.select(keys)):
        return table
    # Arrow cannot sort nested columns, so they are compared as canonical JSON, which is slow: only if it decides.
    sortable = table.select(keys)
    for name in (name for name in names if name not in keys):
        sortable = sortable.append_column(name, pa.array(canonical_texts(table[name]), pa.string()))
    return table.take(pc.sort_indices(sortable, [(name, "ascending") for name in sortable.column_names]))


def take_users(table: pa.Table, index: Index, users: Iterable[str]) -> pa.Table:
    """Return the rows of some users of an indexed table, in its order; adjacent users are not copied."""
    positions = sorted(index.position[user] for user in users if user in index.position)
    runs = ((table, int(index.starts[position]), int(index.n_rows[position])) for position in positions)
    return _concatenated(runs) or table.slice(0, 0)


def user_rows(shards: Shards, asset: Asset, user: str, columns: list[str]) -> pa.Table:
    """Return some columns of a user's stored rows; an empty table if the user's shard has no file."""
    with shards.open(asset, shard_of(user, shards.n_shards)) as shard:
        if shard is None:
            return pa.schema([asset.schema.field(name) for name in columns]).empty_table()
        return take_users(shard.read(columns), shard.footer.index, [user])


def rows_of_users(table: pa.Table, users: Collection[str]) -> pa.Table:
    """Return the rows of some users of any table."""
    return table.filter(pc.is_in(table[KEY], pa.array(sorted(users), pa.string())))


def merge_users(*parts: tuple[pa.Table, Index, Index]) -> pa.Table:
    """Merge users of several tables into one sorted table; each part is a table, its index, the users to take."""
    runs = [
        (user, table, int(index.starts[index.position[user]]), int(index.n_rows[index.position[user]]))
        for table, index, chosen in parts
        for user in chosen.users
    ]
    by_user = sorted(runs, key=lambda run: run[0])
    return _concatenated(run[1:] for run in by_user) or parts[0][0].slice(0, 0)


def _concatenated(slices: Iterable[tuple[pa.Table, int, int]]) -> pa.Table | None:
    """Concatenate slices (table, start, length); adjacent slices of one table become a single slice."""
    runs: list[tuple[pa.Table, int, int]] = []
    for table, start, length in slices:
        if runs and runs[-1][0] is table and runs[-1][1] + runs[-1][2] == start:
            runs[-1] = (table, runs[-1][1], runs[-1][2] + length)
        elif length:
            runs.append((table, start, length))
    pieces = [table.slice(start, length) for table, start, length in runs]
    # Old and new rows may differ in nullability, hence the promotion.
    return pa.concat_tables(pieces, promote_options="default") if pieces else None


def _has_equal_neighbours(table: pa.Table) -> bool:
    """Whether two adjacent rows are equal."""
    equal = np.ones(max(0, len(table) - 1), bool)
    for column in table.columns:
        if not equal.any():
            return False
        one, other = column.slice(1), column.slice(0, len(equal))
        are_null = pc.and_(one.is_null(), other.is_null())
        equal &= np.asarray(pc.or_(are_null, pc.fill_null(pc.equal(one, other), fill_value=False)))
    return bool(equal.any())


def _is_sortable(kind: pa.DataType) -> bool:
    types = pa.types
    return not any(is_one(kind) for is_one in (types.is_nested, types.is_dictionary, types.is_float16, types.is_null))
