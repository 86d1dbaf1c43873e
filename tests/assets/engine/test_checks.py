from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from assets.engine.checks import ShardUnderCheck, changed_users_under, same_rows_as, unit_vectors, users_of


def rows(*users: str, **columns: Any) -> pa.Table:
    return pa.table({"user_id": pa.array(users, pa.string()), **columns})


def shard_of(table: pa.Table, inputs: Mapping[str, pa.Table] | None = None, **facts: Any) -> ShardUnderCheck:
    """Return a shard of two users, both computed, that is no full rebuild."""
    defaults = {"computed": table, "n_users": 2, "n_users_computed": 2, "is_full_rebuild": False}
    return ShardUnderCheck(table, inputs=inputs or {}, **{**defaults, **facts})


def vectors(*values: list[float] | None, type: pa.DataType | None = None) -> ShardUnderCheck:
    """Return a shard with one vector for each user."""
    column = pa.array(values, type or pa.list_(pa.float16()))
    return shard_of(rows(*map(str, range(len(values))), vector=column))


def test_same_rows_counts_rows_with_a_value() -> None:
    """A shard with a row for each value of the input passes, even if the input has rows without a value."""
    letters = rows("ann", "bob", "cem", letter_id=["l1", None, "l2"])
    check = same_rows_as("letters", where="letter_id")
    assert check(shard_of(rows("ann", "cem"), {"letters": letters})) is None


@pytest.mark.parametrize("users", [("ann",), ("ann", "bob", "cem"), ()])
def test_a_different_number_of_rows_is_refused(users: tuple[str, ...]) -> None:
    """Too few or too many rows are refused with the number found and the number expected."""
    letters = rows("ann", "bob", "cem", letter_id=["l1", None, "l2"])
    refusal = same_rows_as("letters", where="letter_id")(shard_of(rows(*users), {"letters": letters}))
    assert refusal == f"{len(users)} rows, but letters has 2 with a letter_id"


def test_the_same_users_pass() -> None:
    """A shard with exactly the input's users passes, in any order and with any number of rows, even without users."""
    check = users_of("letters")
    assert check(shard_of(rows("bob", "ann"), {"letters": rows("ann", "ann", "bob")})) is None
    assert check(shard_of(rows(), {"letters": rows()})) is None


def test_orphans_and_missing_users_are_named() -> None:
    """Users that the input lacks and users that the shard lacks are counted, and a few of each are named."""
    refusal = users_of("letters")(shard_of(rows("ann", "zoe"), {"letters": rows("ann", "bob", "cem")}))
    assert refusal == "orphans that letters lacks: 1 ['zoe']; missing users: 2 ['bob', 'cem']"


def test_only_three_orphans_are_named() -> None:
    """Only three of many orphans are named, to keep the message short."""
    refusal = users_of("letters")(shard_of(rows("a", "b", "c", "d", "e"), {"letters": rows()}))
    assert refusal == "orphans that letters lacks: 5 ['a', 'b', 'c']; missing users: 0 []"


def test_unit_vectors_pass() -> None:
    """Vectors of length 1, within the precision of float16, pass, and an empty shard passes."""
    check = unit_vectors("vector")
    assert check(vectors([1.0, 0.0], [0.6, 0.8], [-0.7071, 0.7071])) is None
    assert check(vectors([0.6, 0.8], type=pa.list_(pa.float32(), 2))) is None
    assert check(vectors()) is None


@pytest.mark.parametrize("bad", [[1.1, 0.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 0.0], [0.97, 0.0]])
def test_bad_vectors_are_counted(bad: list[float]) -> None:
    """Vectors that are too long, too short or not finite are refused with their number and the column."""
    refusal = unit_vectors("vector")(vectors([1.0, 0.0], bad, bad))
    assert refusal == "2 vectors in 'vector' are not of length 1"


def carried_over(old: list[list[float]], *computed: list[float]) -> ShardUnderCheck:
    """Return a shard with old vectors, and computed ones after them."""
    shard = vectors(*old, *computed)
    return replace(shard, computed=shard.table.slice(len(old)))


def test_only_computed_vectors_are_checked() -> None:
    """Vectors that were carried over are not checked again; the computed ones beside them are."""
    check = unit_vectors("vector")
    assert check(carried_over([[2.0, 0.0], [0.0, 0.0]], [1.0, 0.0])) is None
    assert check(carried_over([[1.0, 0.0]], [2.0, 0.0], [0.0, 1.0])) == "1 vectors in 'vector' are not of length 1"
    assert check(carried_over([[2.0, 0.0], [0.0, 0.0]])) is None


@pytest.mark.parametrize("computed", [[1.0], [1.0, 0.0, 0.0]])
def test_computed_vectors_have_the_dimension_of_old_ones(computed: list[float]) -> None:
    """Computed unit vectors of a different dimension than the ones carried over are refused."""
    refusal = unit_vectors("vector")(carried_over([[1.0, 0.0]], computed))
    assert refusal == "the vectors in 'vector' are not all of the same dimension"


def test_a_missing_vector_is_refused() -> None:
    """A row without a vector is refused, among others and alone, without an exception."""
    assert unit_vectors("vector")(vectors([1.0, 0.0], None)) is not None
    assert unit_vectors("vector")(vectors(None)) is not None


@pytest.mark.parametrize("other", [[1.0, 0.0], [0.0, 1.0, 0.0]])
def test_vectors_of_different_dimensions_are_refused(other: list[float]) -> None:
    """Vectors of different dimensions are refused with the column, without an exception."""
    refusal = unit_vectors("vector")(vectors([1.0], other))
    assert refusal is not None
    assert "'vector'" in refusal


def test_too_many_changed_users_are_refused() -> None:
    """A share above the limit is refused with both percentages; the limit itself passes."""
    check = changed_users_under(0.5)
    assert check(shard_of(rows(), n_users=40, n_users_computed=20)) is None
    assert check(shard_of(rows(), n_users=40, n_users_computed=30)) == (
        "75% of the users changed at once, the limit is 50%"
    )


def test_full_rebuilds_and_small_shards_can_change_wholly() -> None:
    """A full rebuild, and a shard of few users, pass with any share of changed users."""
    check = changed_users_under(0.5, at_least=20)
    assert check(shard_of(rows(), n_users=40, n_users_computed=40, is_full_rebuild=True)) is None
    assert check(shard_of(rows(), n_users=19, n_users_computed=19)) is None
    assert check(shard_of(rows(), n_users=20, n_users_computed=20)) is not None
    assert check(shard_of(rows(), n_users=0, n_users_computed=0)) is None
