"""Versions and digests: the shard of a user, hashes of plain data, and a short hash of each user's rows by column.

Digests show which users changed without reading rows. They hash values as Arrow lays them out (little endian,
nulls marked apart), not buffers: slicing, chunking and padding of a table do not change them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b, md5, sha256
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.engine.asset import Asset

DIGEST_BYTES = 16

Digests = NDArray[np.uint8]
"""Digests by user and column, shape (users, columns, DIGEST_BYTES)."""

Bounds = NDArray[np.int64]
"""The position of each user's first row, and the end of the last user's rows: one more entry than users."""


class _Stream(NamedTuple):
    """The concatenated bytes of all users, and the offsets at which each user's bytes begin."""

    content: memoryview
    bounds: Bounds


def shard_of(user_id: str, n_shards: int) -> int:
    """Return the shard (0 to n_shards - 1) of a user: the first 32 bits of md5(user_id), modulo `n_shards`.

    md5 because Python, Postgres and DuckDB all have it; it distributes users and protects nothing.
    """
    return int(md5(user_id.encode(), usedforsecurity=False).hexdigest()[:8], 16) % n_shards


def hash_of(value: object) -> str:
    """Return the sha256 of the canonical JSON of plain data."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def recipe_of(asset: Asset, resources: Mapping[type, object]) -> Mapping[str, str]:
    """Return the asset's code version and the versions of its resources that have one (a model)."""
    versions = {name: getattr(resources.get(kind), "version", None) for name, kind in asset.resources.items()}
    return {"code": asset.code_version} | {f"resource {name}": each for name, each in versions.items() if each}


def edge_hash(columns: Iterable[str], versions: Mapping[str, str]) -> str:
    """Return the version of an edge: the hash of the versions of the columns that it reads."""
    return hash_of({name: versions[name] for name in columns})


def digest_of(*parts: bytes) -> bytes:
    """Return the digest of the concatenated bytes."""
    return blake2b(b"".join(parts), digest_size=DIGEST_BYTES).digest()


def user_digests(table: pa.Table, columns: Sequence[str], bounds: Bounds) -> Digests:
    """Return a digest of each column for each user; `bounds` delimits the users in the table's rows."""
    n_users = len(bounds) - 1
    digests = np.zeros((n_users, len(columns), DIGEST_BYTES), np.uint8)
    for position, name in enumerate(columns):
        streams = list(_streams(_array(table[name]), bounds))
        hashes = b"".join(_digest(streams, user, int(bounds[user + 1] - bounds[user])) for user in range(n_users))
        digests[:, position] = np.frombuffer(hashes, np.uint8).reshape(n_users, DIGEST_BYTES)
    return digests


def canonical_texts(values: pa.Array | pa.ChunkedArray) -> list[str]:
    """Return values of any type as canonical JSON."""
    return [json.dumps(value, sort_keys=True, default=str) for value in values.to_pylist()]


def _digest(streams: Sequence[_Stream], user: int, n_rows: int) -> bytes:
    # The row count comes first: without it several rows could hash like one long value.
    digest = blake2b(n_rows.to_bytes(8, "little"), digest_size=DIGEST_BYTES)
    for content, bounds in streams:
        digest.update(content[bounds[user] : bounds[user + 1]])
    return digest.digest()


def _streams(array: pa.Array, bounds: Bounds) -> Iterator[_Stream]:
    """Yield the parts that determine the values: validity, lengths of variable-size values, bytes."""
    kind = array.type
    yield _stream(_numbers(array.is_valid()), bounds)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        filled = array.fill_null("" if pa.types.is_string(kind) else b"")
        lengths = pc.binary_length(filled).to_numpy(zero_copy_only=False).astype(np.int64)
        yield _stream(lengths, bounds)
        offsets = _offsets(lengths)
        yield _Stream(_text_bytes(filled, int(offsets[-1])), offsets[bounds])
    elif pa.types.is_list(kind):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        yield _stream(lengths, bounds)
        yield from _streams(pc.list_flatten(array), _offsets(lengths)[bounds])
    elif pa.types.is_primitive(kind) and kind.bit_width <= 64:
        yield _stream(_numbers(array), bounds)
    else:
        encoded = [text.encode() for text in canonical_texts(array)]
        lengths = np.array([len(each) for each in encoded], np.int64)
        yield _stream(lengths, bounds)
        yield _Stream(memoryview(b"".join(encoded)), _offsets(lengths)[bounds])


def _stream(values: NDArray[np.generic], bounds: Bounds) -> _Stream:
    return _Stream(values.view(np.uint8).data, bounds * values.dtype.itemsize)


def _numbers(array: pa.Array) -> NDArray[np.generic]:
    """Return the values of a primitive array as unsigned integers of the same width, 0 for nulls."""
    if pa.types.is_boolean(array.type):
        return np.asarray(array.cast(pa.uint8()).fill_null(0))
    width = np.dtype(f"u{array.type.bit_width // 8}")
    values = np.frombuffer(array.buffers()[1] or b"", width, len(array), array.offset * width.itemsize)
    return values if not array.null_count else np.where(np.asarray(array.is_valid()), values, width.type(0))


def _text_bytes(array: pa.Array, n_bytes: int) -> memoryview:
    """Return the bytes of a text array without nulls, without a copy."""
    offsets = np.frombuffer(array.buffers()[1], np.int32, 1, array.offset * 4)
    return memoryview(array.buffers()[2] or b"")[offsets[0] : offsets[0] + n_bytes]


def _offsets(lengths: NDArray[np.int64]) -> Bounds:
    return np.concatenate([[0], np.cumsum(lengths)])


def _array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
