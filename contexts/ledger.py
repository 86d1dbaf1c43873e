"""The ledger: what each run of a step did and spared, in Postgres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from contexts.sql import queries


@dataclass(frozen=True)
class Entry:
    """One asset's part in a run of its step; the columns of `materializations`."""

    run_id: str
    step: str
    asset: str
    started_at: datetime
    finished_at: datetime
    n_shards: int
    n_shards_run: int
    n_users: int
    n_users_changed: int
    n_rows: int
    data_version: str
    changed: bool
    counts: Mapping[str, int]


class Ledger:
    """The ledger behind one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._sql = queries("ledger")

    def write(self, entry: Entry) -> None:
        """Write an entry; a retried run replaces its own."""
        self._sql.record(self._connection, **{**asdict(entry), "counts": Jsonb(dict(entry.counts))})

    def since(self, instant: datetime) -> list[Entry]:
        """The entries of runs that began at or after an instant, oldest first."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(self._sql.since.sql.encode(), {"since": instant})
            return [Entry(**row) for row in cursor]

    def latest_version(self, asset: str, *, before: str = "") -> str | None:
        """The data version of an asset after its last recorded run; `before`: a run that does not count."""
        row = self._sql.latest_version(self._connection, asset=asset, run_id=before)
        return None if row is None else str(row[0])
