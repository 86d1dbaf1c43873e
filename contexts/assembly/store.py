"""The table `context_store`: changed rows are written, and unchanged rows only refreshed, if at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from hashlib import sha256
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg

from contexts.assembly.model import Reaction
from contexts.clock import CLOCK_DIFFERENCE, Clock, latest_instant
from contexts.postgres.sql import execute_arrays, queries, rows

_BATCH_ROWS = 256
"""Rows per INSERT: a few megabytes, which fit into the caches and into `work_mem`."""


@dataclass(frozen=True)
class ObservedContext:
    """A user's context as a run knows it, without its text."""

    user_id: str
    row_version: str
    materialized_at: datetime


@dataclass(frozen=True)
class StoredContext:
    """A row of `context_store`.

    materialized_at: the time of the fetch of the user's signals. valid_until: the next midnight at which the context
    changes by itself. groups_json: the user's `TaskGroups`, for assembly during a request.
    """

    user_id: str
    materialized_at: datetime
    context_json: str
    context_hash: str
    valid_until: datetime | None
    groups_json: str

    @property
    def row_version(self) -> str:
        """The hash of everything but the freshness: of a row with an unchanged version only the freshness moves."""
        return row_version(self.context_hash, self.valid_until, self.groups_json)


def row_version(context_hash: str, valid_until: datetime | None, groups_json: str) -> str:
    """Return the version of a row, 32 hexadecimal digits; the time zone of `valid_until` is part of it."""
    content = (context_hash, valid_until.isoformat() if valid_until else "", groups_json)
    return sha256("\n".join(content).encode()).hexdigest()[:32]


def is_fresh(materialized_at: datetime, valid_until: datetime | None, now: datetime, sla: timedelta) -> bool:
    """Return whether a context is younger than the SLA, not from the future, and no midnight has changed it."""
    return -CLOCK_DIFFERENCE <= now - materialized_at <= sla and (valid_until is None or now < valid_until)


def reactions_since(now: datetime, days: int) -> datetime:
    """Return the start of the period of reactions that count: a midnight (UTC), so that none expires during a day."""
    return datetime.combine(now.astimezone(UTC).date() - timedelta(days=days), time(), UTC)


class ContextStore:
    """The store over one connection."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        *,
        reaction_days: int = 90,
        clock: Clock | None = None,
    ) -> None:
        """Open the store.

        reaction_days: number of days for which reactions count. clock: returns the present instant; rows from later
        than that do not count as newer. Without a clock there are no such rows.
        """
        self.reaction_days = reaction_days
        self._clock = clock
        self._connection = connection
        self._sql = queries("contexts")

    def latest(self) -> datetime:
        """Return the latest instant that a row can be from, unless the clock was set back since."""
        return latest_instant(self._clock)

    def upsert(
        self, observed: Sequence[ObservedContext], read: Callable[[Collection[str]], Iterable[StoredContext]]
    ) -> tuple[int, int]:
        """Write the rows with a changed version, and refresh others where needed, in one transaction.

        A row needs no refresh if the account's last fetch found the tasks unchanged (see the function `fetched_at` in
        sql/migrations). Rows with a newer `materialized_at` stay as they are, except for rows from the future (see
        `latest`). Returns the numbers of written and of refreshed rows.
        read: returns the whole rows of the users whose version changed; it is called at most once.
        """
        if not observed:
            return 0, 0
        with self._connection.transaction():
            self._sql.use_indexes(self._connection)
            outdated = self._outdated(observed)
            changed = {row.user_id: row for row in outdated if not row.is_same}
            n_refreshed = self._refresh(observed, {row.user_id for row in outdated if row.is_same})
            n_written = self._write_changed(changed, read(changed.keys())) if changed else 0
        return n_written, n_refreshed

    def put(self, contexts: Sequence[StoredContext]) -> tuple[int, int]:
        """Upsert rows that are in memory."""
        by_user = {context.user_id: context for context in contexts}
        observed = [ObservedContext(*_observed_columns(context)) for context in contexts]
        return self.upsert(observed, lambda changed: [by_user[user_id] for user_id in changed])

    def remove_orphans(self, user_ids: Iterable[str]) -> int:
        """Delete the rows of the given users who no longer exist, and return the number of rows."""
        with self._connection.transaction():
            return int(self._sql.remove_orphans(self._connection, user_ids=list(user_ids)))

    def reactions(self, user_ids: Iterable[str], now: datetime) -> Mapping[str, list[Reaction]]:
        """Return these users' reactions to tips in the last `reaction_days`, by user, oldest first."""
        by_user: dict[str, list[Reaction]] = {}
        period = {"user_ids": list(user_ids), "since": reactions_since(now, self.reaction_days)}
        for row in rows(self._connection, self._sql.reactions_since, period):
            by_user.setdefault(row.pop("user_id"), []).append(Reaction(**row))
        return by_user

    def _outdated(self, observed: Sequence[ObservedContext]) -> list[_OutdatedRow]:
        """Return what has to be done: users whose rows are to be written or refreshed."""
        values = {**_observed_arrays(observed), "latest": self.latest()}
        return [_OutdatedRow(*row) for row in execute_arrays(self._connection, self._sql.outdated_rows, values)]

    def _refresh(self, observed: Iterable[ObservedContext], user_ids: Collection[str]) -> int:
        """Refresh the rows of some users, and return their number."""
        if not user_ids:
            return 0
        arrays = _observed_arrays([context for context in observed if context.user_id in user_ids])
        values = {**arrays, "latest": self.latest()}
        return execute_arrays(self._connection, self._sql.refresh, values).rowcount

    def _write_changed(self, changed: Mapping[str, _OutdatedRow], contexts: Iterable[StoredContext]) -> int:
        """Write rows and return their number."""
        n_written = 0
        for batch in _batches(contexts):
            new = [context for context in batch if not changed[context.user_id].has_row]
            old = [context for context in batch if changed[context.user_id].has_row]
            n_written += (self._copy(new, changed) if new else 0) + (self._write(old) if old else 0)
        return n_written

    def _copy(self, contexts: Sequence[StoredContext], outdated: Mapping[str, _OutdatedRow]) -> int:
        """Write rows of users without one, unless they are from before the account was connected.

        COPY is cheaper than an upsert. A request may have written a row meanwhile: then all are upserted.
        """
        rows = [(context, outdated[context.user_id]) for context in contexts]
        current = [(context, row.connection_number) for context, row in rows if row.is_of_account]
        statement = self._sql.copy_new.sql.encode()
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor, cursor.copy(statement) as copy:
                copy.set_types(_COLUMN_TYPES)
                for context, connection_number in current:
                    copy.write_row((*_stored_columns(context), connection_number))
        except psycopg.errors.UniqueViolation:
            return self._write(contexts)
        return len(current)

    def _write(self, contexts: Sequence[StoredContext]) -> int:
        names = ("user_ids", "instants", "contexts", "hashes", "valid_until", "groups_json", "versions")
        arrays = _arrays(names, map(_stored_columns, contexts))
        n_written = execute_arrays(self._connection, self._sql.write, {**arrays, "latest": self.latest()}).rowcount
        if n_written < len(contexts):
            execute_arrays(self._connection, self._sql.update_groups, arrays)
        return n_written


class _OutdatedRow(NamedTuple):
    """A user whose row is to be written or refreshed, in the order of the columns of `outdated_rows`.

    is_same: the row has the given version, so that it is only refreshed. connection_number: of the present account.
    is_of_account: whether the observation is of this account, not of an earlier one.
    """

    user_id: str
    is_same: bool
    has_row: bool
    connection_number: int
    is_of_account: bool


_COLUMN_TYPES = ("text", "timestamptz", "text", "text", "timestamptz", "text", "text", "int4")

_observed_columns = attrgetter("user_id", "row_version", "materialized_at")
_stored_columns = attrgetter(
    "user_id", "materialized_at", "context_json", "context_hash", "valid_until", "groups_json", "row_version"
)


def _observed_arrays(observed: Iterable[ObservedContext]) -> Mapping[str, list[Any]]:
    return _arrays(("user_ids", "versions", "instants"), map(_observed_columns, observed))


def _arrays(names: Sequence[str], records: Iterable[tuple[Any, ...]]) -> Mapping[str, list[Any]]:
    """Return the columns of records as arrays by name."""
    return dict(zip(names, map(list, zip(*records, strict=True)), strict=True))


def _batches(contexts: Iterable[StoredContext]) -> Iterator[Sequence[StoredContext]]:
    remaining = iter(contexts)
    while batch := list(islice(remaining, _BATCH_ROWS)):
        yield batch
