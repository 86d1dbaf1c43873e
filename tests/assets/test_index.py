from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.digests import SIZE, digest_of
from assets.index import Index

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TIME = pa.timestamp("us", "UTC")
LETTERS = pa.schema([("text", pa.string()), ("user_id", pa.string()), ("n", pa.int64()), ("valid_until", TIME)])
COLUMNS = ["user_id", "text", "n"]

Row = dict[str, Any]
Users = dict[str, list[Row]]
"""The rows of each user, also of those who have none."""


def letter(text: str | None = "hello", n: int | None = 1, valid_until: datetime | None = None) -> Row:
    return {"text": text, "n": n, "valid_until": valid_until}


def table_of(users: Users) -> pa.Table:
    rows = [{"user_id": user, **row} for user in sorted(users) for row in users[user]]
    return pa.Table.from_pylist(rows, schema=LETTERS)


def made_from(users: Users) -> dict[str, bytes]:
    return {user: digest_of(user.encode()) for user in users}


def index_of(users: Users) -> Index:
    return Index.of(table_of(users), COLUMNS, made_from(users))


def facts(index: Index) -> list[Any]:
    """All that an index says."""
    parts = (index.n_rows, index.valid_until, index.made_from, index.digests)
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
def test_an_index_says_how_many_rows_each_user_has(users: Users) -> None:
    """Users stand in the order of their rows, each with the number of them and where they begin; some have none."""
    index = index_of(users)
    assert index.users == tuple(sorted(users))
    assert dict(zip(index.users, index.n_rows, strict=True)) == {user: len(rows) for user, rows in users.items()}
    table = table_of(users)
    for user, at in index.position.items():
        own = table.slice(index.starts[at], index.n_rows[at])
        assert own["user_id"].to_pylist() == [user] * len(users[user])
    assert index.starts[-1] == len(table) == index.rows_of(users)
    assert index.rows_of([*users, "nobody whom it knows"]) == len(table)
    assert len(index) == len(users)


@property_test
@given(USERS)
def test_what_is_packed_is_unpacked(users: Users) -> None:
    """An index read back says what it said, and packs to the same bytes."""
    index = index_of(users)
    packed = index.pack()
    assert facts(Index.unpack(packed)) == facts(index)
    assert Index.unpack(packed).pack() == packed == index_of(users).pack()


@property_test
@given(USERS, st.sets(NAMES))
def test_those_who_go_leave_the_others_as_they_were(users: Users, gone: set[str]) -> None:
    """An index without some users is that of the rows without theirs; whoever is not there may be left out too."""
    left = {user: rows for user, rows in users.items() if user not in gone}
    assert facts(index_of(users).without(gone)) == facts(index_of(left))
    assert index_of(users).without(gone).pack() == index_of(left).pack()


@property_test
@given(USERS, st.sets(NAMES))
def test_parts_together_are_the_whole(users: Users, some: set[str]) -> None:
    """Two indices with no user in common, in whatever order they come, make the index of all their rows."""
    index = index_of(users)
    one = index_of({user: rows for user, rows in users.items() if user in some})
    other = index_of({user: rows for user, rows in users.items() if user not in some})
    assert facts(one.merged(other)) == facts(other.merged(one)) == facts(index)


@pytest.mark.parametrize("users", [{}, {"ann": []}, {"ann": [letter()]}])
def test_nothing_adds_nothing(users: Users) -> None:
    """An index of a shard that is not there adds nothing to another, whichever stands first."""
    index = index_of(users)
    assert facts(Index().merged(index)) == facts(index.merged(Index())) == facts(index)
    assert facts(Index.unpack(Index().pack())) == facts(Index())


@property_test
@given(USERS, USERS)
def test_versions_are_equal_when_rows_are(one: Users, other: Users) -> None:
    """Two shards have the same versions when the same users have the same rows, and only then."""
    same = table_of(one).select(COLUMNS).to_pylist() == table_of(other).select(COLUMNS).to_pylist()
    assert (index_of(one).versions() == index_of(other).versions()) is same


def test_a_user_without_rows_is_no_content() -> None:
    """A user of whom nothing was made is known, and changes neither the versions nor what readers read."""
    with_bob, alone = index_of({"ann": [letter()], "bob": []}), index_of({"ann": [letter()]})
    assert with_bob.versions() == alone.versions()
    assert set(with_bob.of_columns(COLUMNS)) == {"ann"}
    assert with_bob.known() == made_from({"ann": [], "bob": []})


def test_a_changed_value_changes_the_version_of_its_column() -> None:
    """A change of one value changes the version of its column and of no other."""
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
def test_rows_cannot_pass_for_those_of_others(users: list[Users]) -> None:
    """The same values under other users, or in other numbers, are another version of every column that has any."""
    for one, other in combinations([index_of(each).versions() for each in users], 2):
        assert one["text"] != other["text"]


def test_columns_are_read_one_after_the_other() -> None:
    """What readers read of a user is a digest a column, in the order asked for."""
    read = index_of({"ann": [letter()]}).of_columns
    user, text, n = (read([name])["ann"] for name in COLUMNS)
    assert len({user, text, n}) == 3
    assert read(["n", "text"])["ann"] == n + text
    assert read([]) == {"ann": b""}


def test_a_column_that_is_not_there_yet_is_told_apart() -> None:
    """A column that readers want already and the shard has not got is nothing, and something once it is there."""
    index = index_of({"ann": [letter(text=None)]})
    without = Index.of(table_of({"ann": [letter()]}), ["user_id", "n"])
    assert without.of_columns(["text"]) == {"ann": bytes(SIZE)}
    assert index.of_columns(["text"])["ann"] != bytes(SIZE)


def test_what_rows_were_made_from_is_known() -> None:
    """An index tells what each user's rows were made from; nothing is known where nothing was said."""
    index = index_of({"ann": [letter()], "bob": []})
    assert index.known() == {"ann": digest_of(b"ann"), "bob": digest_of(b"bob")}
    assert Index.of(table_of({"ann": [letter()]}), COLUMNS).known() == {"ann": bytes(SIZE)}


def test_opaque_columns_are_marks() -> None:
    """An opaque column has for each user the mark that it is given: another mark, another version; its values do not
    matter.
    """
    users: Users = {"ann": [letter()], "bob": [letter()]}
    one, other = (index_of(users).also(["vector"], [b"a" * SIZE, mark * SIZE]) for mark in (b"b", b"c"))
    assert one.columns == (*COLUMNS, "vector")
    assert one.of_columns(["vector"]) == {"ann": b"a" * SIZE, "bob": b"b" * SIZE}
    changed = {name for name, version in one.versions().items() if other.versions()[name] != version}
    assert changed == {"vector"}
    assert facts(Index.unpack(one.pack())) == facts(one)
    assert facts(index_of({}).also(["vector"], [])) == facts(one.without(["ann", "bob"]))


def test_no_opaque_columns() -> None:
    """An asset without opaque columns has the index of its plain ones."""
    index = index_of({"ann": [letter()]})
    assert facts(index.also([], [b"a" * SIZE])) == facts(index)


@property_test
@given(USERS)
def test_the_first_time_up_counts(users: Users) -> None:
    """A user is over when any of their rows is, at that very instant; a shard, when any user is."""
    index = index_of(users)
    times = {user: [row["valid_until"] for row in rows if row["valid_until"]] for user, rows in users.items()}
    assert index.earliest() == min((at for own in times.values() for at in own), default=None)
    for now in (NOON, NOON + HOUR):
        assert index.over(now) == {user for user, own in times.items() if any(at <= now for at in own)}
    assert index.over(NOON - timedelta(microseconds=1)) == set()


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_may_be_of_any_kind(unit: str, zone: str | None) -> None:
    """Until when a row is valid may be told in any unit and zone; without a zone it is UTC."""
    column = pa.array([NOON.replace(tzinfo=None), None], pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
    index = Index.of(pa.table({"user_id": ["ann", "bob"], "valid_until": column}), ["user_id"])
    assert index.earliest() == NOON
    assert index.over(NOON) == {"ann"}


def test_a_time_between_microseconds_is_not_refused() -> None:
    """Nanoseconds are cut off, so that a row is computed again a moment too early rather than never."""
    column = pa.array([int(NOON.timestamp()) * 10**9 + 1_999], pa.timestamp("ns", "UTC"))
    index = Index.of(pa.table({"user_id": ["ann"], "valid_until": column}), ["user_id"])
    assert index.earliest() == NOON + timedelta(microseconds=1)


def test_rows_may_come_in_chunks() -> None:
    """A user whose rows lie in several chunks is one user."""
    whole = table_of({"ann": [letter(n=1), letter(n=2, valid_until=NOON), letter(n=3)], "bob": [letter()]})
    parts = pa.concat_tables([whole.slice(0, 0), whole.slice(0, 1), whole.slice(1, 2), whole.slice(3)])
    assert parts["user_id"].num_chunks > 1
    assert facts(Index.of(parts, COLUMNS)) == facts(Index.of(whole, COLUMNS))


def test_columns_may_have_any_name() -> None:
    """A column's name may hold what separates others, or nothing at all."""
    names = ["user_id", "a\nb", "", "é", '"']
    index = Index.of(pa.table([["ann"]] * len(names), names=names), names)
    assert Index.unpack(index.pack()).columns == tuple(names)


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda _: b"laptop 7", lambda packed: packed[: len(packed) // 2]])
def test_something_else_is_refused(spoil: Any) -> None:
    """Bytes that are no index, or half of one, are refused as a wrong value."""
    with pytest.raises(ValueError, match="no index of users"):
        Index.unpack(spoil(index_of({"ann": [letter()]}).pack()))


def test_another_table_is_refused() -> None:
    """Arrow that holds something else is refused as a wrong value too."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, LETTERS) as stream:
        stream.write_table(table_of({"ann": [letter()]}))
    with pytest.raises(ValueError, match="no index of users"):
        Index.unpack(bytes(sink.getvalue()))


def test_a_large_shard_has_a_small_index() -> None:
    """What is kept of a user is some hundred bytes, however many rows they have."""
    users: Users = {f"user-{n:05}": [letter("word " * 100)] * 20 for n in range(500)}
    index = index_of(users)
    assert len(index.pack()) < 500 * 150
    assert np.all(index.n_rows == 20)
