"""Tables whose rows stand user by user: put in order, taken by user, put together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import KEY, Asset
from assets.digests import texts
from assets.errors import SchemaError
from assets.index import Index


def ordered(asset: Asset, table: pa.Table) -> pa.Table:
    """The rows that an asset gave, user by user, in the one order that content alone gives; SchemaError."""
    table = asset.conform(table).combine_chunks()
    if table[KEY].null_count:
        raise SchemaError(f"{asset.name} gave a row without a '{KEY}'. Every row belongs to a user: leave it out.")
    names = list(dict.fromkeys([KEY, *asset.plain]))
    keys = [name for name in names if _is_sortable(asset.schema.field(name).type)]
    table = table.sort_by([(name, "ascending") for name in keys])
    if len(keys) == len(names) or not _has_twins(table.select(keys)):
        return table
    sortable = table.select(keys)
    for name in (name for name in names if name not in keys):
        sortable = sortable.append_column(name, pa.array(texts(table[name]), pa.string()))
    return table.take(pc.sort_indices(sortable, [(name, "ascending") for name in sortable.column_names]))


def take(table: pa.Table, index: Index, users: Iterable[str]) -> pa.Table:
    """The rows of some users of a table that `index` describes, in its order; without a copy where they touch."""
    positions = sorted(index.position[user] for user in users if user in index.position)
    return _slices((table, int(index.starts[at]), int(index.n_rows[at])) for at in positions) or table.slice(0, 0)


def merged(*parts: tuple[pa.Table, Index, Index]) -> pa.Table:
    """One table of users from several, in the users' order. parts: rows, their index, and the users to take."""
    taken = [
        (user, table, int(index.starts[index.position[user]]), int(index.n_rows[index.position[user]]))
        for table, index, chosen in parts
        for user in chosen.users
    ]
    ordered = sorted(taken, key=lambda each: each[0])
    return _slices(each[1:] for each in ordered) or parts[0][0].slice(0, 0)


def _slices(wanted: Iterable[tuple[pa.Table, int, int]]) -> pa.Table | None:
    """Runs of rows (table, start, length) one after the other; those that touch are taken as one."""
    runs: list[tuple[pa.Table, int, int]] = []
    for table, start, length in wanted:
        if runs and runs[-1][0] is table and runs[-1][1] + runs[-1][2] == start:
            runs[-1] = (table, runs[-1][1], runs[-1][2] + length)
        elif length:
            runs.append((table, start, length))
    slices = [table.slice(start, length) for table, start, length in runs]
    return pa.concat_tables(slices, promote_options="default") if slices else None  # a column may allow nulls by now


def _has_twins(table: pa.Table) -> bool:
    """Whether two rows that stand side by side are the same."""
    same = np.ones(max(0, len(table) - 1), bool)
    for column in table.columns:
        if not same.any():
            return False
        one, other = column.slice(1), column.slice(0, len(same))
        are_null = pc.and_(one.is_null(), other.is_null())
        same &= np.asarray(pc.or_(are_null, pc.fill_null(pc.equal(one, other), fill_value=False)))
    return bool(same.any())


def _is_sortable(kind: pa.DataType) -> bool:
    types = pa.types
    return not any(is_one(kind) for is_one in (types.is_nested, types.is_dictionary, types.is_float16, types.is_null))
