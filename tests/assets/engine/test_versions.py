from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import Annotated, Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import NOON, Model, PostOffice, Row, ToyPipeline, reader

from assets.engine.asset import Asset, Users, asset
from assets.engine.graph import Graph
from assets.engine.hashing import edge_hash, hash_of, recipe_of, shard_of
from assets.engine.index import Index
from assets.engine.parquet import Footer
from assets.engine.plan import staleness

LETTERS = pa.schema([("user_id", pa.string()), ("letter_id", pa.string()), ("text", pa.string()), ("n", pa.int64())])


def letter(user: str = "ann", letter_id: str = "l1", text: str | None = "hello", n: int | None = 1) -> Row:
    return {"user_id": user, "letter_id": letter_id, "text": text, "n": n}


def footer_of(rows: Sequence[Row], schema: pa.Schema = LETTERS) -> Footer:
    """Return the footer after a source returned these rows, in a root with the rows of the call before."""

    @asset(step="fetch", schema=schema, code_version="1")
    def letters(users: Users) -> pa.Table:
        return pa.Table.from_pylist(list(rows), schema=schema)

    pipeline = ToyPipeline(f"memory://{'-'.join(schema.names)}", graph=Graph.from_assets([letters]))
    pipeline.run(users=dict.fromkeys([row["user_id"] for row in rows] or ["ann"], NOON))
    return pipeline.footer("letters")


def test_a_shard_is_the_same_everywhere() -> None:
    """A user's shard is the first 32 bits of md5 modulo N_SHARDS, which DuckDB and Postgres compute, too."""
    users = ["ann", "bob", "", "użytkownik", "用户", "user-0001"]
    sql = "SELECT ('0x' || md5(?)[:8])::BIGINT % 16"
    with duckdb.connect() as connection:
        computed = [connection.execute(sql, [user]).fetchone() for user in users]
    assert computed == [(shard_of(user, 16),) for user in users]
    assert shard_of("ann", 16) == 10


@pytest.mark.parametrize("n_shards", [1, 7, 64])
def test_users_are_spread_evenly(n_shards: int) -> None:
    """Many users fill all shards, and no shard has 1.5 times its share."""
    sizes = Counter(shard_of(f"user-{number:05}", n_shards) for number in range(300 * n_shards))
    assert set(sizes) == set(range(n_shards))
    assert max(sizes.values()) < 450


def test_a_hash_does_not_depend_on_order() -> None:
    """Plain data has the hash of its content, in any order of its names."""
    assert hash_of({"a": 1, "b": [2]}) == hash_of({"b": [2], "a": 1})
    assert len({hash_of(value) for value in ({"a": 1}, {"a": "1"}, {"a": None}, {}, [], "", None)}) == 7


class Versionless:
    version = None


def test_a_recipe_is_code_and_models() -> None:
    """A recipe holds the code's version and those of resources that have one; others are left out."""

    @asset(step="embed", schema=LETTERS, code_version="3")
    def vectors(
        letters: Annotated[pa.Table, "user_id"], model: Model, unversioned: PostOffice, absent: Counter
    ) -> pa.Table:
        return LETTERS.empty_table()

    assert recipe_of(vectors, {Model: Model("m1"), PostOffice: PostOffice()}) == {"code": "3", "resource model": "m1"}
    assert recipe_of(vectors, {Model: Versionless()}) == {"code": "3"}


def test_a_resource_can_have_any_name() -> None:
    """A resource named `code` and the version of the code do not hide each other."""

    def recipe(code_version: str, model: str) -> Mapping[str, str]:
        @asset(step="embed", schema=LETTERS, code_version=code_version)
        def vectors(letters: Annotated[pa.Table, "user_id"], code: Model) -> pa.Table:
            return LETTERS.empty_table()

        return recipe_of(vectors, {Model: Model(model)})

    recipes = [recipe("1", "m1"), recipe("2", "m1"), recipe("1", "m2")]
    assert all(one != other for one, other in combinations(recipes, 2))


ROWS = st.lists(
    st.builds(
        letter,
        st.sampled_from(["ann", "bob", "cem"]),
        st.sampled_from(["l1", "l2", "l3"]),
        st.none() | st.text(max_size=4),
        st.none() | st.integers(-(2**63), 2**63 - 1),
    ),
    max_size=6,
    unique_by=lambda row: (row["user_id"], row["letter_id"]),
)


@settings(deadline=None, max_examples=40)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[Row], random: Any) -> None:
    """Equal rows have an equal data_version, in any order in which the asset returns them."""
    mixed = random.sample(rows, len(rows))
    assert footer_of(rows).columns == footer_of(mixed).columns
    assert footer_of(rows).data_version == footer_of(mixed).data_version


def test_the_order_of_ties_does_not_matter() -> None:
    """Rows that differ only after their first two columns have one data_version in any order."""
    rows = [letter(text="first"), letter(text="second", n=2), letter(text="second"), letter(text=None)]
    assert len({footer_of(mixed).data_version for mixed in permutations(rows)}) == 1


def test_the_order_of_unsortable_values_does_not_matter() -> None:
    """Rows that differ only in columns that Arrow cannot sort, lists or half floats, have one data_version."""
    schema = pa.schema(
        [("user_id", pa.string()), ("m", pa.int64()), ("n", pa.float16()), ("labels", pa.list_(pa.string()))]
    )
    values = [(None, 1, ["a"]), (None, 1, ["b"]), (3, 1, None), (3, 1, []), (3, 2, [])]
    rows = [{"user_id": "ann", "m": m, "n": np.float16(n), "labels": labels} for m, n, labels in values]
    assert len({footer_of(mixed, schema).data_version for mixed in permutations(rows)}) == 1


@settings(deadline=None, max_examples=40)
@given(ROWS, ROWS)
def test_different_rows_have_a_different_version(rows: list[Row], others: list[Row]) -> None:
    """Two shards have the same data_version if and only if their rows are the same."""
    same = sorted(map(repr, rows)) == sorted(map(repr, others))
    assert (footer_of(rows).data_version == footer_of(others).data_version) is same


@pytest.mark.parametrize("changed", [{"letter_id": "l9"}, {"text": "Hello"}, {"text": None}, {"n": 2}, {"n": None}])
def test_any_changed_value_changes_the_version(changed: Row) -> None:
    """A change of a single value changes the data_version and the version of its column only."""
    before, after = footer_of([letter()]), footer_of([letter(**changed)])
    assert before.data_version != after.data_version
    assert {name for name in before.columns if before.columns[name] != after.columns[name]} == set(changed)


def test_a_different_user_changes_the_version() -> None:
    """The same values of a different user have a different version in every column."""
    before, after = footer_of([letter("ann")]), footer_of([letter("bob")])
    assert all(before.columns[name] != after.columns[name] for name in LETTERS.names)


def test_the_number_of_rows_changes_the_version() -> None:
    """One row more or less changes the version, even a row of nulls; an empty shard has a version of its own."""
    nulls = letter(text=None, n=None)
    shards = [[], [nulls], [nulls, nulls], [letter()]]
    assert len({footer_of(rows).data_version for rows in shards}) == 4


def table(*rows: Row) -> pa.Table:
    """Return rows in the order in which a shard stores them."""
    ordered = sorted(rows, key=lambda row: (row["user_id"], repr(row)))
    return pa.Table.from_pylist(ordered, schema=LETTERS)


READER = reader("copies", "letters", schema=LETTERS)


def input_digests(
    asset: Asset, tables: Mapping[str, pa.Table | None], recipe: Mapping[str, str] | None = None
) -> Mapping[str, bytes]:
    """Return the current input digest of each user of an asset that reads these tables."""
    indices = {
        name: None if rows is None else Index.from_table(rows, rows.column_names) for name, rows in tables.items()
    }
    return staleness(asset, Index(), indices, recipe or {"code": "1"}, NOON).input_digests


def digests_of(*rows: Row, recipe: Mapping[str, str] | None = None) -> Mapping[str, bytes]:
    """Return the input digests of users with these letters."""
    return input_digests(READER, {"letters": table(*rows)}, recipe)


def test_an_input_digest_covers_the_users_own_rows() -> None:
    """A user's input digest depends on all of their own rows, and not on the rows of others."""
    first, second = letter(), letter(letter_id="l2")
    before = digests_of(first, second)["ann"]
    assert digests_of(letter("aaa", text=None), first, letter("bob", n=None), second)["ann"] == before
    changed = [(first,), (first, second, second), (first, {**second, "n": 5})]
    assert len({before, *(digests_of(*rows)["ann"] for rows in changed)}) == 4


@settings(deadline=None, max_examples=150)
@given(ROWS, ROWS)
def test_input_digests_are_equal_if_the_rows_are(rows: list[Row], others: list[Row]) -> None:
    """A user's input digest in two tables is the same if and only if the user's rows are."""
    before, after = digests_of(*rows), digests_of(*others)
    assert before.keys() == {row["user_id"] for row in rows}
    for user in before.keys() & after.keys():
        own, now = ([row for row in some if row["user_id"] == user] for some in (rows, others))
        assert (before[user] == after[user]) is (sorted(map(repr, own)) == sorted(map(repr, now)))


def test_an_input_digest_covers_the_recipe() -> None:
    """Different code or a different model changes every user's input digest."""
    recipes: list[dict[str, str]] = [{"code": "1"}, {"code": "2"}, {"code": "1", "model": "m1"}]
    assert len({digests_of(letter(), recipe=recipe)["ann"] for recipe in recipes}) == 3


def test_an_input_digest_omits_columns_that_are_not_read() -> None:
    """A column that the asset does not read is no part of the input digest."""
    texts = reader("texts", "letters", schema=LETTERS, columns=["user_id", "text"])
    one, other = (input_digests(texts, {"letters": table(letter(n=n))}) for n in (1, 2))
    assert one == other != digests_of(letter())


def test_the_first_input_decides_the_users() -> None:
    """Only users of the first input are computed; their rows in the other inputs are part of the digest."""
    both = reader("both", "letters", "stamps", schema=LETTERS, columns=["user_id"])

    def with_stamps(stamps: pa.Table | None) -> Mapping[str, bytes]:
        return input_digests(both, {"letters": table(letter(), letter("bob")), "stamps": stamps})

    alone, stamped = with_stamps(table()), with_stamps(table(letter(), letter("zoe")))
    assert set(alone) == set(stamped) == {"ann", "bob"}
    assert alone["bob"] == stamped["bob"]
    assert alone["ann"] != stamped["ann"]
    assert with_stamps(None) == alone


def test_inputs_cannot_be_exchanged() -> None:
    """The same rows in a different input change the digest."""
    three = reader("three", "drafts", "letters", "stamps", schema=LETTERS)
    rows, nothing = table(letter()), table()
    one = input_digests(three, {"drafts": rows, "letters": rows, "stamps": nothing})
    other = input_digests(three, {"drafts": rows, "letters": nothing, "stamps": rows})
    assert one["ann"] != other["ann"]


@pytest.mark.parametrize("name", ["order", "table", "group", "t", "rows", "select"])
def test_an_asset_can_have_any_name(name: str) -> None:
    """An asset can have any name that Python allows, even one with a meaning in SQL."""
    assert set(input_digests(reader("copies", name, schema=LETTERS), {name: table(letter())})) == {"ann"}


@pytest.mark.parametrize("name", ["t", "row_hash", "order", "letters", "rows", "x y", "users", "asset", "digests"])
def test_a_column_can_have_any_name(name: str) -> None:
    """A change is noticed for any names of the columns."""
    schema = pa.schema([("user_id", pa.string()), (name, pa.string()), ("n", pa.int64())])
    copies = reader("copies", "letters", schema=schema)
    tables = [pa.table([["ann"], ["same"], [n]], schema=schema) for n in (1, 2)]
    one, other = (input_digests(copies, {"letters": each})["ann"] for each in tables)
    assert one != other


def test_an_edge_has_the_version_of_its_columns() -> None:
    """The version of an edge depends on the columns that it names, and on no others."""
    versions = {"user_id": "u", "text": "t", "n": "1"}
    assert edge_hash(["user_id", "text"], versions) == edge_hash(["text", "user_id"], {**versions, "n": "2"})
    assert edge_hash(["user_id", "n"], versions) != edge_hash(["user_id", "n"], {**versions, "n": "2"})
