"""Asset checks: rules that a new shard must meet before it replaces the old one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class ShardUnderCheck:
    """A shard about to be written.

    table: all rows. computed: the rows that this run computed. inputs: the tables that the shard was made from.
    n_users, n_users_computed: the users of the shard, and those computed by this run. is_full_rebuild: every user was
    computed, because of a first run, different code, a different model, or force.
    """

    table: pa.Table
    computed: pa.Table
    inputs: Mapping[str, pa.Table]
    n_users: int
    n_users_computed: int
    is_full_rebuild: bool


Check = Callable[[ShardUnderCheck], str | None]
"""Returns None if the shard is good, else one sentence with the value found and the value expected."""


def same_rows_as(name: str, *, where: str) -> Check:
    """Check that the shard has as many rows as the input `name` has rows with a value in column `where`."""

    def same_rows(shard: ShardUnderCheck) -> str | None:
        n_expected = len(shard.inputs[name]) - shard.inputs[name][where].null_count
        n_rows = len(shard.table)
        return None if n_rows == n_expected else f"{n_rows} rows, but {name} has {n_expected} with a {where}"

    return same_rows


def users_of(name: str) -> Check:
    """Check that the shard's users are exactly the users of the input `name`: no orphans, none missing."""

    def same_users(shard: ShardUnderCheck) -> str | None:
        users, expected = _users(shard.table), _users(shard.inputs[name])
        orphans, missing = sorted(users - expected), sorted(expected - users)
        if orphans or missing:
            found = f"orphans that {name} lacks: {len(orphans)} {orphans[:3]}"
            return f"{found}; missing users: {len(missing)} {missing[:3]}"
        return None

    return same_users


def is_unit(vectors: np.ndarray, tolerance: float = 5e-3) -> np.ndarray:
    """Return a mask of the rows that are finite and of length 1, within `tolerance` (sized for float16)."""
    deviation = np.abs(np.linalg.norm(vectors.astype(np.float32), axis=1) - 1)
    return np.asarray(deviation <= tolerance)


def unit_vectors(column: str, *, tolerance: float = 5e-3) -> Check:
    """Check that all vectors in the list `column` have one dimension and that computed ones are unit vectors.

    tolerance: greatest deviation of a length from 1; the default is sized for float16.
    """

    def unit(shard: ShardUnderCheck) -> str | None:
        if not len(shard.computed):
            return None
        if len(pc.unique(pc.list_value_length(shard.table[column]))) > 1:
            return f"the vectors in '{column}' are not all of the same dimension"
        values = pc.list_flatten(shard.computed[column]).to_numpy()
        n_bad = int(np.sum(~is_unit(values.reshape(len(shard.computed), -1), tolerance)))
        return f"{n_bad} vectors in '{column}' are not of length 1" if n_bad else None

    return unit


def changed_users_under(limit: float, *, at_least: int = 20) -> Check:
    """Check that at most the share `limit` of a shard's users changed at once.

    at_least: number of users below which a shard is not checked. Full rebuilds are not checked.
    """

    def changed_under(shard: ShardUnderCheck) -> str | None:
        if shard.is_full_rebuild or shard.n_users < at_least:
            return None
        share = shard.n_users_computed / shard.n_users
        return f"{share:.0%} of the users changed at once, the limit is {limit:.0%}" if share > limit else None

    return changed_under


def _users(table: pa.Table) -> set[str]:
    return set(cast(list[str], pc.unique(table["user_id"]).to_pylist()))
