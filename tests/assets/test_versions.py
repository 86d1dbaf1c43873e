from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations, permutations
from typing import Annotated, Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.asset import Asset, Users, asset
from assets.graph import Graph
from assets.index import Index
from assets.materialize import materialize
from assets.parquet import Footer, Shards
from assets.plan import staleness
from assets.versions import edge_hash, hash_of, recipe_of, shard_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LETTERS = pa.schema([("user_id", pa.string()), ("letter_id", pa.string()), ("text", pa.string()), ("n", pa.int64())])

Row = dict[str, Any]


class Outside:
    """Letters of the world outside, in the order in which they come."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows


class Model:
    def __init__(self, version: str | None) -> None:
        self.version = version


@asset(step="fetch", schema=LETTERS, code_version="1")
def letters(users: Users, outside: Outside) -> pa.Table:
    return pa.Table.from_pylist(list(outside.rows), schema=LETTERS)


def letter(user: str = "ann", letter_id: str = "l1", text: str | None = "hello", n: int | None = 1) -> Row:
    return {"user_id": user, "letter_id": letter_id, "text": text, "n": n}


def footer_of(rows: Sequence[Row], root: str = "memory://versions") -> Footer:
    """The footer of the only shard after a run over these rows, whatever was there before."""
    shards = Shards(root, 1)
    users = dict.fromkeys([row["user_id"] for row in rows] or ["ann"], NOON)
    materialize(Graph.of([letters]), shards, resources={Outside: Outside(rows)}, now=NOON, users=users)
    footer = shards.footer(letters, 0)
    assert footer
    return footer


def reader_of(name: str, *columns: str) -> Asset:
    """An asset that reads these columns of the asset `name`."""

    scope: dict[str, Any] = {"Annotated": Annotated, "pa": pa}
    names = ", ".join(map(repr, columns))
    exec(f"def reader({name}: Annotated[pa.Table, {names}]): ...", scope)
    return asset(step="read", schema=LETTERS, code_version="1")(scope["reader"])


def test_a_shard_is_the_same_everywhere() -> None:
    """A user's shard is the first 32 bits of md5 modulo N_SHARDS, as DuckDB and Postgres compute it too."""
    users = ["ann", "bob", "", "użytkownik", "用户", "user-0001"]
    sql = "SELECT ('0x' || md5(?)[:8])::BIGINT % 16"
    with duckdb.connect() as connection:
        computed = [connection.execute(sql, [user]).fetchone() for user in users]
    assert computed == [(shard_of(user, 16),) for user in users]
    assert shard_of("ann", 16) == 10


@pytest.mark.parametrize("n_shards", [1, 7, 64])
def test_users_spread_evenly(n_shards: int) -> None:
    """Many users fill all shards, none of them with half as many again as its share."""
    sizes = Counter(shard_of(f"user-{number:05}", n_shards) for number in range(300 * n_shards))
    assert set(sizes) == set(range(n_shards))
    assert max(sizes.values()) < 450


def test_a_hash_does_not_depend_on_order() -> None:
    """Plain data hashes by its content, in whatever order its names come."""
    assert hash_of({"a": 1, "b": [2]}) == hash_of({"b": [2], "a": 1})
    assert len({hash_of(value) for value in ({"a": 1}, {"a": "1"}, {"a": None}, {}, [], "", None)}) == 7


def test_a_recipe_is_code_and_models() -> None:
    """A recipe holds the code's version and those of resources that have one; others are left out."""

    @asset(step="embed", schema=LETTERS, code_version="3")
    def vectors(
        letters: Annotated[pa.Table, "user_id"], model: Model, unversioned: Outside, absent: Counter
    ) -> pa.Table:
        return LETTERS.empty_table()

    assert recipe_of(vectors, {Model: Model("m1"), Outside: Outside([])}) == {"code": "3", "resource model": "m1"}
    assert recipe_of(vectors, {Model: Model(None)}) == {"code": "3"}


def test_a_resource_may_have_any_name() -> None:
    """A resource that happens to be called code does not hide the version of the code, nor the code its own."""

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
def test_order_given_does_not_matter(rows: list[Row], random: Any) -> None:
    """Equal rows have an equal data_version, in whatever order the asset gives them."""
    mixed = random.sample(rows, len(rows))
    assert footer_of(rows).columns == footer_of(mixed).columns
    assert footer_of(rows).data_version == footer_of(mixed).data_version


def test_order_does_not_matter_in_ties() -> None:
    """Rows that only differ after their first two columns have one data_version too, in whatever order."""
    rows = [letter(text="first"), letter(text="second", n=2), letter(text="second"), letter(text=None)]
    assert len({footer_of(mixed).data_version for mixed in permutations(rows)}) == 1


@settings(deadline=None, max_examples=40)
@given(ROWS, ROWS)
def test_other_rows_have_another_version(rows: list[Row], others: list[Row]) -> None:
    """Two shards have the same data_version when their rows are the same, and only then."""
    same = sorted(map(repr, rows)) == sorted(map(repr, others))
    assert (footer_of(rows).data_version == footer_of(others).data_version) is same


@pytest.mark.parametrize("changed", [{"letter_id": "l9"}, {"text": "Hello"}, {"text": None}, {"n": 2}, {"n": None}])
def test_any_changed_value_changes_the_version(changed: Row) -> None:
    """A change of any one value changes the data_version and the version of that column only."""
    before, after = footer_of([letter()]), footer_of([letter(**changed)])
    assert before.data_version != after.data_version
    assert {name for name in before.columns if before.columns[name] != after.columns[name]} == set(changed)


def test_another_user_changes_the_version() -> None:
    """The same values of another user are another content, whichever column is asked."""
    before, after = footer_of([letter("ann")]), footer_of([letter("bob")])
    assert all(before.columns[name] != after.columns[name] for name in LETTERS.names)


def test_a_row_more_changes_the_version() -> None:
    """One row more or less, even a row of nulls, is another content; none at all is a content of its own."""
    nothing = letter(text=None, n=None)
    shards = [[], [nothing], [nothing, nothing], [letter()]]
    assert len({footer_of(rows).data_version for rows in shards}) == 4


NESTED = pa.schema(
    [("user_id", pa.string()), ("m", pa.int64()), ("n", pa.float16()), ("labels", pa.list_(pa.string()))]
)


@asset(step="fetch", schema=NESTED, code_version="1")
def labelled(users: Users, outside: Outside) -> pa.Table:
    return pa.Table.from_pylist(list(outside.rows), schema=NESTED)


def test_order_does_not_matter_where_nothing_sorts_by() -> None:
    """Rows that differ only in columns that nothing sorts by, lists or half floats, have one data_version too."""
    shards = Shards("memory://nested", 1)
    several = [(None, 1, ["a"]), (None, 1, ["b"]), (3, 1, None), (3, 1, []), (3, 2, [])]
    rows = [{"user_id": "ann", "m": m, "n": np.float16(n), "labels": labels} for m, n, labels in several]
    versions = set()
    for mixed in permutations(rows):
        given = {Outside: Outside(mixed)}
        materialize(Graph.of([labelled]), shards, resources=given, now=NOON, users={"ann": NOON})
        footer = shards.footer(labelled, 0)
        assert footer
        versions.add(footer.data_version)
    assert len(versions) == 1


def table(*rows: Row, schema: pa.Schema = LETTERS) -> pa.Table:
    """Rows as a shard holds them: user by user, and in the order of what they hold."""
    ordered = sorted(rows, key=lambda row: (row["user_id"], repr(row)))
    return pa.Table.from_pylist(ordered, schema=schema)


READER = reader_of("letters", *LETTERS.names)


def made_from(
    reader: Asset, tables: Mapping[str, pa.Table | None], recipe: Mapping[str, str] | None = None
) -> Mapping[str, bytes]:
    """What each user is to be made from by a reader of these tables."""
    held = {name: None if rows is None else Index.of(rows, rows.column_names) for name, rows in tables.items()}
    return staleness(reader, Index(), held, recipe or {"code": "1"}, NOON).made_from


def hashes(*rows: Row, recipe: Mapping[str, str] | None = None) -> Mapping[str, bytes]:
    return made_from(READER, {"letters": table(*rows)}, recipe)


def test_a_user_is_made_from_their_rows_only() -> None:
    """Another user's rows leave what a user is made from alone; one's own rows change it."""
    first, second = letter(), letter(letter_id="l2")
    before = hashes(first, second)["ann"]
    assert hashes(letter("aaa", text=None), first, letter("bob", n=None), second)["ann"] == before
    others = [hashes(first)["ann"], hashes(first, second, second)["ann"], hashes(first, {**second, "n": 5})["ann"]]
    assert len({before, *others}) == 4


@settings(deadline=None, max_examples=150)
@given(ROWS, ROWS)
def test_users_are_made_from_the_same_when_their_rows_are(rows: list[Row], others: list[Row]) -> None:
    """Whether a user is made from the same before and after follows from their own rows and from nothing else."""
    before, after = hashes(*rows), hashes(*others)
    assert before.keys() == {row["user_id"] for row in rows}
    for user in before.keys() & after.keys():
        own, now = ([row for row in some if row["user_id"] == user] for some in (rows, others))
        assert (before[user] == after[user]) is (sorted(map(repr, own)) == sorted(map(repr, now)))


def test_a_user_is_made_by_the_recipe_too() -> None:
    """Another code or model changes what every user is made from."""
    recipes: list[dict[str, str]] = [{"code": "1"}, {"code": "2"}, {"code": "1", "model": "m1"}]
    assert len({hashes(letter(), recipe=recipe)["ann"] for recipe in recipes}) == 3


def test_a_column_not_read_does_not_count() -> None:
    """What a reader does not read of a user is no part of what they are made from."""
    reader = reader_of("letters", "user_id", "text")
    one, other = (made_from(reader, {"letters": table(letter(n=n))}) for n in (1, 2))
    assert one == other != hashes(letter())


def test_the_first_input_says_who_counts() -> None:
    """Only users of the first input are made; what others hold of them is part of it, or that these hold nothing."""

    @asset(step="read", schema=LETTERS, code_version="1")
    def both(letters: Annotated[pa.Table, "user_id"], stamps: Annotated[pa.Table, "user_id"]) -> pa.Table:
        return LETTERS.empty_table()

    def of(stamps: pa.Table | None) -> Mapping[str, bytes]:
        return made_from(both, {"letters": table(letter(), letter("bob")), "stamps": stamps})

    alone, stamped = of(table()), of(table(letter(), letter("zoe")))
    assert set(alone) == set(stamped) == {"ann", "bob"}
    assert alone["bob"] == stamped["bob"]
    assert alone["ann"] != stamped["ann"]
    assert of(None) == alone


def test_inputs_are_not_exchanged() -> None:
    """The same rows in another input are something else."""

    @asset(step="read", schema=LETTERS, code_version="1")
    def three(
        users_of: Annotated[pa.Table, "user_id"],
        letters: Annotated[pa.Table, "user_id", "text"],
        stamps: Annotated[pa.Table, "user_id", "text"],
    ) -> pa.Table:
        return LETTERS.empty_table()

    rows, nothing = table(letter()), table()
    one = made_from(three, {"users_of": rows, "letters": rows, "stamps": nothing})
    other = made_from(three, {"users_of": rows, "letters": nothing, "stamps": rows})
    assert one["ann"] != other["ann"]


@pytest.mark.parametrize("name", ["order", "table", "group", "t", "rows", "select"])
def test_an_asset_may_have_any_name(name: str) -> None:
    """An asset may be called what Python allows, also where SQL has a word of its own for that."""
    assert set(made_from(reader_of(name, *LETTERS.names), {name: table(letter())})) == {"ann"}


@pytest.mark.parametrize("name", ["t", "row_hash", "order", "letters", "rows", "x y", "users", "asset", "digests"])
def test_a_column_may_have_any_name(name: str) -> None:
    """A change in a column is noticed whatever the columns are called."""
    schema = pa.schema([("user_id", pa.string()), (name, pa.string()), ("n", pa.int64())])
    reader = reader_of("letters", *schema.names)
    made = [pa.table([["ann"], ["same"], [n]], schema=schema) for n in (1, 2)]
    one, other = (made_from(reader, {"letters": each})["ann"] for each in made)
    assert one != other


def test_an_edge_is_its_columns() -> None:
    """The version of an edge is that of the columns it names: another column may change as it likes."""
    versions = {"user_id": "u", "text": "t", "n": "1"}
    assert edge_hash(["user_id", "text"], versions) == edge_hash(["text", "user_id"], {**versions, "n": "2"})
    assert edge_hash(["user_id", "n"], versions) != edge_hash(["user_id", "n"], {**versions, "n": "2"})
