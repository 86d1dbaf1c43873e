from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import combinations, permutations
from typing import Annotated, Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.asset import Asset, Users, asset
from assets.graph import Graph
from assets.materialize import materialize
from assets.parquet import Footer, Shards
from assets.versions import column_versions, edge_hash, hash_of, input_hashes, recipe_of, shard_of

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


@pytest.mark.parametrize(
    "changed", [{"user": "bob"}, {"letter_id": "l9"}, {"text": "Hello"}, {"text": None}, {"n": 2}]
)
def test_any_changed_value_changes_the_version(changed: Row) -> None:
    """A change of any one value changes the data_version and the version of that column only."""
    before, after = footer_of([letter()]), footer_of([letter(**changed)])
    column = {"user": "user_id"}.get(*changed, *changed)
    assert before.data_version != after.data_version
    assert {name for name in before.columns if before.columns[name] != after.columns[name]} == {column}


def test_a_row_more_changes_the_version() -> None:
    """One row more or less, even a row of nulls, is another content; none at all is a content of its own."""
    nothing = letter(text=None, n=None)
    shards = [[], [nothing], [nothing, nothing], [letter()]]
    assert len({footer_of(rows).data_version for rows in shards}) == 4


def version(kind: pa.DataType, *values: Any) -> tuple[str, str]:
    """What a column of these values weighs in its shard's version, and in its user's."""
    schema = pa.schema([("user_id", pa.string()), ("x", kind)])
    table = pa.table([pa.array(["ann"] * len(values)), pa.array(values, kind)], schema=schema)

    def made(users: Users) -> pa.Table:
        return table

    whole = column_versions(asset(step="s", schema=schema, code_version="1")(made), table)["x"]
    return whole, input_hashes(reader_of("made", "user_id", "x"), {"made": table}, {})["ann"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ["a", "A", "", None, "null", '"', "\\", "a\x1f", "a\x00", "é", "e\u0301", "\u2028"]),
        (pa.float64(), [0.0, -0.0, None, float("nan"), float("inf"), 0.1, 0.1 + 2**-56, 5e-324, 1e308]),
        (pa.float32(), [0.1, 0.2, 16777216.0, 16777218.0, None]),
        (pa.int64(), [2**53, 2**53 + 1, 2**63 - 1, -(2**63), 0, None]),
        (pa.bool_(), [True, False, None]),
        (pa.binary(), [b"", b"\x00", b"\\x00", b"\xff", None]),
        (pa.date32(), [date(2026, 1, 1), date(2026, 1, 2), None]),
        (pa.time64("us"), [time(1), time(1, 0, 0, 1), None]),
        (pa.duration("us"), [timedelta(days=30), timedelta(days=31), timedelta(microseconds=1), None]),
        (pa.decimal128(20, 3), [Decimal("12345678901234567.001"), Decimal("12345678901234567.002"), None]),
        (pa.timestamp("us", "UTC"), [NOON, NOON + timedelta(microseconds=1), NOON + timedelta(hours=1), None]),
        (pa.timestamp("us", "Europe/Berlin"), [datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1)]),
        (pa.list_(pa.string()), [[], None, [None], ["a", "b"], ["b", "a"], ["a,b"], ["null"], ['a","b']]),
        (pa.struct([("p", pa.int8()), ("q", pa.string())]), [None, {}, {"p": 1}, {"q": "1"}, {"p": 1, "q": "1"}]),
        (pa.map_(pa.string(), pa.int8()), [None, [], [("a", 1)], [("a", 2)], [("b", 1)]]),
    ],
    ids=str,
)
def test_every_value_of_every_type_counts(kind: pa.DataType, values: list[Any]) -> None:
    """Values that differ, however little, never share a version: neither a shard's nor a user's."""
    versions = [version(kind, value) for value in values]
    assert len({whole for whole, _ in versions}) == len({user for _, user in versions}) == len(values)
    assert versions == [version(kind, value) for value in values]


def test_values_do_not_run_into_each_other() -> None:
    """Two values are never one: what separates them cannot stand in a value."""
    pairs = [("a", "b"), ("ab", ""), ("", "ab"), ("a\x1fb",), ('a"\x1f"b',), ("a", "b", None)]
    assert len({version(pa.string(), *pair)[0] for pair in pairs}) == len(pairs)


def test_an_analyst_can_compute_the_versions(tmp_path: Any) -> None:
    """The hash of a column is the sha256 that plain DuckDB gives over the file itself."""
    footer = footer_of([letter("bob", text="ü"), letter(text=None), letter("ann", "l2")], str(tmp_path))
    sql = "SELECT sha256(string_agg(coalesce(to_json({})::VARCHAR, 'null'), chr(31))) FROM '{}'"
    with duckdb.connect(config={"threads": 1}) as connection:
        file = tmp_path / "letters/shard=0000/data.parquet"
        computed = {name: connection.execute(sql.format(name, file)).fetchone() for name in LETTERS.names}
    assert computed == {name: (value,) for name, value in footer.columns.items()}


def table(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=LETTERS)


READER = reader_of("letters", *LETTERS.names)


def hashes(*rows: Row, recipe: Mapping[str, str] | None = None) -> dict[str, str]:
    return input_hashes(READER, {"letters": table(*rows)}, recipe or {"code": "1"})


def test_a_users_hash_is_of_their_rows_only() -> None:
    """Another user's rows, and the order of one's own, leave a user's hash alone; one's own rows change it."""
    first, second = letter(), letter(letter_id="l2")
    before = hashes(first, second)["ann"]
    assert hashes(second, letter("bob"), first)["ann"] == before
    others = [hashes(first)["ann"], hashes(first, second, second)["ann"], hashes(first, {**second, "n": 5})["ann"]]
    assert len({before, *others}) == 4


def test_a_users_hash_is_of_the_recipe_too() -> None:
    """Another code or model changes every user's hash."""
    recipes: list[dict[str, str]] = [{"code": "1"}, {"code": "2"}, {"code": "1", "model": "m1"}]
    assert len({hashes(letter(), recipe=recipe)["ann"] for recipe in recipes}) == 3


def test_the_first_input_says_who_counts() -> None:
    """Only users of the first input have a hash; what other inputs hold of them is part of it."""

    @asset(step="read", schema=LETTERS, code_version="1")
    def both(letters: Annotated[pa.Table, "user_id"], stamps: Annotated[pa.Table, "user_id"]) -> pa.Table:
        return LETTERS.empty_table()

    def of(stamps: pa.Table) -> dict[str, str]:
        return input_hashes(both, {"letters": table(letter(), letter("bob")), "stamps": stamps}, {})

    alone, stamped = of(table()), of(table(letter(), letter("zoe")))
    assert set(alone) == set(stamped) == {"ann", "bob"}
    assert alone["bob"] == stamped["bob"]
    assert alone["ann"] != stamped["ann"]


@pytest.mark.parametrize("name", ["order", "table", "group", "t", "rows", "select"])
def test_an_asset_may_have_any_name(name: str) -> None:
    """An asset may be called what Python allows, also where SQL has a word of its own for that."""
    found = input_hashes(reader_of(name, *LETTERS.names), {name: table(letter())}, {})
    assert set(found) == {"ann"}


@pytest.mark.parametrize("name", ["t", "row_hash", "order", "letters", "rows", "x y"])
def test_a_column_may_have_any_name(name: str) -> None:
    """A change in a column is noticed whatever the columns are called."""
    schema = pa.schema([("user_id", pa.string()), (name, pa.string()), ("n", pa.int64())])
    made = [pa.table([["ann"], ["same"], [n]], schema=schema) for n in (1, 2)]
    one, other = (input_hashes(READER, {"letters": each}, {})["ann"] for each in made)
    assert one != other


def test_an_edge_is_its_columns() -> None:
    """The version of an edge is that of the columns it names: another column may change as it likes."""
    versions = {"user_id": "u", "text": "t", "n": "1"}
    assert edge_hash(["user_id", "text"], versions) == edge_hash(["text", "user_id"], {**versions, "n": "2"})
    assert edge_hash(["user_id", "n"], versions) != edge_hash(["user_id", "n"], {**versions, "n": "2"})
