"""The table `context_store`: changed rows are written, and unchanged rows only refreshed, if at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from hashlib import sha256
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg

from contexts.assembly.model import Reaction
from contexts.clock import CLOCK_DIFFERENCE, Clock, latest_instant
from contexts.postgres.sql import execute_arrays, queries, rows

_BATCH_ROWS = 256
"""Rows per INSERT: a few megabytes, which fit into the caches and into `work_mem`."""


class ObservedContext(NamedTuple):
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
            have_rows = self._users_with_rows(observed)
            outdated = self._outdated([each for each in observed if each.user_id in have_rows])
            n_refreshed = self._refresh([each for each in observed if outdated.get(each.user_id)])
            new = [each for each in observed if each.user_id not in have_rows]
            changed = {each.user_id for each in new} | {user for user, is_same in outdated.items() if not is_same}
            n_written = self._write_changed(read(changed), observed, new) if changed else 0
        return n_written, n_refreshed

    def put(self, contexts: Sequence[StoredContext]) -> tuple[int, int]:
        """Upsert rows that are in memory."""
        by_user = {context.user_id: context for context in contexts}
        observed = [ObservedContext(each.user_id, each.row_version, each.materialized_at) for each in contexts]
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

    def _users_with_rows(self, observed: Sequence[ObservedContext]) -> set[str]:
        users = {"user_ids": [each.user_id for each in observed]}
        return {user for (user,) in execute_arrays(self._connection, self._sql.users_with_rows, users)}

    def _outdated(self, observed: Sequence[ObservedContext]) -> dict[str, bool]:
        """Return the users whose rows are to be written or refreshed, with whether the row has the given version."""
        if not observed:
            return {}
        values = {**_observed_arrays(observed), "latest": self.latest()}
        return dict(execute_arrays(self._connection, self._sql.outdated_rows, values).fetchall())

    def _refresh(self, observed: Sequence[ObservedContext]) -> int:
        """Refresh rows, and return their number."""
        if not observed:
            return 0
        values = {**_observed_arrays(observed), "latest": self.latest()}
        return execute_arrays(self._connection, self._sql.refresh, values).rowcount

    def _write_changed(
        self, contexts: Iterable[StoredContext], observed: Iterable[ObservedContext], new: Sequence[ObservedContext]
    ) -> int:
        """Write rows and return their number. new: the users without a row."""
        versions = {each.user_id: each.row_version for each in observed}
        rows = [(*_content_columns(context), versions[context.user_id]) for context in contexts]
        accounts, new_users = self._accounts(new), {each.user_id for each in new}
        n_copied = self._copy([(*row, *accounts[row[0]]) for row in rows if row[0] in accounts])
        return n_copied + self._write([row for row in rows if row[0] not in new_users])

    def _accounts(self, observed: Iterable[ObservedContext]) -> dict[str, tuple[int, bytes | None]]:
        """Return the connection number of each user's account, and the digest of the tasks observed, if it is known.

        Users are missing whose account was removed or replaced since they were observed.
        """
        users: dict[datetime, list[str]] = {}  # by instant: those of a run have few different ones
        for each in observed:
            users.setdefault(each.materialized_at, []).append(each.user_id)
        accounts: dict[str, tuple[int, bytes | None]] = {}
        for instant, user_ids in users.items():
            values = {"user_ids": user_ids, "instant": instant}
            found = execute_arrays(self._connection, self._sql.accounts_observed, values)
            accounts |= {user_id: (number, digest) for user_id, number, digest in found}
        return accounts

    def _copy(self, rows: Sequence[tuple[Any, ...]]) -> int:
        """Write rows of users without one, which end with the account (see `_accounts`), and return their number.

        COPY is cheaper than an upsert. A request may have written a row meanwhile: then all are upserted.
        """
        if not rows:
            return 0
        statement = self._sql.copy_new.sql.encode()
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor, cursor.copy(statement) as copy:
                copy.set_types(_COLUMN_TYPES)
                for row in rows:
                    copy.write_row(row)
        except psycopg.errors.UniqueViolation:
            return self._write([row[:-2] for row in rows])
        return len(rows)

    def _write(self, rows: Sequence[tuple[Any, ...]]) -> int:
        """Upsert rows, a batch at a time, and return the number of rows written."""
        n_written = 0
        for start in range(0, len(rows), _BATCH_ROWS):
            batch = rows[start : start + _BATCH_ROWS]
            names = ("user_ids", "instants", "contexts", "hashes", "valid_until", "groups_json", "versions")
            arrays = _arrays(names, batch)
            values = {**arrays, "latest": self.latest()}
            n_of_batch = execute_arrays(self._connection, self._sql.write, values).rowcount
            if n_of_batch < len(batch):
                execute_arrays(self._connection, self._sql.update_groups, arrays)
            n_written += n_of_batch
        return n_written


_COLUMN_TYPES = ("text", "timestamptz", "text", "text", "timestamptz", "text", "text", "int4", "bytea")

_content_columns = attrgetter(
    "user_id", "materialized_at", "context_json", "context_hash", "valid_until", "groups_json"
)


def _observed_arrays(observed: Iterable[ObservedContext]) -> Mapping[str, list[Any]]:
    return _arrays(("user_ids", "versions", "instants"), observed)


def _arrays(names: Sequence[str], records: Iterable[tuple[Any, ...]]) -> Mapping[str, list[Any]]:
    """Return the columns of records as arrays by name."""
    return dict(zip(names, map(list, zip(*records, strict=True)), strict=True))
