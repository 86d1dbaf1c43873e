"""What a shard knows of each of its users, in the footer beside the versions: enough to plan without a row."""

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

from assets.asset import KEY, VALID_UNTIL
from assets.digests import SIZE, Bounds, Digests, digests

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = np.iinfo(np.int64).max
_UNKNOWN = bytes(SIZE)


@dataclass(frozen=True, eq=False)
class Index:
    """One entry a user, in the order in which their rows stand.

    n_rows: 0 for a user of whom nothing was made. valid_until: microseconds since 1970 (UTC). made_from: digest of
    what the user's rows were computed from, in a source of the recipe of the last look, shape (users, SIZE). digests:
    of the columns, (users, columns, SIZE); an opaque column has the digest of what it follows from.
    """

    users: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    n_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    valid_until: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    made_from: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, SIZE), np.uint8))
    digests: Digests = field(default_factory=lambda: np.zeros((0, 0, SIZE), np.uint8))

    @classmethod
    def of(cls, table: pa.Table, columns: Sequence[str], made_from: Mapping[str, bytes] | None = None) -> Index:
        """The index of rows that stand user by user. made_from: of every user, also of those without a row."""
        users, bounds = _spans(table)
        without = sorted((made_from or {}).keys() - set(users))
        found = cls(
            users=tuple(users),
            columns=tuple(columns),
            n_rows=np.diff(bounds),
            valid_until=_valid_until(table, bounds),
            made_from=np.zeros((len(users), SIZE), np.uint8),
            digests=digests(table, columns, bounds),
        )
        whole = found.merged(_rowless(without, columns, table.schema)) if without else found
        hashes = made_from or {}
        return replace(whole, made_from=_matrix(hashes.get(user, _UNKNOWN) for user in whole.users))

    def also(self, columns: Sequence[str], marks: Iterable[bytes]) -> Index:
        """The same with opaque columns, which have each user's mark for a digest."""
        more = np.repeat(_matrix(marks)[:, None], len(columns), axis=1)
        return replace(self, columns=(*self.columns, *columns), digests=np.concatenate([self.digests, more], axis=1))

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def position(self) -> Mapping[str, int]:
        return {user: position for position, user in enumerate(self.users)}

    @cached_property
    def starts(self) -> Bounds:
        """Where each user's rows begin, and where the last one's end."""
        return np.concatenate([[0], np.cumsum(self.n_rows)])

    def without(self, users: Collection[str]) -> Index:
        """All others."""
        return self._take([position for position, user in enumerate(self.users) if user not in users])

    def merged(self, other: Index) -> Index:
        """The users of both, which have none in common, in order."""
        columns = self.columns or other.columns
        both = Index(
            self.users + other.users,
            columns,
            np.concatenate([self.n_rows, other.n_rows]),
            np.concatenate([self.valid_until, other.valid_until]),
            np.concatenate([self.made_from, other.made_from]),
            np.concatenate([each.digests for each in (self, other) if each.columns == columns]),
        )
        return both._take(sorted(range(len(both)), key=both.users.__getitem__))

    def known(self) -> dict[str, bytes]:
        """What each user's rows were made from."""
        return {user: made.tobytes() for user, made in zip(self.users, self.made_from, strict=True)}

    def over(self, now: datetime) -> set[str]:
        """Users with a row whose time is up."""
        return {self.users[position] for position in np.flatnonzero(self.valid_until <= _micros(now))}

    def rows_of(self, users: Iterable[str]) -> int:
        """How many rows these users have."""
        return int(sum(self.n_rows[self.position[user]] for user in users if user in self.position))

    def of_columns(self, columns: Sequence[str]) -> Mapping[str, bytes]:
        """The digests of some columns, one after the other, of each user with rows; zeros where there is none yet."""
        known = np.concatenate([self.digests, np.zeros((len(self), 1, SIZE), np.uint8)], axis=1)
        chosen = known[:, [self.columns.index(name) if name in self.columns else -1 for name in columns]]
        return {user: chosen[at].tobytes() for user, at in self.position.items() if self.n_rows[at]}

    def versions(self) -> Mapping[str, str]:
        """A hash for every column, over all users with rows."""
        has_rows = self.n_rows > 0
        names = dumps([user for user, is_in in zip(self.users, has_rows, strict=True) if is_in]).encode()
        return {
            name: sha256(names + self.digests[has_rows, position].tobytes()).hexdigest()
            for position, name in enumerate(self.columns)
        }

    def earliest(self) -> datetime | None:
        """The first instant at which a row must be computed again."""
        first = self.valid_until.min(initial=_NEVER)
        return None if first == _NEVER else _EPOCH + timedelta(microseconds=int(first))

    def pack(self) -> bytes:
        """The index as bytes, for `unpack`."""
        batch = pa.record_batch(
            {
                "user": pa.array(self.users, pa.string()),
                "n_rows": self.n_rows,
                "valid_until": self.valid_until,
                "made_from": _fixed(self.made_from),
                "digests": _fixed(self.digests.reshape(len(self), len(self.columns) * SIZE)),
            },
            metadata={"columns": dumps(self.columns)},
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        return bytes(sink.getvalue())

    @classmethod
    def unpack(cls, packed: bytes) -> Index:
        """What `pack` gave; ValueError when it is something else."""
        try:
            with pa.ipc.open_stream(packed) as stream:
                batch = stream.read_next_batch()
            columns = tuple(loads(batch.schema.metadata[b"columns"]))
            return cls(
                users=tuple(batch["user"].to_pylist()),
                columns=columns,
                n_rows=batch["n_rows"].to_numpy(),
                valid_until=batch["valid_until"].to_numpy(),
                made_from=_unfixed(batch["made_from"]),
                digests=_unfixed(batch["digests"]).reshape(len(batch), len(columns), SIZE),
            )
        except (pa.ArrowException, OSError, LookupError, TypeError, StopIteration) as error:
            raise ValueError(f"this is no index of users: {error}") from error

    def _take(self, positions: Sequence[int]) -> Index:
        chosen = np.array(positions, np.int64)
        return Index(
            tuple(self.users[position] for position in positions),
            self.columns,
            self.n_rows[chosen],
            self.valid_until[chosen],
            self.made_from[chosen],
            self.digests[chosen],
        )


def _spans(table: pa.Table) -> tuple[list[str], Bounds]:
    """The users in the order of their rows, and where each one's rows begin."""
    encoded = pc.run_end_encode(table[KEY].combine_chunks(), run_end_type=pa.int64()) if len(table) else None
    if encoded is None:
        return [], np.zeros(1, np.int64)
    runs = encoded.chunks[0] if isinstance(encoded, pa.ChunkedArray) else encoded
    return runs.values.to_pylist(), np.concatenate([[0], np.asarray(runs.run_ends)])


def _valid_until(table: pa.Table, bounds: Bounds) -> NDArray[np.int64]:
    if VALID_UNTIL not in table.column_names or len(bounds) < 2:
        return np.full(len(bounds) - 1, _NEVER)
    times = table[VALID_UNTIL].cast(pa.timestamp("us", "UTC"), safe=False)  # nanoseconds are cut off
    times = times.cast(pa.int64()).fill_null(int(_NEVER))
    return np.minimum.reduceat(times.to_numpy(), bounds[:-1])


def _rowless(users: Sequence[str], columns: Sequence[str], schema: pa.Schema) -> Index:
    """Users of whom nothing was made."""
    n = len(users)
    empty = digests(schema.empty_table(), columns, np.zeros(2, np.int64))
    return Index(
        tuple(users),
        tuple(columns),
        np.zeros(n, np.int64),
        np.full(n, _NEVER),
        np.zeros((n, SIZE), np.uint8),
        np.repeat(empty, n, axis=0),
    )


def _matrix(hashes: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, SIZE)


def _fixed(rows: NDArray[np.uint8]) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows).tobytes())]
    )


def _unfixed(column: pa.Array) -> NDArray[np.uint8]:
    width = column.type.byte_width
    found = np.frombuffer(column.buffers()[1] or b"", np.uint8, len(column) * width, column.offset * width)
    return found.reshape(len(column), width)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
