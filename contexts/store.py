"""`context_store` in Postgres: rows whose content changed, freshness for the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from hashlib import sha256
from itertools import islice
from operator import attrgetter
from typing import Any

import psycopg
from psycopg.rows import dict_row

from contexts.model import Reaction
from contexts.sql import ask, queries

BATCH = 256
"""Rows that one statement writes: a few megabytes, which stay in the caches and in `work_mem`."""


@dataclass(frozen=True)
class Seen:
    """What a run knows of a user's context without its text."""

    user_id: str
    row_version: str
    materialized_at: datetime


@dataclass(frozen=True)
class StoredContext:
    """One row. materialized_at: when the user's signals were fetched; valid_until: the midnight at which the context
    becomes another one by itself; themes: JSON, see `contexts.model.Groups`, for assembly during a request.
    """

    user_id: str
    materialized_at: datetime
    context_json: str
    context_hash: str
    valid_until: datetime | None
    themes: str

    @property
    def row_version(self) -> str:
        """A hash of all but the freshness: rows of equal version are only touched."""
        return row_version(self.context_hash, self.valid_until, self.themes)


def row_version(context_hash: str, valid_until: datetime | None, themes: str) -> str:
    """A hash of all that a row holds but its freshness: 32 hexadecimal digits; the zone of `valid_until` counts."""
    content = (context_hash, valid_until.isoformat() if valid_until else "", themes)
    return sha256("\n".join(content).encode()).hexdigest()[:32]


def is_fresh(materialized_at: datetime, valid_until: datetime | None, now: datetime, sla: timedelta) -> bool:
    """Whether a context may be used: not older than the SLA, and no midnight has made it another one."""
    return now - materialized_at <= sla and (valid_until is None or now < valid_until)


def reactions_since(now: datetime, days: int) -> datetime:
    """From when on reactions matter: a midnight (UTC), so that none drops out in the middle of a day."""
    return datetime.combine(now.astimezone(UTC).date() - timedelta(days=days), time(), UTC)


class ContextStore:
    """The store behind one connection."""

    def __init__(self, connection: psycopg.Connection[Any], *, reaction_days: int = 90) -> None:
        """reaction_days: how far back reactions matter."""
        self.reaction_days = reaction_days
        self._connection = connection
        self._sql = queries("contexts")

    def upsert(
        self, seen: Sequence[Seen], read: Callable[[Collection[str]], Iterable[StoredContext]]
    ) -> tuple[int, int]:
        """Move the freshness of rows of equal version forward, write those whose version is not the stored one.

        `read` gives the whole rows of those users whose version is not the stored one; it is called once, if at all.
        A row that somebody wrote with a newer `materialized_at` stays. All of it is one transaction. Gives how many
        were written and refreshed.
        """
        if not seen:
            return 0, 0
        with self._connection.transaction():
            refreshed = self._refresh(seen)
            changed = self._changed([each for each in seen if each.user_id not in refreshed])
            n_written = sum(map(self._write, _batches(read(changed)))) if changed else 0
        return n_written, len(refreshed)

    def put(self, rows: Sequence[StoredContext]) -> tuple[int, int]:
        """`upsert` of rows that are at hand."""
        by_user = {row.user_id: row for row in rows}
        seen = [Seen(*_SEEN(row)) for row in rows]
        return self.upsert(seen, lambda wanted: [by_user[user_id] for user_id in wanted])

    def remove_orphans(self, user_ids: Iterable[str]) -> int:
        """Delete the rows of those users who do not exist any more."""
        with self._connection.transaction():
            return int(self._sql.remove_orphans(self._connection, user_ids=list(user_ids)))

    def reactions(self, user_ids: Iterable[str], now: datetime) -> Mapping[str, list[Reaction]]:
        """What these users made of their tips in the last `reaction_days`, oldest first."""
        found: dict[str, list[Reaction]] = {}
        since = reactions_since(now, self.reaction_days)
        with self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(self._sql.reactions_since.sql.encode(), {"user_ids": list(user_ids), "since": since})
            for row in cursor:
                found.setdefault(row.pop("user_id"), []).append(Reaction(**row))
        return found

    def threshold(self, model: str) -> float | None:
        """The similarity threshold that was calibrated for a model."""
        row = self._sql.threshold(self._connection, model=model)
        return None if row is None else float(row[0])

    def wants_calibration(self, model: str, n_texts: int) -> bool:
        """Whether a calibration with so many texts would be the model's first, or a much better one."""
        return bool(self._sql.wants_calibration(self._connection, model=model, n_texts=n_texts))

    def keep_threshold(self, model: str, threshold: float, n_texts: int) -> None:
        """Keep a model's calibration, unless the stored one is good enough."""
        self._sql.keep_threshold(self._connection, model=model, threshold=threshold, n_texts=n_texts)

    def set_threshold(self, model: str, threshold: float, n_texts: int) -> None:
        """Keep a model's calibration whatever is stored."""
        self._sql.set_threshold(self._connection, model=model, threshold=threshold, n_texts=n_texts)

    def _refresh(self, seen: Sequence[Seen]) -> Collection[str]:
        """Gives the users whose freshness moved."""
        columns = _columns(("user_ids", "versions", "instants"), map(_SEEN, seen))
        return {user_id for (user_id,) in ask(self._connection, self._sql.refresh, columns)}

    def _changed(self, seen: Sequence[Seen]) -> Collection[str]:
        """Those users who have no row, or one of another version."""
        if not seen:
            return ()
        stored = dict(ask(self._connection, self._sql.stored_versions, {"user_ids": [each.user_id for each in seen]}))
        return [each.user_id for each in seen if stored.get(each.user_id) != each.row_version]

    def _write(self, rows: Sequence[StoredContext]) -> int:
        names = ("user_ids", "instants", "contexts", "hashes", "valid_until", "themes", "versions")
        columns = _columns(names, map(_ROW, rows))
        n_written = ask(self._connection, self._sql.write, columns).rowcount
        if n_written < len(rows):
            ask(self._connection, self._sql.take_themes, columns)
        return n_written


_Columns = Mapping[str, list[Any]]
_SEEN = attrgetter("user_id", "row_version", "materialized_at")
_ROW = attrgetter(
    "user_id", "materialized_at", "context_json", "context_hash", "valid_until", "themes", "row_version"
)


def _columns(names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> _Columns:
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _batches(rows: Iterable[StoredContext]) -> Iterator[Sequence[StoredContext]]:
    rest = iter(rows)
    while batch := list(islice(rest, BATCH)):
        yield batch
