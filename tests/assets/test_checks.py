from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from assets.checks import Candidate, changed_users_under, same_rows_as, unit_vectors, users_of


def rows(*users: str, **columns: Any) -> pa.Table:
    return pa.table({"user_id": pa.array(users, pa.string()), **columns})


def candidate(table: pa.Table, inputs: Mapping[str, pa.Table] | None = None, **facts: Any) -> Candidate:
    """A shard of two users, both new, not its first time."""
    given = {"fresh": table, "n_users": 2, "n_users_changed": 2, "is_anew": False, **facts}
    return Candidate(table, inputs=inputs or {}, **given)


def vectors(*values: list[float] | None, type: pa.DataType | None = None) -> Candidate:
    column = pa.array(values, type or pa.list_(pa.float16()))
    return candidate(rows(*map(str, range(len(values))), vector=column))


def test_same_rows_counts_rows_with_a_value() -> None:
    """As many rows as the input has values is right, though the input has rows without one."""
    letters = rows("ann", "bob", "cem", letter_id=["l1", None, "l2"])
    check = same_rows_as("letters", where="letter_id")
    assert check(candidate(rows("ann", "cem"), {"letters": letters})) is None


@pytest.mark.parametrize("users", [("ann",), ("ann", "bob", "cem"), ()])
def test_other_rows_are_told_in_numbers(users: tuple[str, ...]) -> None:
    """Too few rows and too many are refused with what was found and what was wanted."""
    letters = rows("ann", "bob", "cem", letter_id=["l1", None, "l2"])
    said = same_rows_as("letters", where="letter_id")(candidate(rows(*users), {"letters": letters}))
    assert said == f"{len(users)} rows, but letters has 2 with a letter_id"


def test_the_same_users_pass() -> None:
    """The users of the input, however often and in whatever order, are right; so are none at all."""
    check = users_of("letters")
    assert check(candidate(rows("bob", "ann"), {"letters": rows("ann", "ann", "bob")})) is None
    assert check(candidate(rows(), {"letters": rows()})) is None


def test_orphans_and_missing_users_are_named() -> None:
    """Users that the input lacks and users left out are both counted, and a few of each are named."""
    said = users_of("letters")(candidate(rows("ann", "zoe"), {"letters": rows("ann", "bob", "cem")}))
    assert said == "1 users that letters lacks ['zoe'], 2 left out ['bob', 'cem']"


def test_not_every_orphan_is_named() -> None:
    """Of many orphans only three are named, so that the sentence stays one."""
    said = users_of("letters")(candidate(rows("a", "b", "c", "d", "e"), {"letters": rows()}))
    assert said == "5 users that letters lacks ['a', 'b', 'c'], 0 left out []"


def test_unit_vectors_pass() -> None:
    """Vectors of length 1 as far as float16 goes are right; so is a shard without any."""
    check = unit_vectors("vector")
    assert check(vectors([1.0, 0.0], [0.6, 0.8], [-0.7071, 0.7071])) is None
    assert check(vectors([0.6, 0.8], type=pa.list_(pa.float32(), 2))) is None
    assert check(vectors()) is None


@pytest.mark.parametrize("bad", [[1.1, 0.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 0.0], [0.97, 0.0]])
def test_other_vectors_are_counted(bad: list[float]) -> None:
    """Vectors too long, too short, or not finite are counted, and the column is named."""
    said = unit_vectors("vector")(vectors([1.0, 0.0], bad, bad))
    assert said == "2 vectors in 'vector' are not of length 1"


def with_old(old: list[list[float]], *fresh: list[float]) -> Candidate:
    """Vectors of which only the last ones are fresh."""
    whole = vectors(*old, *fresh)
    return replace(whole, fresh=whole.table.slice(len(old)))


def test_only_fresh_vectors_are_judged() -> None:
    """Vectors that were carried over are not judged again, whatever they are; the fresh ones beside them are."""
    check = unit_vectors("vector")
    assert check(with_old([[2.0, 0.0], [0.0, 0.0]], [1.0, 0.0])) is None
    assert check(with_old([[1.0, 0.0]], [2.0, 0.0], [0.0, 1.0])) == "1 vectors in 'vector' are not of length 1"
    assert check(with_old([[2.0, 0.0], [0.0, 0.0]])) is None


@pytest.mark.parametrize("fresh", [[1.0], [1.0, 0.0, 0.0]])
def test_fresh_vectors_are_of_the_size_of_the_old(fresh: list[float]) -> None:
    """Fresh vectors of another size than those carried over are refused, though each is of length 1."""
    said = unit_vectors("vector")(with_old([[1.0, 0.0]], fresh))
    assert said == "the vectors in 'vector' are not all of the same dimension"


def test_a_vector_that_is_missing_is_refused() -> None:
    """A row without a vector is refused by a sentence, among others and alone."""
    assert unit_vectors("vector")(vectors([1.0, 0.0], None)) is not None
    assert unit_vectors("vector")(vectors(None)) is not None


@pytest.mark.parametrize("other", [[1.0, 0.0], [0.0, 1.0, 0.0]])
def test_vectors_of_unequal_size_are_refused(other: list[float]) -> None:
    """Vectors that do not all have the same number of values are refused by a sentence, not by a crash."""
    said = unit_vectors("vector")(vectors([1.0], other))
    assert said is not None
    assert "'vector'" in said


def test_too_many_changed_users_are_refused() -> None:
    """A larger share than the limit is refused in percent; the limit itself passes."""
    check = changed_users_under(0.5)
    assert check(candidate(rows(), n_users=40, n_users_changed=20)) is None
    assert check(candidate(rows(), n_users=40, n_users_changed=30)) == (
        "75% of the users changed at once, the limit is 50%"
    )


def test_first_and_small_shards_may_change_wholly() -> None:
    """A shard's first time, and a shard of few users, say nothing about how many may change."""
    check = changed_users_under(0.5, at_least=20)
    assert check(candidate(rows(), n_users=40, n_users_changed=40, is_anew=True)) is None
    assert check(candidate(rows(), n_users=19, n_users_changed=19)) is None
    assert check(candidate(rows(), n_users=20, n_users_changed=20)) is not None
    assert check(candidate(rows(), n_users=0, n_users_changed=0)) is None
