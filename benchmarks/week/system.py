"""This system on one machine: Postgres, the night in this process, the service in another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import psycopg
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.night import Pipeline
from benchmarks.week import service
from benchmarks.week.timeline import Clock
from benchmarks.week.words import Words
from benchmarks.week.workload import MONDAY, WARM_UP, Workload
from contexts.accounts import Look
from contexts.migrate import migrate
from contexts.settings import Settings, read_settings
from contexts.sql import connect
from contexts.todoist import Credentials, Todoist
from contexts.vault import new_key
from local import postgres
from serving.__main__ import POLICY
from serving.learn import Learner
from serving.metrics import Metrics
from serving.settings import ServingSettings

_N_SHARDS = 4
_FETCHES_AT_ONCE = 32


@dataclass(frozen=True)
class Run:
    """A scheduled run, and the Todoist calls that it made."""

    at: datetime
    look: Look
    n_calls: int


@dataclass(frozen=True)
class System:
    """What the week is played to."""

    connection: psycopg.Connection[Any]
    pipeline: Pipeline
    client: httpx.AsyncClient
    learner: Learner
    settings: Settings
    serving: ServingSettings

    def runs(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """When the schedule has runs, after `since` and before `until`."""
        at = since
        while (at := self.settings.next_run(at)) < until:
            yield at

    async def run(self, at: datetime) -> Run:
        """The steps that Airflow runs at an instant of the schedule, with the users that it would fetch."""
        look = Look.NIGHT if self.settings.is_night(at) else Look.LIKELY
        night, until = self.pipeline.night, self.settings.next_run(at)
        costs = await asyncio.to_thread(night, at, _silent, look=look, until=until)
        counts = {name: n for cost in costs for name, n in cost.counts.items()}
        return Run(at, look, counts.get("todoist_calls_full", 0) + counts.get("todoist_calls_incremental", 0))

    async def tip(self, user_id: str) -> Mapping[str, Any]:
        """What the service answers."""
        return await self._post(f"/v1/users/{user_id}/tip")

    async def react(self, decision_id: str, reaction: str) -> None:
        """Tell the service what somebody made of a tip."""
        await self._post(f"/v1/decisions/{decision_id}/reaction", json={"reaction": reaction})

    async def ignore(self) -> None:
        """What the service does every five minutes by the clock on the wall, for which a compressed week is short."""
        await self.learner.ignore(self.serving.ignored_after)

    async def n_todoist_calls(self) -> int:
        """How many Todoist calls the service made, by its own count."""
        page = (await self.client.get("/metrics")).text
        samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
        return round(sum(sample.value for sample in samples if sample.name == "todoist_calls_total"))

    async def _post(self, path: str, **options: Any) -> Mapping[str, Any]:
        answer = await self.client.post(path, **options)
        found: Mapping[str, Any] = answer.raise_for_status().json()
        return found


@asynccontextmanager
async def opened(workload: Workload, todoist_url: str, clock: Clock, folder: Path) -> AsyncIterator[System]:
    """The system with its users, who are known of old and were all fetched as the warm-up begins."""
    key = new_key()
    with postgres.running(folder / "postgres") as url, connect(url) as connection:
        migrate(connection)
        todoist = Todoist(todoist_url, concurrency=_FETCHES_AT_ONCE)
        pipeline = Pipeline(connection, todoist, Words(), folder / "data", _N_SHARDS, key)
        _settle(workload, connection, pipeline)
        await asyncio.to_thread(pipeline.night, MONDAY - WARM_UP, _silent)
        with service.serving(service.Places(url, todoist_url, key), clock) as address:
            async with _client(address) as client, _learner(url, clock) as learner:
                yield System(
                    connection=connection,
                    pipeline=pipeline,
                    client=client,
                    learner=learner,
                    settings=read_settings(Settings),
                    serving=service.told(todoist_url),
                )


def _client(address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address, headers={"Authorization": f"Bearer {service.TOKEN}"}, timeout=30)


@asynccontextmanager
async def _learner(url: str, clock: Clock) -> AsyncIterator[Learner]:
    """Another process of the service, as far as its posterior goes."""
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        learner = Learner(pool, POLICY, Metrics(), clock.now)
        await learner.refresh()
        yield learner


def _settle(workload: Workload, connection: psycopg.Connection[Any], pipeline: Pipeline) -> None:
    for user in workload.users:
        credentials = Credentials(user.api_token)
        pipeline.accounts.add(user.user_id, email=user.email, timezone=user.timezone, credentials=credentials)
    connection.execute("UPDATE users SET created_at = %s", [MONDAY - timedelta(days=90)])
    rows = [(UUID(int=n), each.user_id, each.at) for n, each in enumerate(workload.history)]
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (%s, %s, %s)", rows)


def _silent(_: str) -> None:
    """Nobody is told how a night goes on."""
