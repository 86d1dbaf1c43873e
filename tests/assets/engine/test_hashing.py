from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise, product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.engine.hashing import DIGEST_BYTES, digest_of, user_digests

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
VALUES: dict[pa.DataType, list[Any]] = {
    pa.string(): ["a", "A", "", None, "null", '"', "\\", "a\x1f", "a\x00", "é", "e\u0301", "\u2028"],
    pa.large_string(): ["a", "", None, "null"],
    pa.dictionary(pa.int32(), pa.string()): ["a", "", None, "null"],
    pa.float64(): [0.0, -0.0, None, float("nan"), float("inf"), 0.1, 0.1 + 2**-56, 5e-324, 1e308],
    pa.float32(): [0.0, 0.1, 0.2, 16777216.0, 16777218.0, None],
    pa.float16(): [np.float16(each) for each in (0.0, 0.1, 1.0)] + [None],
    pa.int64(): [2**53, 2**53 + 1, 2**63 - 1, -(2**63), 0, None],
    pa.uint8(): [0, 255, None],
    pa.bool_(): [True, False, None],
    pa.binary(): [b"", b"\x00", b"\\x00", b"\xff", None],
    pa.large_binary(): [b"", b"\x00", None],
    pa.binary(2): [b"\x00\x00", b"\x00\x01", None],
    pa.date32(): [date(1970, 1, 1), date(2026, 1, 1), date(2026, 1, 2), None],
    pa.time64("us"): [time(0), time(1), time(1, 0, 0, 1), None],
    pa.duration("us"): [timedelta(0), timedelta(days=30), timedelta(days=31), timedelta(microseconds=1), None],
    pa.decimal128(20, 3): [Decimal(0), Decimal("12345678901234567.001"), Decimal("12345678901234567.002"), None],
    pa.timestamp("us", "UTC"): [NOON, NOON + timedelta(microseconds=1), NOON + timedelta(hours=1), None],
    pa.timestamp("us", "Europe/Berlin"): [datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1)],
    pa.list_(pa.string()): [[], None, [None], [""], ["a", "b"], ["b", "a"], ["ab"], ["a,b"], ["null"], ['a","b']],
    pa.list_(pa.bool_()): [[], None, [None], [True], [False], [True, False]],
    pa.list_(pa.list_(pa.int8())): [[], None, [None], [[]], [[], []], [[1, 2]], [[1], [2]], [[None]], [[0]]],
    pa.list_(pa.int8(), 2): [None, [0, 0], [0, 1], [None, 0], [0, None]],
    pa.large_list(pa.int8()): [None, [], [0], [0, 0], [None]],
    pa.list_(pa.struct([("p", pa.int8())])): [None, [], [None], [{"p": None}], [{"p": 1}]],
    pa.struct([("p", pa.int8()), ("q", pa.string())]): [None, {}, {"p": 1}, {"q": "1"}, {"p": 1, "q": "1"}],
    pa.map_(pa.string(), pa.int8()): [None, [], [("a", 1)], [("a", 2)], [("b", 1)]],
}
KINDS = [pytest.param(kind, values, id=str(kind)) for kind, values in VALUES.items()]


def array(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    return pa.array(list(values), kind)


def digest(column: pa.Array | pa.ChunkedArray) -> bytes:
    """Return the digest of a column whose rows all belong to one user."""
    return user_digests(pa.table({"x": column}), ["x"], np.array([0, len(column)])).tobytes()


def digests(column: pa.Array | pa.ChunkedArray, bounds: Sequence[int]) -> list[bytes]:
    """Return the digest of each user of a column."""
    matrix = user_digests(pa.table({"x": column}), ["x"], np.array(bounds, np.int64))
    assert matrix.shape == (len(bounds) - 1, 1, DIGEST_BYTES)
    return [each.tobytes() for each in matrix]


@pytest.mark.parametrize(("kind", "values"), KINDS)
def test_every_value_of_every_type_counts(kind: pa.DataType, values: list[Any]) -> None:
    """Different values have different digests, and equal values have equal ones."""
    hashes = [digest(array(kind, [value])) for value in values]
    assert len(set(hashes)) == len(values)
    assert hashes == [digest(array(kind, [value])) for value in values]


@pytest.mark.parametrize(("kind", "values"), KINDS)
def test_order_and_number_of_rows_count(kind: pa.DataType, values: list[Any]) -> None:
    """Rows in a different order, or one row more or less, even a null, have a different digest."""
    lists = [list(each) for n in range(4) for each in product(values[:4], repeat=n)] + [[None] * 4, [None] * 5]
    distinct = {repr(each): each for each in lists}
    assert len({digest(array(kind, each)) for each in distinct.values()}) == len(distinct)


@pytest.mark.parametrize(("kind", "values"), KINDS)
def test_a_users_digest_covers_their_rows_only(kind: pa.DataType, values: list[Any]) -> None:
    """A user's digest is the same alone and among other users, with or without nulls."""
    rows = [values[0], None, values[1]]
    alone = digest(array(kind, rows))
    for others in ([], [None], values, [None, *values, None]):
        n = len(others)
        together = digests(array(kind, [*others, *rows, *others]), [0, n, n + 3, 2 * n + 3])
        assert together[1] == alone


@pytest.mark.parametrize(("kind", "values"), KINDS)
def test_the_layout_of_a_column_does_not_count(kind: pa.DataType, values: list[Any]) -> None:
    """A column has the same digest whole, in chunks, and as a slice of a larger column."""
    rows = [*values, None]
    whole = array(kind, rows)
    larger = array(kind, [None, *values, *rows, *values]).slice(1 + len(values), len(rows))
    chunks = pa.chunked_array([whole.slice(at, 1) for at in range(len(rows))])
    uneven = pa.chunked_array([larger.slice(0, 2), larger.slice(2, 0), array(kind, rows[2:])])
    assert len({digest(each) for each in (whole, larger, chunks, uneven, larger.slice(0))}) == 1


@pytest.mark.parametrize(("kind", "values"), KINDS)
def test_a_column_read_from_a_file_is_the_same(kind: pa.DataType, values: list[Any]) -> None:
    """A column read from Parquet has the digest of the column written."""
    table = pa.table({"x": array(kind, [*values, None])})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    assert digest(pq.read_table(sink.getvalue())["x"]) == digest(table["x"])


def test_the_bytes_of_a_null_do_not_count() -> None:
    """The bytes that a buffer holds in the place of a null are no part of a digest."""
    validity = pa.py_buffer(b"\x05")  # the second of three is null
    numbers = [
        pa.Array.from_buffers(pa.int32(), 3, [validity, pa.py_buffer(struct.pack("<3i", 1, under, 3))])
        for under in (0, 77)
    ]
    offsets = [struct.pack("<4i", 0, 1, end, end + 1) for end in (1, 3)]
    texts = [
        pa.Array.from_buffers(pa.string(), 3, [validity, pa.py_buffer(ends), pa.py_buffer(content)])
        for ends, content in zip(offsets, (b"ab", b"a??b"), strict=True)
    ]
    lists = [
        pa.Array.from_buffers(pa.list_(pa.int8()), 3, [validity, pa.py_buffer(ends)], children=[pa.array(own, "i1")])
        for ends, own in zip(offsets, ([1, 2], [1, 9, 9, 2]), strict=True)
    ]
    for one, other in (numbers, texts, lists):
        assert one.to_pylist() == other.to_pylist()
        assert digest(one) == digest(other)
        assert digest(one.slice(1)) == digest(other.slice(1))


def test_padding_does_not_count() -> None:
    """Bytes after a column's last value, and unused bits of its flags, are no part of a digest."""
    flags = [pa.Array.from_buffers(pa.bool_(), 3, [None, pa.py_buffer(bytes([bits]))]) for bits in (0b101, 0b11101)]
    numbers = [pa.Array.from_buffers(pa.int8(), 2, [None, pa.py_buffer(b"\x01\x02" + pad)]) for pad in (b"", b"\xff")]
    for one, other in (flags, numbers):
        assert digest(one) == digest(other)


@pytest.mark.parametrize(
    "pairs",
    [
        [
            ("a", "b"),
            ("ab", ""),
            ("", "ab"),
            ("a\x1fb",),
            ('a"\x1f"b',),
            ("a", "b", None),
            ("ab", None),
            (None, "ab"),
        ],
        [("1", "1" * 8), ("11111111", "1"), ("1" * 9,)],
    ],
)
def test_values_do_not_run_into_each_other(pairs: list[tuple[str | None, ...]]) -> None:
    """Two values never hash like one value with their separator in it."""
    assert len({digest(array(pa.string(), pair)) for pair in pairs}) == len(pairs)


def test_a_value_cannot_forge_rows() -> None:
    """One long value made of flags, lengths and texts does not hash like the rows that would have these."""
    forged = b"\x00" + (247).to_bytes(8, "little") + bytes(248)
    rows = [forged[9:10], forged[10:]]
    assert len(forged) == 257
    assert digest(array(pa.binary(), [forged])) != digest(array(pa.binary(), rows))


def test_lists_do_not_run_into_each_other() -> None:
    """The same items in lists that end elsewhere, or in different rows, have a different digest."""
    kind = pa.list_(pa.list_(pa.string()))
    columns = [[[["a"], ["b"]]], [[["a", "b"]]], [[["a"]], [["b"]]], [[["a"], ["b"]], []], [[["a"], ["b"]], None]]
    assert len({digest(array(kind, each)) for each in columns}) == len(columns)


VARIED: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text(max_size=3),
    pa.binary(): st.binary(max_size=3),
    pa.int16(): st.integers(-3, 3),
    pa.bool_(): st.booleans(),
    pa.list_(pa.string()): st.lists(st.none() | st.text(max_size=2), max_size=3),
    pa.list_(pa.int8(), 2): st.lists(st.none() | st.integers(0, 2), min_size=2, max_size=2),
    pa.struct([("p", pa.int8())]): st.fixed_dictionaries({"p": st.none() | st.integers(0, 2)}),
}


def tables_of(kind: pa.DataType) -> st.SearchStrategy[tuple[pa.DataType, list[list[Any]], list[list[Any]]]]:
    """Return a strategy for a type of column, and the values of each user in two tables."""
    users = st.lists(st.lists(st.none() | VARIED[kind], max_size=3), min_size=1, max_size=4)
    return st.tuples(st.just(kind), users, users)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(VARIED)).flatmap(tables_of))
def test_digests_are_equal_if_users_are(drawn: tuple[pa.DataType, list[list[Any]], list[list[Any]]]) -> None:
    """Two users of any two tables have the same digest if and only if they have the same values."""
    kind, one, other = drawn
    pairs: list[tuple[str, bytes]] = []
    for users in (one, other):
        bounds = np.concatenate([[0], np.cumsum([len(rows) for rows in users])])
        column = array(kind, [value for rows in users for value in rows])
        padded = pa.concat_arrays([array(kind, [None]), column, array(kind, [None])]).slice(1, len(column))
        user_hashes = digests(padded, list(bounds))
        chunked = pa.chunked_array([padded.slice(a, b - a) for a, b in pairwise(bounds)], kind)
        assert digests(chunked, list(bounds)) == user_hashes
        pairs += [(repr(rows), each) for rows, each in zip(users, user_hashes, strict=True)]
    assert len({rows for rows, _ in pairs}) == len({each for _, each in pairs}) == len(set(pairs))


def test_columns_have_digests_of_their_own() -> None:
    """Each requested column has its own digests, in the requested order."""
    table = pa.table({"x": ["a", "b"], "y": [1, 2], "z": [True, None]})
    matrix = user_digests(table, ["y", "x"], np.array([0, 1, 2]))
    assert matrix.shape == (2, 2, DIGEST_BYTES)
    assert [matrix[user, 1].tobytes() for user in (0, 1)] == digests(table["x"], [0, 1, 2])
    assert [matrix[user, 0].tobytes() for user in (0, 1)] == digests(table["y"], [0, 1, 2])


@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_a_user_without_rows_has_a_digest(kind: pa.DataType) -> None:
    """A table without users has no digests; a user without rows has one that differs from that of a null."""
    nothing = array(kind, [])
    assert user_digests(pa.table({"x": nothing}), ["x"], np.zeros(1, np.int64)).shape == (0, 1, DIGEST_BYTES)
    assert digest(nothing) == digest(array(kind, [None]).slice(1)) != digest(array(kind, [None]))


def test_a_digest_of_parts_covers_their_bytes() -> None:
    """The digest of several parts is that of their bytes in order."""
    assert digest_of(b"ab", b"c") == digest_of(b"abc") != digest_of(b"c", b"ab")
    assert len(digest_of()) == DIGEST_BYTES
