"""This system on one machine: Postgres, the pipeline in this process, and the service in a child process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import psycopg
from prometheus_client.parser import text_string_to_metric_families

from assets.batches import TipBatches
from assets.definitions.todoist_tasks import todoist_tasks
from assets.engine.asset import Users
from assets.tips_ahead import AheadSettings, TipWriter
from benchmarks.pipeline import Pipeline
from benchmarks.week.coverage import Forecast
from benchmarks.week.refresher import Refresher, running_refresher
from benchmarks.week.rules import Rule
from benchmarks.week.service import (
    LLM_MODEL,
    SERVICE_TOKEN,
    ServiceConnections,
    running_week_service,
    service_settings,
)
from benchmarks.week.timeline import SimulatedClock
from benchmarks.week.word_embedder import WordEmbedder
from benchmarks.week.workload import MONDAY, WARM_UP, Workload
from contexts.postgres.migrate import migrate
from contexts.postgres.sql import connect, queries
from contexts.settings import Settings, read_settings
from contexts.todoist.accounts import FetchScope
from contexts.todoist.client import Todoist
from contexts.todoist.credentials import Credentials, new_key
from contexts.todoist.event_store import EventStore
from local import postgres
from local.samples import SampleUser
from serving.composition import POLICY
from serving.learn import Learner
from serving.metrics import Metrics
from serving.settings import ServingSettings
from tips.batches import CandidateBatches
from tips.generator import LLMGenerator

_N_SHARDS = 4
_FETCH_CONCURRENCY = 32
_LLM_TIMEOUT_S = 30.0
_BATCH_MODEL = "openai:local"

_MAX_PREPARATION_S = 15
"""Seconds within which the service assembles the context of a new user and writes the first tips."""


@dataclass(frozen=True)
class ScheduledRun:
    """A scheduled run of the pipeline. counts: of its assets, by name."""

    at: datetime
    scope: FetchScope
    counts: Mapping[str, int]

    @property
    def n_todoist_calls(self) -> int:
        """The number of its Todoist calls."""
        return self.counts.get("todoist_calls_full", 0) + self.counts.get("todoist_calls_incremental", 0)


@dataclass(frozen=True)
class System:
    """The running system.

    learner: marks ignored tips, in place of the service's own periodic task. refresher: so for the refreshes because
    of events.
    service_url: the address of the service.
    """

    connection: psycopg.Connection[Any]
    pipeline: Pipeline
    writer: TipWriter
    client: httpx.AsyncClient
    learner: Learner
    refresher: Refresher
    settings: Settings
    serving_settings: ServingSettings
    service_url: str

    def run_times(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """The instants of the schedule after `since` and before `until`."""
        at = since
        while (at := self.settings.next_run(at)) < until:
            yield at

    async def run_pipeline(self, at: datetime) -> ScheduledRun:
        """Run the pipeline as Airflow does at an instant of the schedule, with the same scope."""
        night = self.settings.last_night(at)
        is_first = self.settings.next_run(night - timedelta(microseconds=1)) == at
        scope = FetchScope.NIGHTLY if is_first else FetchScope.LIKELY
        run, next_run_at = self.pipeline.run, self.settings.next_run(at)
        costs = await asyncio.to_thread(run, at, _print_nothing, scope=scope, next_run_at=next_run_at)
        await asyncio.to_thread(self.writer.finish_batches)
        counts = {name: n for cost in costs for name, n in cost.counts.items()}
        return ScheduledRun(at, scope, counts)

    def forecast(self, at: datetime) -> Forecast:
        """The probabilities of requests before the next run."""
        until = self.settings.next_run(at)
        return Forecast(at, until, self.writer.probabilities(at, until))

    async def join(self, user: SampleUser, at: datetime) -> None:
        """Connect a new user's account, and give the service the seconds in which it notices new accounts."""
        _add_user(self.pipeline, user)
        values = {"user": user.user_id, "at": at}
        self.connection.execute("UPDATE users SET created_at = %(at)s WHERE user_id = %(user)s", values)
        self.connection.execute("UPDATE todoist_accounts SET connected_at = %(at)s WHERE user_id = %(user)s", values)
        for _ in range(_MAX_PREPARATION_S):
            await asyncio.sleep(1)
            found = "SELECT FROM candidate_sets WHERE user_id = %(user)s"
            if self.connection.execute(found, values).fetchone() is not None:
                return

    async def tip(self, user_id: str) -> Mapping[str, Any]:
        """Request a tip and return the service's answer."""
        return await self._post(f"/v1/users/{user_id}/tip")

    def has_made_a_set(self, decision_id: str) -> bool:
        """Whether candidates were made for a decision without the LLM, which may write behind it then."""
        made = "SELECT FROM decisions WHERE decision_id = %s AND origin IN ('kept', 'rules') AND set_age_s < 60"
        return self.connection.execute(made, [decision_id]).fetchone() is not None

    def fetched_at(self, user_id: str) -> datetime | None:
        """The instant of the fetch that a user's stored context shows, with the events that were folded since."""
        found = (
            "SELECT fetched_at(materialized_at, c.rows_digest, a.rows_digest, observed_at)"
            " FROM context_store c JOIN todoist_accounts a USING (user_id) WHERE user_id = %s"
        )
        row = self.connection.execute(found, [user_id]).fetchone()
        return row[0] if row else None

    def stored_tasks(self) -> Mapping[str, Mapping[str, datetime]]:
        """The instants of the last change of each stored task, by user and task."""
        tasks: dict[str, dict[str, datetime]] = {}
        for number in range(_N_SHARDS):
            with self.pipeline.shards.open(todoist_tasks, number) as shard:
                rows = shard.read(["user_id", "task_id", "updated_at"]).to_pylist() if shard else []
            for row in rows:
                of_user = tasks.setdefault(row["user_id"], {})
                if row["task_id"] is not None:
                    of_user[row["task_id"]] = row["updated_at"] or datetime.min.replace(tzinfo=UTC)
        return tasks

    async def react(self, decision_id: str, reaction: str) -> None:
        """Send a user's reaction to a tip."""
        await self._post(f"/v1/decisions/{decision_id}/reaction", json={"reaction": reaction})

    async def mark_ignored_tips(self) -> None:
        """Mark ignored tips; the service itself does it every five real minutes, too rarely for a compressed week."""
        await self.learner.ignore(self.serving_settings.ignored_after)

    async def n_todoist_calls(self) -> int:
        """The number of the service's Todoist calls so far, from its metrics."""
        text = (await self.client.get("/metrics")).text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return round(sum(sample.value for sample in samples if sample.name == "todoist_calls_total"))

    async def _post(self, path: str, **options: Any) -> Mapping[str, Any]:
        response = await self.client.post(path, **options)
        body: Mapping[str, Any] = response.raise_for_status().json()
        return body


@asynccontextmanager
async def running_system(
    workload: Workload, todoist_url: str, clock: SimulatedClock, folder: Path, rule: Rule
) -> AsyncIterator[System]:
    """Run the system with existing users, all of whom are fetched at the start of the warm-up."""
    key = new_key()
    with postgres.running_postgres(folder / "postgres") as url, connect(url) as connection:
        migrate(connection)
        todoist = Todoist(todoist_url, concurrency=_FETCH_CONCURRENCY)
        new_generator = partial(LLMGenerator, LLM_MODEL, timeout_s=_LLM_TIMEOUT_S) if rule.ahead else None
        new_writer = _WriterForEverybody if rule.is_for_everybody else TipWriter
        writer = new_writer(
            connection,
            rule.ahead or AheadSettings(),
            new_generator,
            clock=clock.now,
            new_id=uuid4,
            batches=_batches(connection, clock) if rule.has_batches else None,
        )
        events = EventStore(connection, rule.events, clock=clock.now)
        pipeline = Pipeline(connection, todoist, WordEmbedder(), folder / "data", _N_SHARDS, key, writer, events)
        _add_users(workload, connection, pipeline)
        await asyncio.to_thread(pipeline.run, MONDAY - WARM_UP, _print_nothing)
        connections = ServiceConnections(
            url, todoist_url, key, rule.wait_s, rule.has_llm, rule.events, writes_ahead=rule.writes_for_new_users
        )
        with running_week_service(connections, clock) as service_url:
            async with (
                _open_client(service_url) as client,
                _open_learner(url, clock) as learner,
                running_refresher(connections, clock) as refresher,
            ):
                yield System(
                    connection=connection,
                    pipeline=pipeline,
                    writer=writer,
                    client=client,
                    learner=learner,
                    refresher=refresher,
                    settings=read_settings(Settings),
                    serving_settings=service_settings(connections),
                    service_url=service_url,
                )


def _batches(connection: psycopg.Connection[Any], clock: SimulatedClock) -> TipBatches:
    return TipBatches(
        connection,
        CandidateBatches,
        read_settings(Settings),
        model=_BATCH_MODEL,
        clock=clock.now,
        new_id=uuid4,
    )


class _WriterForEverybody(TipWriter):
    """Writes a set for every user who has fewer than two valid tips, however improbable a request is."""

    def demand(self, now: datetime, next_run: datetime, *, shards: Sequence[int] | None, n_shards: int) -> Users:
        """Return all users, whatever the shards."""
        found = queries("tips_ahead").request_forecasts(self._connection, now=now, next_run_at=next_run)
        return {user_id: likely_at or now for user_id, _, likely_at in found}


def _open_client(service_url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=service_url, headers={"Authorization": f"Bearer {SERVICE_TOKEN}"}, timeout=30)


@asynccontextmanager
async def _open_learner(url: str, clock: SimulatedClock) -> AsyncIterator[Learner]:
    """A learner over the same posterior as the service, like that of a second service process."""
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        learner = Learner(pool, POLICY, Metrics(), clock.now)
        await learner.refresh()
        yield learner


def _add_users(workload: Workload, connection: psycopg.Connection[Any], pipeline: Pipeline) -> None:
    """Add the users who were there before the week, with their accounts and the requests of the history."""
    joiners = {person.user_id for person in workload.people if person.joins_on}
    for user in workload.users:
        if user.user_id not in joiners:
            _add_user(pipeline, user)
    connection.execute("UPDATE users SET created_at = %s", [MONDAY - timedelta(days=90)])
    rows = [(UUID(int=n), request.user_id, request.at) for n, request in enumerate(workload.history)]
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (%s, %s, %s)", rows)


def _add_user(pipeline: Pipeline, user: SampleUser) -> None:
    credentials = Credentials(user.api_token)
    pipeline.accounts.add(user.user_id, email=user.email, timezone=user.timezone, credentials=credentials)


def _print_nothing(_: str) -> None:
    """Discard the progress lines of a run."""
