"""`context_store` in Postgres: changed rows through COPY, freshness for the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, time, timedelta
from hashlib import sha256
from typing import Any

import psycopg
from psycopg.rows import dict_row

from contexts.model import Reaction
from contexts.sql import queries


@dataclass(frozen=True)
class StoredContext:
    """One row. materialized_at: when the user's signals were fetched; valid_until: the midnight at which the context
    becomes another one by itself; themes: JSON of every theme with all its tasks, for assembly during a request.
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
        content = (self.context_hash, self.valid_until.isoformat() if self.valid_until else "", self.themes)
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

    def upsert(self, rows: Sequence[StoredContext]) -> tuple[int, int]:
        """Write the rows whose version is not the stored one, move the freshness of the others forward.

        A row that somebody wrote with a newer `materialized_at` stays. Gives how many were written and refreshed.
        """
        with self._connection.transaction():
            user_ids = [row.user_id for row in rows]
            stored = dict(self._sql.stored_versions(self._connection, user_ids=user_ids))
            versions = {row.user_id: row.row_version for row in rows}
            changed = [row for row in rows if stored.get(row.user_id) != versions[row.user_id]]
            n_written = self._write(changed) if changed else 0
            same = [row for row in rows if stored.get(row.user_id) == versions[row.user_id]]
            n_refreshed = self._sql.refresh(
                self._connection,
                user_ids=[row.user_id for row in same],
                versions=[versions[row.user_id] for row in same],
                instants=[row.materialized_at for row in same],
            )
        return n_written, n_refreshed

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

    def _write(self, rows: Iterable[StoredContext]) -> int:
        self._sql.create_stage(self._connection)
        with (
            self._connection.cursor() as cursor,
            cursor.copy(self._sql.copy_to_stage.sql.encode()) as copy,
        ):
            copy.set_types(["text", "timestamptz", "text", "text", "timestamptz", "text", "text"])
            for row in rows:
                copy.write_row((*astuple(row), row.row_version))
        n_written = int(self._sql.merge_stage(self._connection))
        self._sql.take_themes(self._connection)
        return n_written
