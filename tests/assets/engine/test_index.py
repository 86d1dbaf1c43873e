from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.engine.hashing import DIGEST_BYTES, digest_of
from assets.engine.index import Index

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TIME = pa.timestamp("us", "UTC")
LETTERS = pa.schema([("text", pa.string()), ("user_id", pa.string()), ("n", pa.int64()), ("valid_until", TIME)])
COLUMNS = ["user_id", "text", "n"]

Row = dict[str, Any]
Users = dict[str, list[Row]]
"""The rows of each user; a user can have none."""


def letter(text: str | None = "hello", n: int | None = 1, valid_until: datetime | None = None) -> Row:
    return {"text": text, "n": n, "valid_until": valid_until}


def table_of(users: Users) -> pa.Table:
    rows = [{"user_id": user, **row} for user in sorted(users) for row in users[user]]
    return pa.Table.from_pylist(rows, schema=LETTERS)


def input_digests(users: Users) -> dict[str, bytes]:
    return {user: digest_of(user.encode()) for user in users}


def index_of(users: Users) -> Index:
    return Index.from_table(table_of(users), COLUMNS, input_digests(users))


def facts(index: Index) -> list[Any]:
    """Return everything that an index holds."""
    parts = (index.n_rows, index.valid_until, index.input_digests, index.digests)
    return [index.users, index.columns, *[(part.shape, part.tolist()) for part in parts]]


NAMES = st.text(max_size=3) | st.sampled_from(["ann", "bob", "cem", "a\nb", "用户"])
ROWS = st.builds(
    letter,
    st.none() | st.text(max_size=2),
    st.none() | st.integers(-1, 1),
    st.none() | st.sampled_from([NOON, NOON + HOUR]),
)
USERS = st.dictionaries(NAMES, st.lists(ROWS, max_size=3), max_size=5)
property_test = settings(max_examples=150, deadline=None)


@property_test
@given(USERS)
def test_an_index_counts_the_rows_of_each_user(users: Users) -> None:
    """Users are in the order of their rows, each with the number and the start of the rows, if there are any."""
    index = index_of(users)
    assert index.users == tuple(sorted(users))
    assert dict(zip(index.users, index.n_rows, strict=True)) == {user: len(rows) for user, rows in users.items()}
    table = table_of(users)
    for user, at in index.position.items():
        own = table.slice(index.starts[at], index.n_rows[at])
        assert own["user_id"].to_pylist() == [user] * len(users[user])
    assert index.starts[-1] == len(table) == index.rows_of(users)
    assert index.rows_of([*users, "an unknown user"]) == len(table)
    assert len(index) == len(users)


@property_test
@given(USERS)
def test_a_packed_index_can_be_unpacked(users: Users) -> None:
    """An unpacked index is equal to the packed one, and packs to the same bytes."""
    index = index_of(users)
    packed = index.pack()
    assert facts(Index.unpack(packed)) == facts(index)
    assert Index.unpack(packed).pack() == packed == index_of(users).pack()


@property_test
@given(USERS, st.sets(NAMES))
def test_an_index_without_some_users(users: Users, removed: set[str]) -> None:
    """An index without some users, who need not be in it, is the index of all other rows."""
    others = {user: rows for user, rows in users.items() if user not in removed}
    assert facts(index_of(users).without(removed)) == facts(index_of(others))
    assert index_of(users).without(removed).pack() == index_of(others).pack()


@property_test
@given(USERS, st.sets(NAMES))
def test_two_indices_can_be_merged(users: Users, some: set[str]) -> None:
    """Two indices without a common user make, in either order, the index of all their rows."""
    index = index_of(users)
    one = index_of({user: rows for user, rows in users.items() if user in some})
    other = index_of({user: rows for user, rows in users.items() if user not in some})
    assert facts(one.merged(other)) == facts(other.merged(one)) == facts(index)


@pytest.mark.parametrize("users", [{}, {"ann": []}, {"ann": [letter()]}])
def test_an_empty_index_adds_nothing(users: Users) -> None:
    """Merging with an index of no users, in either order, changes nothing."""
    index = index_of(users)
    assert facts(Index().merged(index)) == facts(index.merged(Index())) == facts(index)
    assert facts(Index.unpack(Index().pack())) == facts(Index())


@property_test
@given(USERS, USERS)
def test_versions_are_equal_when_rows_are(one: Users, other: Users) -> None:
    """Two shards have the same versions if and only if the same users have the same rows."""
    same = table_of(one).select(COLUMNS).to_pylist() == table_of(other).select(COLUMNS).to_pylist()
    assert (index_of(one).versions() == index_of(other).versions()) is same


def test_a_user_without_rows_is_no_content() -> None:
    """A user without rows has an input digest, but changes neither the versions nor the digests of columns."""
    with_bob, alone = index_of({"ann": [letter()], "bob": []}), index_of({"ann": [letter()]})
    assert with_bob.versions() == alone.versions()
    assert set(with_bob.digests_of(COLUMNS)) == {"ann"}
    assert with_bob.input_digests_by_user() == input_digests({"ann": [], "bob": []})


def test_a_changed_value_changes_the_version_of_its_column() -> None:
    """A change of one value changes the version of its column, and of no other column."""
    before = index_of({"ann": [letter()], "bob": [letter()]}).versions()
    after = index_of({"ann": [letter()], "bob": [letter(text="Hello")]}).versions()
    assert {name for name in COLUMNS if before[name] != after[name]} == {"text"}


@pytest.mark.parametrize(
    "users",
    [
        [{"ann": [letter(), letter()]}, {"ann": [letter()], "bob": [letter()]}, {"ann": [letter()]}],
        [{"a\nb": [letter()], "c": [letter()]}, {"a": [letter()], "b\nc": [letter()]}],
        [{"a": [letter()], "b": []}, {"a": [], "b": [letter()]}, {"a": [], "b": []}],
        [{"a": [letter(), letter("x")]}, {"a": [letter("x"), letter()]}],
    ],
)
def test_equal_values_of_different_users_differ(users: list[Users]) -> None:
    """The same values of different users, or in a different number, have a different version."""
    for one, other in combinations([index_of(each).versions() for each in users], 2):
        assert one["text"] != other["text"]


def test_digests_of_columns_are_concatenated() -> None:
    """The digest of several columns is the concatenation of theirs, in the requested order."""
    index = index_of({"ann": [letter()]})
    user, text, n = (index.digests_of([name])["ann"] for name in COLUMNS)
    assert len({user, text, n}) == 3
    assert index.digests_of(["n", "text"])["ann"] == n + text
    assert index.digests_of([]) == {"ann": b""}


def test_a_missing_column_has_a_digest_of_zeros() -> None:
    """A column that the shard does not have has a digest of zeros, which not even a column of nulls has."""
    index = index_of({"ann": [letter(text=None)]})
    without = Index.from_table(table_of({"ann": [letter()]}), ["user_id", "n"])
    assert without.digests_of(["text"]) == {"ann": bytes(DIGEST_BYTES)}
    assert index.digests_of(["text"])["ann"] != bytes(DIGEST_BYTES)


def test_input_digests() -> None:
    """An index holds the digest of the inputs of each user's rows, and zeros for an unknown one."""
    index = index_of({"ann": [letter()], "bob": []})
    assert index.input_digests_by_user() == {"ann": digest_of(b"ann"), "bob": digest_of(b"bob")}
    assert Index.from_table(table_of({"ann": [letter()]}), COLUMNS).input_digests_by_user() == {
        "ann": bytes(DIGEST_BYTES)
    }


def test_an_opaque_column_has_the_given_digests() -> None:
    """An opaque column has the given digest of each user, and a different version for different digests."""
    users: Users = {"ann": [letter()], "bob": [letter()]}
    ann = b"a" * DIGEST_BYTES
    one, other = (index_of(users).with_opaque(["vector"], [ann, byte * DIGEST_BYTES]) for byte in (b"b", b"c"))
    assert one.columns == (*COLUMNS, "vector")
    assert one.digests_of(["vector"]) == {"ann": ann, "bob": b"b" * DIGEST_BYTES}
    changed = {name for name, version in one.versions().items() if other.versions()[name] != version}
    assert changed == {"vector"}
    assert facts(Index.unpack(one.pack())) == facts(one)
    assert facts(index_of({}).with_opaque(["vector"], [])) == facts(one.without(["ann", "bob"]))


def test_no_opaque_columns() -> None:
    """Without opaque columns an index stays the same."""
    index = index_of({"ann": [letter()]})
    assert facts(index.with_opaque([], [b"a" * DIGEST_BYTES])) == facts(index)


@property_test
@given(USERS)
def test_the_first_expiry_counts(users: Users) -> None:
    """A user expires at the first instant in valid_until of their rows, and a shard at the first of its users."""
    index = index_of(users)
    times = {user: [row["valid_until"] for row in rows if row["valid_until"]] for user, rows in users.items()}
    assert index.next_expiry() == min((at for own in times.values() for at in own), default=None)
    for now in (NOON, NOON + HOUR):
        assert index.expired(now) == {user for user, own in times.items() if any(at <= now for at in own)}
    assert index.expired(NOON - timedelta(microseconds=1)) == set()


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_can_have_any_unit_and_zone(unit: str, zone: str | None) -> None:
    """The column valid_until can have any unit and zone; without a zone it is UTC."""
    column = pa.array([NOON.replace(tzinfo=None), None], pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
    index = Index.from_table(pa.table({"user_id": ["ann", "bob"], "valid_until": column}), ["user_id"])
    assert index.next_expiry() == NOON
    assert index.expired(NOON) == {"ann"}


def test_nanoseconds_are_truncated() -> None:
    """Nanoseconds are truncated: a row is computed again a moment too early rather than too late."""
    column = pa.array([int(NOON.timestamp()) * 10**9 + 1_999], pa.timestamp("ns", "UTC"))
    index = Index.from_table(pa.table({"user_id": ["ann"], "valid_until": column}), ["user_id"])
    assert index.next_expiry() == NOON + timedelta(microseconds=1)


def test_rows_can_be_chunked() -> None:
    """A user whose rows are in several chunks is one user."""
    whole = table_of({"ann": [letter(n=1), letter(n=2, valid_until=NOON), letter(n=3)], "bob": [letter()]})
    parts = pa.concat_tables([whole.slice(0, 0), whole.slice(0, 1), whole.slice(1, 2), whole.slice(3)])
    assert parts["user_id"].num_chunks > 1
    assert facts(Index.from_table(parts, COLUMNS)) == facts(Index.from_table(whole, COLUMNS))


def test_columns_can_have_any_name() -> None:
    """A column's name can contain line breaks and quotes, or be empty."""
    names = ["user_id", "a\nb", "", "é", '"']
    index = Index.from_table(pa.table([["ann"]] * len(names), names=names), names)
    assert Index.unpack(index.pack()).columns == tuple(names)


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda _: b"laptop 7", lambda packed: packed[: len(packed) // 2]])
def test_other_bytes_are_refused(spoil: Any) -> None:
    """Bytes that are not an index, or half of one, raise ValueError."""
    with pytest.raises(ValueError, match="not an index of users"):
        Index.unpack(spoil(index_of({"ann": [letter()]}).pack()))


def test_a_different_table_is_refused() -> None:
    """An Arrow stream of a different table raises ValueError."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, LETTERS) as stream:
        stream.write_table(table_of({"ann": [letter()]}))
    with pytest.raises(ValueError, match="not an index of users"):
        Index.unpack(bytes(sink.getvalue()))


def test_a_large_shard_has_a_small_index() -> None:
    """A user takes at most 150 bytes of the index, with any number of rows."""
    users: Users = {f"user-{n:05}": [letter("word " * 100)] * 20 for n in range(500)}
    index = index_of(users)
    assert len(index.pack()) < 500 * 150
    assert np.all(index.n_rows == 20)
