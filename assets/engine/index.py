"""The index of users in a shard's footer, beside the versions: enough to plan without reading a row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from json import dumps, loads

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.engine.asset import KEY, VALID_UNTIL
from assets.engine.hashing import DIGEST_BYTES, Bounds, Digests, digest_of, user_digests

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = np.iinfo(np.int64).max
_UNKNOWN = bytes(DIGEST_BYTES)


@dataclass(frozen=True, eq=False)
class Index:
    """One entry per user, in the order of their rows.

    n_rows: 0 for a user without rows. valid_until: microseconds since 1970 (UTC). input_digests: digest of the inputs
    that the user's rows were computed from (for a source: of the recipe of the last observation), shape (users,
    DIGEST_BYTES). digests: by column, shape (users, columns, DIGEST_BYTES); an opaque column has the digest of the
    inputs that it follows from.
    """

    users: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    n_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    valid_until: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    input_digests: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, DIGEST_BYTES), np.uint8))
    digests: Digests = field(default_factory=lambda: np.zeros((0, 0, DIGEST_BYTES), np.uint8))

    @classmethod
    def from_table(
        cls, table: pa.Table, columns: Sequence[str], input_digests: Mapping[str, bytes] | None = None
    ) -> Index:
        """Index a table sorted by user. input_digests: input digests of all users, also of users without rows."""
        users, bounds = _spans(table)
        without_rows = sorted((input_digests or {}).keys() - set(users))
        with_rows = cls(
            users=tuple(users),
            columns=tuple(columns),
            n_rows=np.diff(bounds),
            valid_until=_valid_until(table, bounds),
            input_digests=np.zeros((len(users), DIGEST_BYTES), np.uint8),
            digests=user_digests(table, columns, bounds),
        )
        index = with_rows.merged(_rowless(without_rows, columns, table.schema)) if without_rows else with_rows
        hashes = input_digests or {}
        return replace(index, input_digests=_matrix(hashes.get(user, _UNKNOWN) for user in index.users))

    def with_opaque(self, columns: Sequence[str], digests: Iterable[bytes]) -> Index:
        """Return the index with opaque columns added, which all have the given digest of each user."""
        opaque = np.repeat(_matrix(digests)[:, None], len(columns), axis=1)
        return replace(
            self, columns=(*self.columns, *columns), digests=np.concatenate([self.digests, opaque], axis=1)
        )

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self.users)

    @cached_property
    def position(self) -> Mapping[str, int]:
        """The position of each user in the index."""
        return {user: position for position, user in enumerate(self.users)}

    @cached_property
    def starts(self) -> Bounds:
        """The position of each user's first row, and the end of the last user's rows."""
        return np.concatenate([[0], np.cumsum(self.n_rows)])

    def without(self, users: Collection[str]) -> Index:
        """Return the index of all other users."""
        return self._take([position for position, user in enumerate(self.users) if user not in users])

    def merged(self, other: Index) -> Index:
        """Return the sorted users of both indices, which must have no user in common."""
        columns = self.columns or other.columns
        both = Index(
            self.users + other.users,
            columns,
            np.concatenate([self.n_rows, other.n_rows]),
            np.concatenate([self.valid_until, other.valid_until]),
            np.concatenate([self.input_digests, other.input_digests]),
            np.concatenate([index.digests for index in (self, other) if index.columns == columns]),
        )
        return both._take(sorted(range(len(both)), key=both.users.__getitem__))

    def input_digests_by_user(self) -> dict[str, bytes]:
        """Return the digest of the inputs that each user's rows were computed from."""
        return {user: digest.tobytes() for user, digest in zip(self.users, self.input_digests, strict=True)}

    def expired(self, now: datetime) -> set[str]:
        """Return the users with a row whose `valid_until` has passed."""
        return {self.users[position] for position in np.flatnonzero(self.valid_until <= _micros(now))}

    def rows_of(self, users: Iterable[str]) -> int:
        """Return the number of rows of these users."""
        return int(sum(self.n_rows[self.position[user]] for user in users if user in self.position))

    def digests_of(self, columns: Sequence[str]) -> Mapping[str, bytes]:
        """Return the concatenated digests of some columns for each user with rows; zeros for a missing column."""
        padded = np.concatenate([self.digests, np.zeros((len(self), 1, DIGEST_BYTES), np.uint8)], axis=1)
        chosen = padded[:, [self.columns.index(name) if name in self.columns else -1 for name in columns]]
        return {user: chosen[position].tobytes() for user, position in self.position.items() if self.n_rows[position]}

    def row_digests(self, columns: Iterable[str]) -> dict[str, bytes]:
        """Return a digest over some columns of each user's rows, also of users without rows."""
        names = sorted(columns)
        prefix, chosen = dumps(names).encode(), self.digests[:, [self.columns.index(name) for name in names]]
        return {user: digest_of(prefix, chosen[position].tobytes()) for user, position in self.position.items()}

    def versions(self) -> Mapping[str, str]:
        """Return a hash of every column over all users with rows."""
        has_rows = self.n_rows > 0
        names = dumps([user for user, is_in in zip(self.users, has_rows, strict=True) if is_in]).encode()
        return {
            name: sha256(names + self.digests[has_rows, position].tobytes()).hexdigest()
            for position, name in enumerate(self.columns)
        }

    def next_expiry(self) -> datetime | None:
        """Return the first instant at which a row must be recomputed, None if there is none."""
        first = self.valid_until.min(initial=_NEVER)
        return None if first == _NEVER else _EPOCH + timedelta(microseconds=int(first))

    def pack(self) -> bytes:
        """Serialize the index for `unpack`."""
        batch = pa.record_batch(
            {
                "user": pa.array(self.users, pa.string()),
                "n_rows": self.n_rows,
                "valid_until": self.valid_until,
                "made_from": _fixed(self.input_digests),
                "digests": _fixed(self.digests.reshape(len(self), len(self.columns) * DIGEST_BYTES)),
            },
            metadata={"columns": dumps(self.columns)},
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        return bytes(sink.getvalue())

    @classmethod
    def unpack(cls, packed: bytes) -> Index:
        """Deserialize the bytes of `pack`; ValueError if they are something else."""
        try:
            with pa.ipc.open_stream(packed) as stream:
                batch = stream.read_next_batch()
            columns = tuple(loads(batch.schema.metadata[b"columns"]))
            return cls(
                users=tuple(batch["user"].to_pylist()),
                columns=columns,
                n_rows=batch["n_rows"].to_numpy(),
                valid_until=batch["valid_until"].to_numpy(),
                input_digests=_unfixed(batch["made_from"]),
                digests=_unfixed(batch["digests"]).reshape(len(batch), len(columns), DIGEST_BYTES),
            )
        except (pa.ArrowException, OSError, LookupError, TypeError, StopIteration) as error:
            raise ValueError(f"not an index of users: {error}") from error

    def _take(self, positions: Sequence[int]) -> Index:
        chosen = np.array(positions, np.int64)
        return Index(
            tuple(self.users[position] for position in positions),
            self.columns,
            self.n_rows[chosen],
            self.valid_until[chosen],
            self.input_digests[chosen],
            self.digests[chosen],
        )


def _spans(table: pa.Table) -> tuple[list[str], Bounds]:
    """Return the users in the order of their rows, and the bounds of their rows."""
    encoded = pc.run_end_encode(table[KEY].combine_chunks(), run_end_type=pa.int64()) if len(table) else None
    if encoded is None:
        return [], np.zeros(1, np.int64)
    runs = encoded.chunks[0] if isinstance(encoded, pa.ChunkedArray) else encoded
    return runs.values.to_pylist(), np.concatenate([[0], np.asarray(runs.run_ends)])


def _valid_until(table: pa.Table, bounds: Bounds) -> NDArray[np.int64]:
    if VALID_UNTIL not in table.column_names or len(bounds) < 2:
        return np.full(len(bounds) - 1, _NEVER)
    times = table[VALID_UNTIL].cast(pa.timestamp("us", "UTC"), safe=False)  # truncates nanoseconds
    times = times.cast(pa.int64()).fill_null(int(_NEVER))
    return np.minimum.reduceat(times.to_numpy(), bounds[:-1])


def _rowless(users: Sequence[str], columns: Sequence[str], schema: pa.Schema) -> Index:
    """Return the index of users without rows."""
    n_users = len(users)
    empty = user_digests(schema.empty_table(), columns, np.zeros(2, np.int64))
    return Index(
        tuple(users),
        tuple(columns),
        np.zeros(n_users, np.int64),
        np.full(n_users, _NEVER),
        np.zeros((n_users, DIGEST_BYTES), np.uint8),
        np.repeat(empty, n_users, axis=0),
    )


def _matrix(hashes: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, DIGEST_BYTES)


def _fixed(rows: NDArray[np.uint8]) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows).tobytes())]
    )


def _unfixed(column: pa.Array) -> NDArray[np.uint8]:
    width = column.type.byte_width
    values = np.frombuffer(column.buffers()[1] or b"", np.uint8, len(column) * width, column.offset * width)
    return values.reshape(len(column), width)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
