"""A short hash of each user's own rows, column by column: what changed, and for whom, without the rows at hand.

Hashes are of the values as Arrow lays them out (little endian, nulls marked apart), not of the buffers: how a table
was sliced, chunked or padded does not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

SIZE = 16
"""Bytes of a digest."""

Digests = NDArray[np.uint8]
"""Shape (users, columns, SIZE)."""

Bounds = NDArray[np.int64]
"""Where each user's rows begin, and where the last one's end: one more than there are users."""


class _Stream(NamedTuple):
    """Bytes of all users, and where each one's begin."""

    content: memoryview
    bounds: Bounds


def digest_of(*parts: bytes) -> bytes:
    """The digest of some bytes, one after the other."""
    return blake2b(b"".join(parts), digest_size=SIZE).digest()


def digests(table: pa.Table, columns: Sequence[str], bounds: Bounds) -> Digests:
    """For each user between `bounds` a digest of each column; the table's rows stand user by user."""
    n_users = len(bounds) - 1
    found = np.zeros((n_users, len(columns), SIZE), np.uint8)
    for position, name in enumerate(columns):
        streams = list(_streams(_array(table[name]), bounds))
        hashes = b"".join(_digest(streams, user, int(bounds[user + 1] - bounds[user])) for user in range(n_users))
        found[:, position] = np.frombuffer(hashes, np.uint8).reshape(n_users, SIZE)
    return found


def texts(values: pa.Array | pa.ChunkedArray) -> list[str]:
    """Values of any type as canonical JSON."""
    return [json.dumps(value, sort_keys=True, default=str) for value in values.to_pylist()]


def _digest(streams: Sequence[_Stream], user: int, n_rows: int) -> bytes:
    found = blake2b(n_rows.to_bytes(8, "little"), digest_size=SIZE)  # or many rows could pass for one long value
    for content, bounds in streams:
        found.update(content[bounds[user] : bounds[user + 1]])
    return found.digest()


def _streams(array: pa.Array, bounds: Bounds) -> Iterator[_Stream]:
    """What makes up the values: which are there, how long they are where that varies, and their bytes."""
    kind = array.type
    yield _stream(_numbers(array.is_valid()), bounds)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        plain = array.fill_null("" if pa.types.is_string(kind) else b"")
        lengths = pc.binary_length(plain).to_numpy(zero_copy_only=False).astype(np.int64)
        yield _stream(lengths, bounds)
        ends = _ends(lengths)
        yield _Stream(_text(plain, int(ends[-1])), ends[bounds])
    elif pa.types.is_list(kind):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        yield _stream(lengths, bounds)
        yield from _streams(pc.list_flatten(array), _ends(lengths)[bounds])
    elif pa.types.is_primitive(kind) and kind.bit_width <= 64:
        yield _stream(_numbers(array), bounds)
    else:
        encoded = [text.encode() for text in texts(array)]
        lengths = np.array([len(each) for each in encoded], np.int64)
        yield _stream(lengths, bounds)
        yield _Stream(memoryview(b"".join(encoded)), _ends(lengths)[bounds])


def _stream(values: NDArray[np.generic], bounds: Bounds) -> _Stream:
    return _Stream(values.view(np.uint8).data, bounds * values.dtype.itemsize)


def _numbers(array: pa.Array) -> NDArray[np.generic]:
    """The values of a primitive array, zero where there is none, as numbers of their width."""
    if pa.types.is_boolean(array.type):
        return np.asarray(array.cast(pa.uint8()).fill_null(0))
    width = np.dtype(f"u{array.type.bit_width // 8}")
    values = np.frombuffer(array.buffers()[1] or b"", width, len(array), array.offset * width.itemsize)
    return values if not array.null_count else np.where(np.asarray(array.is_valid()), values, width.type(0))


def _text(array: pa.Array, n_bytes: int) -> memoryview:
    """The bytes of an array of texts without nulls."""
    offsets = np.frombuffer(array.buffers()[1], np.int32, 1, array.offset * 4)
    return memoryview(array.buffers()[2] or b"")[offsets[0] : offsets[0] + n_bytes]


def _ends(lengths: NDArray[np.int64]) -> Bounds:
    return np.concatenate([[0], np.cumsum(lengths)])


def _array(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)
