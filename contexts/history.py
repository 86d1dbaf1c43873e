"""Versions of contexts: append-only Parquet by day and shard, and those of requests that wait for it in Postgres."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from operator import attrgetter
from typing import IO, Any, Literal
from uuid import uuid4

import fsspec
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg.rows import dict_row

from contexts.sql import queries

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("assembled_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("materialized_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("context_hash", pa.string(), nullable=False),
        pa.field("context_json", pa.string(), nullable=False),
        pa.field("author", pa.string(), nullable=False),
    ]
)

PATTERN = "context_history/day=*/shard=*/data.parquet"
"""The glob of its files below the root."""

_ROWS_OF_A_GROUP = 256
"""Whoever reads one user's rows decodes no more texts than those of a group or two."""

_ORDER = [("user_id", "ascending"), ("assembled_at", "ascending"), ("context_hash", "ascending")]


class HistoryUnreadable(Exception):
    """A file of the history is cut short or foreign; the message names it and the mend."""


@dataclass(frozen=True)
class Version:
    """A context of a user. assembled_at: by a run or a request; materialized_at: when the signals were fetched."""

    user_id: str
    assembled_at: datetime
    materialized_at: datetime
    context_hash: str
    context_json: str
    author: Literal["night", "request"]


class History:
    """The history under a root, which is any fsspec URL, and what waits for it in Postgres. Files of a shard have one
    writer at a time.
    """

    def __init__(self, root: str, connection: psycopg.Connection[Any], shard_of: Callable[[str], int]) -> None:
        """shard_of: the number of a user's shard, by which the files are divided."""
        self.connection = connection
        self._files = _Files(root)
        self._shard_of = shard_of

    def waiting(self, user_ids: Collection[str]) -> list[Version]:
        """What requests assembled for these users and is in no file yet, oldest first."""
        return request_versions(self.connection, user_ids)

    def taken(self, versions: Collection[Version]) -> None:
        """Let go of what waited, now that it was appended."""
        if versions:
            delete_request_versions(self.connection, versions)

    def append(self, versions: Iterable[Version]) -> int:
        """Add what is not there yet to the days (UTC) on which it was assembled; gives how many were added.

        A version of the night is there already, too, where the user's newest one of the day before it is the same.
        """
        files: dict[tuple[date, int], list[Version]] = defaultdict(list)
        for version in sorted(versions, key=attrgetter("assembled_at")):
            day = version.assembled_at.astimezone(UTC).date()
            files[day, self._shard_of(version.user_id)].append(version)
        return sum(self._files.add(day, shard, added) for (day, shard), added in sorted(files.items()))

    def of(self, user_id: str) -> list[Version]:
        """A user's versions of all days, oldest first; no other user's rows are made of what is read."""
        own = [("user_id", "=", user_id)]
        shard = self._shard_of(user_id)
        found = [each for day in self._files.days() for each in self._files.versions(day, shard, filters=own)]
        return sorted(found, key=attrgetter("assembled_at"))

    def forget(self, user_ids: Collection[str]) -> int:
        """Take these users out of the files of their shards, and away what writers left; gives how many rows."""
        shards = sorted({self._shard_of(user_id) for user_id in user_ids})
        return sum(self._files.remove(day, shard, user_ids) for shard in shards for day in self._files.days())

    def expire(self, keep_from: date, known: Callable[[Collection[str]], Collection[str]]) -> int:
        """Remove the days (UTC) before; gives how many. Nobody may write to the day `keep_from` meanwhile.

        What stood when that day began is kept in its file: tips of the days that are kept were made from it. known:
        gives those users who still exist; of others nothing is kept.
        """
        days = [day for day in self._files.days() if day < keep_from]
        for shard in sorted({shard for day in days for shard in self._files.shards(day)}):
            newest = {each.user_id: each for day in days for each in self._files.versions(day, shard)}
            kept = known(list(newest))
            self._files.add(keep_from, shard, [each for user, each in newest.items() if user in kept])
        for day in days:
            self._files.remove_day(day)
        queries("history").expire_request_versions(self.connection, keep_from=keep_from)
        return len(days)


class _Files:
    """`<root>/context_history/day=2026-11-24/shard=0007/data.parquet`, each replaced as a whole."""

    def __init__(self, root: str) -> None:
        self._fs, path = fsspec.core.url_to_fs(root)
        self._root = f"{path.rstrip('/')}/context_history"

    def days(self) -> list[date]:
        return sorted(map(date.fromisoformat, self._names(self._root, "day=")))

    def shards(self, day: date) -> list[int]:
        return sorted(map(int, self._names(self._day(day), "shard=")))

    def versions(self, day: date, shard: int, **options: Any) -> list[Version]:
        """Those of a file, each user's oldest first."""
        table = self._read(self._path(day, shard), **options)
        return [Version(**row) for row in table.to_pylist()]

    def add(self, day: date, shard: int, versions: Sequence[Version]) -> int:
        path = self._path(day, shard)
        known = self._read(path, columns=["user_id", "assembled_at", "context_hash"]).to_pylist()
        if news := _news(versions, known):
            added = pa.Table.from_pylist([asdict(version) for version in news], schema=SCHEMA)
            self._write(path, pa.concat_tables([self._read(path), added]))
        return len(news)

    def remove(self, day: date, shard: int, user_ids: Collection[str]) -> int:
        path, gone = self._path(day, shard), pa.array(sorted(user_ids), pa.string())
        self._sweep(path)
        n_gone: int = pc.is_in(self._read(path, columns=["user_id"])["user_id"], gone).to_pylist().count(True)
        if n_gone:
            stored = self._read(path)
            self._write(path, stored.filter(pc.invert(pc.is_in(stored["user_id"], gone))))
        return n_gone

    def remove_day(self, day: date) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm(self._day(day), recursive=True)

    @property
    def _is_local(self) -> bool:
        return "file" in self._fs.protocol

    def _day(self, day: date) -> str:
        return f"{self._root}/day={day.isoformat()}"

    def _path(self, day: date, shard: int) -> str:
        return f"{self._day(day)}/shard={shard:04d}/data.parquet"

    def _names(self, folder: str, prefix: str) -> list[str]:
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in self._listed(folder))
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def _listed(self, folder: str) -> list[str]:
        self._fs.invalidate_cache()  # or a store that remembers its listings would not see what others wrote
        try:
            return list(self._fs.ls(folder, detail=False))
        except FileNotFoundError:
            return []

    def _read(self, path: str, **options: Any) -> pa.Table:
        """Some of a file; no rows where there is none."""
        with self._opened(path) as handle:
            return pq.read_table(handle, **options) if handle else SCHEMA.empty_table()

    @contextmanager
    def _opened(self, path: str) -> Iterator[IO[bytes] | None]:
        try:
            handle = self._fs.open(path, "rb")
        except FileNotFoundError:
            yield None
            return
        with handle:
            try:
                if not pq.read_schema(handle).equals(SCHEMA):
                    raise OSError("its columns are not those of the history")
                handle.seek(0)
                yield handle
            except (pa.ArrowException, OSError) as error:
                raise HistoryUnreadable(
                    f"{path} cannot be read ({error}). Move it away, out of {self._root}:"
                    f" what the history knew of that day is lost with it, all else goes on."
                ) from error

    def _write(self, path: str, table: pa.Table) -> None:
        """Replace a file in one step: a reader sees the old or the new. Without rows there is no file."""
        self._sweep(path)
        if not len(table):
            self._fs.rm(path)
            return
        folder = path.rsplit("/", 1)[0]
        self._fs.makedirs(folder, exist_ok=True)
        scratch = f"{folder}/{uuid4().hex}.tmp"
        with self._fs.open(scratch, "wb") as file:
            pq.write_table(
                table.sort_by(_ORDER),
                file,
                compression="zstd",
                row_group_size=_ROWS_OF_A_GROUP,
                use_dictionary=["user_id", "author"],
            )
            if self._is_local:  # or rows deleted from Postgres could survive a loss of power nowhere
                file.flush()
                os.fsync(file.fileno())
        self._fs.mv(scratch, path)

    def _sweep(self, path: str) -> None:
        """Remove what a writer left that broke off."""
        for left in self._listed(path.rsplit("/", 1)[0]):
            if left.endswith(".tmp"):
                self._fs.rm(left)


def _news(versions: Iterable[Version], known: Iterable[dict[str, Any]]) -> list[Version]:
    """Those of the versions, in order of time, that do not stand among the known ones of the day."""
    there: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    for row in known:
        there[row["user_id"]].append((row["assembled_at"], row["context_hash"]))
    news = []
    for version in versions:
        own, key = there[version.user_id], (version.assembled_at, version.context_hash)
        last = max((each for each in own if each[0] <= version.assembled_at), default=None)
        stands = version.author == "night" and last is not None and last[1] == version.context_hash
        if key not in own and not stands:
            own.append(key)
            news.append(version)
    return news


def request_versions(connection: psycopg.Connection[Any], user_ids: Collection[str]) -> list[Version]:
    """What requests assembled for these users and what is not in the Parquet yet, oldest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(queries("history").request_versions.sql.encode(), {"user_ids": list(user_ids)})
        return [Version(author="request", **row) for row in cursor]


def delete_request_versions(connection: psycopg.Connection[Any], versions: Iterable[Version]) -> int:
    """Forget those that were taken into the Parquet, and only those; gives how many."""
    drained = list(versions)
    return int(
        queries("history").delete_request_versions(
            connection,
            user_ids=[version.user_id for version in drained],
            instants=[version.assembled_at for version in drained],
            hashes=[version.context_hash for version in drained],
        )
    )
