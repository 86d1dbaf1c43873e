"""The log of pipeline runs in Postgres: each run of a step, and each asset's part in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from contexts.postgres.sql import queries, rows

Amounts = Mapping[str, float | None]
"""Amounts by kind of work: todoist_calls, texts_embedded, users_clustered ...; None: unknown."""

_THROUGHPUT_WINDOW = timedelta(days=30)


@dataclass(frozen=True)
class AssetRun:
    """One asset's part in a run of its step; the columns of `asset_runs`."""

    run_id: str
    step: str
    asset: str
    started_at: datetime
    finished_at: datetime
    n_shards: int
    n_shards_run: int
    n_users: int
    n_users_computed: int
    n_rows: int
    data_version: str
    changed: bool
    counts: Mapping[str, int]


@dataclass(frozen=True)
class StepRun:
    """A run of a step; the columns of `step_runs`.

    finished_at: None while the run is in progress, or if it died. seconds: time per kind of work. scope: the users
    that the run fetches; None for other steps, and for a run of a part of the pipeline.
    """

    run_id: str
    step: str
    started_at: datetime
    finished_at: datetime | None = None
    n_users: int | None = None
    planned: Amounts = field(default_factory=dict)
    done: Amounts = field(default_factory=dict)
    saved: Amounts = field(default_factory=dict)
    seconds: Amounts = field(default_factory=dict)
    scope: str | None = None


@dataclass(frozen=True)
class Throughput:
    """Medians for one kind of work over recent runs; None without such runs.

    seconds_per_unit: per planned unit of a step run, if possible of one with a similar amount of work.
    seconds_per_user, units_per_user: per fetched user of a run, if possible of the same scope; None after the first
    run, which computes everything and not only what changed.
    """

    seconds_per_unit: float | None
    seconds_per_user: float | None
    units_per_user: float | None


class RunLog:
    """The log over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._sql = queries("run_log")

    def write_asset_run(self, run: AssetRun) -> None:
        """Write an asset's part in a run; a retried run replaces its own."""
        self._sql.write_asset_run(self._connection, **{**asdict(run), "counts": Jsonb(dict(run.counts))})

    def asset_runs_since(self, since: datetime) -> list[AssetRun]:
        """Return the asset runs that began at or after an instant, oldest first."""
        return [AssetRun(**row) for row in rows(self._connection, self._sql.asset_runs_since, {"since": since})]

    def latest_version(self, asset: str, *, before: str = "") -> str | None:
        """Return an asset's data version after its last recorded run.

        before: the id of a run that does not count.
        """
        row = self._sql.latest_version(self._connection, asset=asset, run_id=before)
        return None if row is None else str(row[0])

    def begin_step_run(self, run_id: str, step: str, started_at: datetime) -> None:
        """Write that a run began, before it has a plan: a run whose plan fails is in the log, too."""
        self._sql.begin_step_run(self._connection, run_id=run_id, step=step, started_at=started_at)

    def start_step_run(self, run: StepRun) -> None:
        """Write a run's plan before the run does any work."""
        self._sql.start_step_run(self._connection, **_columns(run))

    def finish_step_run(self, run: StepRun) -> None:
        """Write the work that a run did and saved; its plan and its scope stay as they were written."""
        self._sql.finish_step_run(self._connection, **_columns(run))

    def had_night(self, since: datetime, before: datetime) -> bool:
        """Return whether a fetch of everybody who is due began between two instants, and finished."""
        return bool(self._sql.had_night(self._connection, since=since, before=before))

    def record_waits(
        self, step: str, planned: Collection[int], stale_upstream: Collection[int], now: datetime
    ) -> None:
        """Record the planned shards in which an asset of an earlier step is stale; the others wait no longer."""
        with self._connection.transaction():
            self._sql.end_waits(self._connection, step=step, shards=sorted(set(planned) - set(stale_upstream)))
            self._sql.begin_waits(self._connection, step=step, shards=sorted(stale_upstream), now=now)

    def forget_waits(self) -> None:
        """Forget which shards wait, because their numbers mean other users now; the next run records the waits."""
        self._sql.forget_waits(self._connection)

    def waiting_since(self, step: str) -> Mapping[int, datetime]:
        """Return the shards in which a step waits for an earlier step, with the instant of the first run that did."""
        return dict(self._sql.waiting_since(self._connection, step=step))

    def add_request_days(self, now: datetime) -> None:
        """Write the request path's rows, one per day (UTC), from the last day that has one on."""
        self._sql.add_request_days(self._connection, since=self._sql.last_request_day(self._connection), now=now)

    def step_runs_since(self, since: datetime) -> list[StepRun]:
        """Return the step runs that began at or after an instant, oldest first."""
        return [StepRun(**row) for row in rows(self._connection, self._sql.step_runs_since, {"since": since})]

    def delete_runs(self, before: datetime) -> int:
        """Delete what is known of runs that began before an instant, and return the number of rows.

        Each asset's last run stays, and so do the days of the request path.
        """
        return int(self._sql.delete_runs(self._connection, before=before))

    def throughput(
        self, now: datetime, scope: str | None = None, units: Mapping[str, float] = MappingProxyType({})
    ) -> Mapping[str, Throughput]:
        """Return the throughput of each kind of work over the last thirty days.

        scope, units: of the fetch and of the work to estimate; runs of another scope, or of a tenth or ten times of
        the work, count only if there are no others.
        """
        since, work = now - _THROUGHPUT_WINDOW, Jsonb(dict(units))
        medians = self._sql.throughput(self._connection, since=since, scope=scope, units=work)
        return {work: Throughput(*values) for work, *values in medians}


def _columns(run: StepRun) -> dict[str, Any]:
    return {name: Jsonb(dict(value)) if isinstance(value, Mapping) else value for name, value in vars(run).items()}
