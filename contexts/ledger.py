"""What each run of a step did, in Postgres: the log of its assets, the ledger of work planned, done and spared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from contexts.sql import queries

SERVING = "serving"
"""The step under which the ledger keeps the request path's work."""

Amounts = Mapping[str, float]
"""How much, by the name of the work: todoist_calls, texts_embedded, users_clustered ..."""

_LOOK_BACK = timedelta(days=30)


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


@dataclass(frozen=True)
class Page:
    """A run of a step in the ledger. finished_at: None while it runs or if it died. seconds: of work."""

    run_id: str
    step: str
    started_at: datetime
    finished_at: datetime | None = None
    n_users: int | None = None
    planned: Amounts = field(default_factory=dict)
    done: Amounts = field(default_factory=dict)
    saved: Amounts = field(default_factory=dict)
    seconds: Amounts = field(default_factory=dict)


@dataclass(frozen=True)
class Pace:
    """How a kind of work went lately, as medians: seconds for a unit planned; seconds and units done for a user
    looked at. None: there was no such run.
    """

    seconds_a_unit: float | None
    seconds_a_look: float | None
    units_a_look: float | None


class Ledger:
    """The log and the ledger behind one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._sql = queries("ledger")

    def write(self, entry: Entry) -> None:
        """Write an entry of the log; a retried run replaces its own."""
        self._sql.record(self._connection, **{**asdict(entry), "counts": Jsonb(dict(entry.counts))})

    def since(self, instant: datetime) -> list[Entry]:
        """The log's entries of runs that began at or after an instant, oldest first."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(self._sql.since.sql.encode(), {"since": instant})
            return [Entry(**row) for row in cursor]

    def latest_version(self, asset: str, *, before: str = "") -> str | None:
        """The data version of an asset after its last recorded run; `before`: a run that does not count."""
        row = self._sql.latest_version(self._connection, asset=asset, run_id=before)
        return None if row is None else str(row[0])

    def open_page(self, page: Page) -> None:
        """Write what a run plans, before it does anything."""
        self._sql.open_page(self._connection, **_plain(page))

    def close_page(self, page: Page) -> None:
        """Write what a run did and spared; what it planned stays as it was written."""
        self._sql.close_page(self._connection, **_plain(page))

    def add_request_pages(self, now: datetime) -> None:
        """The request path's pages from its last one (a day of UTC) on, as far as its log goes."""
        self._sql.add_request_pages(self._connection, since=self._sql.last_request_day(self._connection), now=now)

    def pages(self, since: datetime) -> list[Page]:
        """The pages of runs that began at or after an instant, oldest first."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(self._sql.pages.sql.encode(), {"since": since})
            return [Page(**row) for row in cursor]

    def pace(self, now: datetime) -> Mapping[str, Pace]:
        """How each kind of work went in the last thirty days."""
        return {work: Pace(*paces) for work, *paces in self._sql.pace(self._connection, since=now - _LOOK_BACK)}


def _plain(page: Page) -> dict[str, Any]:
    return {name: Jsonb(dict(value)) if isinstance(value, Mapping) else value for name, value in vars(page).items()}
