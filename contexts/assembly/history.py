"""The history of contexts: append-only Parquet by day and shard, and pending versions of requests in Postgres."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from operator import attrgetter
from typing import IO, Any, Literal

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contexts.files import ASIDE_SUFFIX, SCRATCH_SUFFIX, FileStore, parent
from contexts.postgres.sql import queries, rows
from contexts.verified_parquet import DamagedFile, open_parquet, write_parquet

log = logging.getLogger(__name__)

HISTORY = "context_history"
"""The name of the history's folder below the root, and of its view."""

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

PATTERN = f"{HISTORY}/day=*/shard=*/data.parquet"
"""The glob of the history's files below the root."""

_ROW_GROUP_ROWS = 256
"""Rows per Parquet row group: small, because a reader of one user's rows decodes the texts of a group or two."""

_SORT_KEYS = [("user_id", "ascending"), ("assembled_at", "ascending"), ("context_hash", "ascending")]


class HistoryUnreadable(Exception):
    """A file of the history is cut short or foreign. The message names the file and the fix."""


@dataclass(frozen=True)
class ContextVersion:
    """A version of a user's context.

    assembled_at: the time of the assembly. materialized_at: the time of the fetch of its signals. author: played if
    it is of the past of a local run's sample users.
    """

    user_id: str
    assembled_at: datetime
    materialized_at: datetime
    context_hash: str
    context_json: str
    author: Literal["pipeline", "request", "played"]


class History:
    """The history under a root, and the versions of requests that Postgres holds until they are appended to it.

    The files of a shard have one writer at a time.
    """

    def __init__(self, root: str, connection: psycopg.Connection[Any], shard_of: Callable[[str], int]) -> None:
        """Open the history under a root.

        root: a folder or any fsspec URL. shard_of: returns the shard of a user id.
        """
        self.connection = connection
        self._files = _HistoryFiles(root)
        self._shard_of = shard_of

    def pending(self, user_ids: Collection[str]) -> list[ContextVersion]:
        """Return the requests' versions of these users who are in no file yet, oldest first."""
        return request_versions(self.connection, user_ids)

    def drop_pending(self, versions: Collection[ContextVersion]) -> None:
        """Delete requests' versions from Postgres after they were appended."""
        if versions:
            delete_request_versions(self.connection, versions)

    def append(self, versions: Iterable[ContextVersion]) -> int:
        """Add the versions that are not stored yet to the files of their days (UTC), and return their number.

        A version of the pipeline that equals the user's previous version of the same day is not new.
        """
        by_file: dict[tuple[date, int], list[ContextVersion]] = defaultdict(list)
        for version in sorted(versions, key=attrgetter("assembled_at")):
            day = version.assembled_at.astimezone(UTC).date()
            by_file[day, self._shard_of(version.user_id)].append(version)
        return sum(self._files.add(day, shard, added) for (day, shard), added in sorted(by_file.items()))

    def versions_of(self, user_id: str) -> list[ContextVersion]:
        """Return a user's versions of all days, oldest first."""
        shard = self._shard_of(user_id)
        versions = [version for day in self._files.days() for version in self._files.read(day, shard, user_id)]
        return sorted(versions, key=attrgetter("assembled_at"))

    def erase(self, user_ids: Collection[str]) -> int:
        """Erase these users' rows, and other files in their shards, and return the number of rows.

        Unreadable files are passed over, and raise HistoryUnreadable at the end.
        """
        n_erased, unreadable = 0, list[str]()
        shards = sorted({self._shard_of(user_id) for user_id in user_ids})
        for shard, day in [(shard, day) for shard in shards for day in self._files.days()]:
            try:
                n_erased += self._files.erase(day, shard, user_ids)
            except HistoryUnreadable as error:
                unreadable.append(str(error))
        if unreadable:
            raise HistoryUnreadable("\n".join(unreadable))
        return n_erased

    def expire(self, keep_from: date, existing: Callable[[Collection[str]], Collection[str]]) -> int:
        """Remove all days (UTC) before `keep_from`, a day without other writers. Returns the number of removed days.

        Each user's last version before that day moves to its file, because kept tips may have been made from it.
        existing: filters user ids by existence; versions of removed users do not move. A day with an unreadable file
        stays until the file is set aside.
        """
        days = [day for day in self._files.days() if day < keep_from]
        unreadable = set[date]()
        for shard in sorted({shard for day in days for shard in self._files.shards(day)}):
            last, broken_days = self._last_versions(days, shard)
            users = existing(list(last))
            self._files.add(keep_from, shard, [version for user_id, version in last.items() if user_id in users])
            unreadable |= broken_days
        expired = [day for day in days if day not in unreadable]
        for day in expired:
            self._files.remove_day(day)
        queries("history").expire_request_versions(self.connection, keep_from=keep_from)
        return len(expired)

    def _last_versions(self, days: Iterable[date], shard: int) -> tuple[dict[str, ContextVersion], set[date]]:
        """Return each user's last version of these days, and the days whose file cannot be read."""
        last, unreadable = dict[str, ContextVersion](), set[date]()
        for day in days:
            try:
                last |= {version.user_id: version for version in self._files.read(day, shard)}
            except HistoryUnreadable as error:
                log.error("%s", error)
                unreadable.add(day)
        return last, unreadable


def set_history_aside(root: str, shard: int, day: date | None = None) -> list[str]:
    """Rename the history's file of a day and shard, so that the day begins again, and return the new paths.

    day: None for all days whose file cannot be read.
    """
    return _HistoryFiles(root).set_aside(shard, day)


def copy_history(root: str, target: str, shard_of: Callable[[str], int]) -> Iterator[str]:
    """Write the history of a root under another root, divided into other shards; yield each path below that root."""
    stored, copied = _HistoryFiles(root), _HistoryFiles(target)
    for day in stored.days():
        by_shard: dict[int, list[ContextVersion]] = defaultdict(list)
        for shard in stored.shards(day):
            for version in stored.read(day, shard):
                by_shard[shard_of(version.user_id)].append(version)
        for shard, versions in sorted(by_shard.items()):
            yield copied.write(day, shard, versions)


class _HistoryFiles:
    """The files `<root>/context_history/day=2026-11-24/shard=0007/data.parquet`."""

    def __init__(self, root: str) -> None:
        self._files = FileStore(root)
        self._folder = f"{self._files.root}/{HISTORY}"

    def days(self) -> list[date]:
        return sorted(map(date.fromisoformat, self._values(self._folder, "day=")))

    def shards(self, day: date) -> list[int]:
        return sorted(map(int, self._values(self._day_folder(day), "shard=")))

    def read(self, day: date, shard: int, user_id: str | None = None) -> list[ContextVersion]:
        """Return the versions in a file, each user's oldest first. user_id: of this user only."""
        table = self._read_table(day, shard, user_id)
        return [ContextVersion(**row) for row in table.to_pylist()]

    def add(self, day: date, shard: int, versions: Sequence[ContextVersion]) -> int:
        """Add the versions, in order of time, that the file lacks, and return their number.

        An unreadable file is set aside, so that contexts do not wait for it.
        """
        try:
            table = self._read_table(day, shard)
        except HistoryUnreadable as error:
            aside = self._files.set_aside(self._path(day, shard))
            log.error("%s: it was set aside as %s, and the day begins again for this shard", error.__cause__, aside)
            table = SCHEMA.empty_table()
        if new := _new_versions(versions, table.select(["user_id", "assembled_at", "context_hash"]).to_pylist()):
            added = pa.Table.from_pylist([asdict(version) for version in new], schema=SCHEMA)
            self._write_table(self._path(day, shard), pa.concat_tables([table, added]))
        return len(new)

    def write(self, day: date, shard: int, versions: Iterable[ContextVersion]) -> str:
        """Write a new file, and return its path below the root."""
        table = pa.Table.from_pylist([asdict(version) for version in versions], schema=SCHEMA)
        self._write_table(self._path(day, shard), table)
        return self._path(day, shard).removeprefix(f"{self._files.root}/")

    def set_aside(self, shard: int, day: date | None) -> list[str]:
        days = [day] if day else [each for each in self.days() if self._is_unreadable(each, shard)]
        return [self._files.set_aside(self._path(each, shard)) for each in days]

    def _is_unreadable(self, day: date, shard: int) -> bool:
        try:
            self._read_table(day, shard)
        except HistoryUnreadable:
            return True
        return False

    def erase(self, day: date, shard: int, user_ids: Collection[str]) -> int:
        """Delete users' rows from a file, and other files beside it. Returns the number of deleted rows."""
        path, erased = self._path(day, shard), pa.array(sorted(user_ids), pa.string())
        self._remove_leftovers(path)
        table = self._read_table(day, shard)
        is_erased = pc.is_in(table["user_id"], erased)
        n_erased: int = is_erased.to_pylist().count(True)
        if n_erased:
            self._write_table(path, table.filter(pc.invert(is_erased)))
        return n_erased

    def remove_day(self, day: date) -> None:
        self._files.remove_folder(self._day_folder(day))

    def _day_folder(self, day: date) -> str:
        return f"{self._folder}/day={day.isoformat()}"

    def _path(self, day: date, shard: int) -> str:
        return f"{self._day_folder(day)}/shard={shard:04d}/data.parquet"

    def _values(self, folder: str, prefix: str) -> list[str]:
        """Return the values of the partitions in a folder: `2026-11-24` for the folder `day=2026-11-24`."""
        names = (path.rsplit("/", 1)[-1] for path in self._files.children(folder))
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def _read_table(self, day: date, shard: int, user_id: str | None = None) -> pa.Table:
        """Read the rows of a file, or of one user; no rows if there is no file. Raises HistoryUnreadable."""
        path = self._path(day, shard)
        with self._files.open(path) as file:
            if file is None:
                return SCHEMA.empty_table()
            try:
                return _rows_in(file, user_id)
            except (pa.ArrowException, DamagedFile, OSError) as error:
                raise HistoryUnreadable(
                    f"{path} cannot be read ({error}). Set it aside: python -m assets rebuild {HISTORY}"
                    f" --shard {shard} --day {day}. The versions of that day are lost for the users of this shard."
                ) from error

    def _write_table(self, path: str, table: pa.Table) -> None:
        """Replace a file; a table without rows removes it."""
        self._files.sweep(parent(path))
        if not len(table):
            self._files.remove(path)
            return
        with self._files.replacing(path) as file:
            write_parquet(
                file,
                table.sort_by(_SORT_KEYS),
                {},
                compression="zstd",
                row_group_size=_ROW_GROUP_ROWS,
                use_dictionary=["user_id", "author"],
            )

    def _remove_leftovers(self, path: str) -> None:
        """Remove scratch files and files set aside: both can hold rows of removed users."""
        self._files.remove_leftovers(parent(path), (SCRATCH_SUFFIX, ASIDE_SUFFIX))


def _rows_in(file: IO[bytes], user_id: str | None) -> pa.Table:
    """Return the rows of a file, or those of one user."""
    parquet = open_parquet(file)
    if not parquet.schema_arrow.equals(SCHEMA):
        raise DamagedFile("its columns are not those of the history")
    # Without Arrow's threads and filters, which leave threads that can abort the process at its exit.
    if user_id is None:
        return parquet.read(use_threads=False)
    groups = [group for group in range(parquet.num_row_groups) if _may_hold(parquet.metadata, group, user_id)]
    table = parquet.read_row_groups(groups, use_threads=False) if groups else SCHEMA.empty_table()
    return table.filter(pc.equal(table["user_id"], user_id))


def _may_hold(metadata: pq.FileMetaData, group: int, user_id: str) -> bool:
    """Whether a row group can hold rows of a user, by the least and the greatest id in it."""
    statistics = metadata.row_group(group).column(SCHEMA.get_field_index("user_id")).statistics
    return statistics is None or not statistics.has_min_max or statistics.min <= user_id <= statistics.max


def _new_versions(versions: Iterable[ContextVersion], stored: Iterable[dict[str, Any]]) -> list[ContextVersion]:
    """Return the versions that a day's stored rows do not include.

    versions: in order of time.
    """
    keys_of: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    for row in stored:
        keys_of[row["user_id"]].append((row["assembled_at"], row["context_hash"]))
    new = []
    for version in versions:
        keys, key = keys_of[version.user_id], (version.assembled_at, version.context_hash)
        previous = max((key for key in keys if key[0] <= version.assembled_at), default=None)
        is_repeated = version.author == "pipeline" and previous is not None and previous[1] == version.context_hash
        if key not in keys and not is_repeated:
            keys.append(key)
            new.append(version)
    return new


def request_versions(connection: psycopg.Connection[Any], user_ids: Collection[str]) -> list[ContextVersion]:
    """Return the requests' versions of these users who are not in the Parquet history yet, oldest first."""
    versions = rows(connection, queries("history").request_versions, {"user_ids": list(user_ids)})
    return [ContextVersion(author="request", **version) for version in versions]


def delete_request_versions(connection: psycopg.Connection[Any], versions: Iterable[ContextVersion]) -> int:
    """Delete exactly these versions of requests from Postgres. Returns the number of deleted rows."""
    appended = list(versions)
    return int(
        queries("history").delete_request_versions(
            connection,
            user_ids=[version.user_id for version in appended],
            instants=[version.assembled_at for version in appended],
            hashes=[version.context_hash for version in appended],
        )
    )
