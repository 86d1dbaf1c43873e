"""Asset checks: rules that a new shard must meet before it replaces the old one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Candidate:
    """A shard about to be written: its table, the rows of it that are fresh, the inputs that it was made from.

    is_anew: everybody was bound to change, by a first run, other code, another model, or force.
    """

    table: pa.Table
    fresh: pa.Table
    inputs: Mapping[str, pa.Table]
    n_users: int
    n_users_changed: int
    is_anew: bool


Check = Callable[[Candidate], str | None]
"""Gives None when all is well, else one sentence that says what was found and what was wanted."""


def same_rows_as(name: str, *, where: str) -> Check:
    """As many rows as the input `name` has rows with a value in column `where`."""

    def same_rows(candidate: Candidate) -> str | None:
        wanted = len(candidate.inputs[name]) - candidate.inputs[name][where].null_count
        found = len(candidate.table)
        return None if found == wanted else f"{found} rows, but {name} has {wanted} with a {where}"

    return same_rows


def users_of(name: str) -> Check:
    """No user that the input `name` does not have (orphans), and none of them left out."""

    def same_users(candidate: Candidate) -> str | None:
        found, wanted = _users(candidate.table), _users(candidate.inputs[name])
        orphans, missing = sorted(found - wanted), sorted(wanted - found)
        if orphans or missing:
            return f"{len(orphans)} users that {name} lacks {orphans[:3]}, {len(missing)} left out {missing[:3]}"
        return None

    return same_users


def is_unit(vectors: np.ndarray, tolerance: float = 5e-3) -> np.ndarray:
    """Which rows are finite and of length 1, within `tolerance` (float16)."""
    off = np.abs(np.linalg.norm(vectors.astype(np.float32), axis=1) - 1)
    return np.asarray(off <= tolerance)


def unit_vectors(column: str, *, tolerance: float = 5e-3) -> Check:
    """All vectors in the list `column` are of one dimension; the fresh ones are finite and of length 1, within
    `tolerance` (float16).
    """

    def unit(candidate: Candidate) -> str | None:
        if not len(candidate.fresh):
            return None
        if len(pc.unique(pc.list_value_length(candidate.table[column]))) > 1:
            return f"the vectors in '{column}' are not all of the same dimension"
        flat = pc.list_flatten(candidate.fresh[column]).to_numpy()
        n_bad = int(np.sum(~is_unit(flat.reshape(len(candidate.fresh), -1), tolerance)))
        return f"{n_bad} vectors in '{column}' are not of length 1" if n_bad else None

    return unit


def changed_users_under(limit: float, *, at_least: int = 20) -> Check:
    """No more than the share `limit` of a shard's users changed at once, in shards of `at_least` users or more."""

    def changed_under(candidate: Candidate) -> str | None:
        if candidate.is_anew or candidate.n_users < at_least:
            return None
        share = candidate.n_users_changed / candidate.n_users
        return f"{share:.0%} of the users changed at once, the limit is {limit:.0%}" if share > limit else None

    return changed_under


def _users(table: pa.Table) -> set[str]:
    return set(cast(list[str], pc.unique(table["user_id"]).to_pylist()))
