"""Runs the pipeline in this process and measures the cost of each asset."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from assets.calibration import calibrate_model
from assets.definitions import GRAPH
from assets.definitions.task_clusters import task_clusters
from assets.engine.asset import Asset, Users
from assets.engine.hashing import shard_of
from assets.engine.materialize import materialize, unlocked
from assets.engine.parquet import Shards
from assets.engine.plan import Planner, build_request
from assets.engine.results import ShardResult, total
from assets.runtime import Runtime, tip_writer
from assets.steps import StepRunner
from assets.tips_ahead import TipWriter
from benchmarks.output import PrintLine
from benchmarks.todoist import TodoistProcess, todoist_process
from benchmarks.users import Crowd, add_accounts
from contexts.assembly.history import History
from contexts.assembly.store import ContextStore
from contexts.postgres.migrate import migrate
from contexts.postgres.run_log import RunLog
from contexts.postgres.sql import connect
from contexts.progress import ProgressLogger
from contexts.settings import Settings
from contexts.themes.calibrations import Calibrations
from contexts.themes.embed import Embedder
from contexts.themes.vector_cache import VectorCache
from contexts.todoist.accounts import Accounts, FetchScope
from contexts.todoist.client import Todoist
from contexts.todoist.credentials import CredentialCipher, new_key
from contexts.todoist.event_store import EventStore
from local.checkpoint import save_tiny_nomic
from local.postgres import running_postgres

FETCH_STEP = "fetch_signals"

_DEFAULT_INTERVAL = timedelta(hours=4)
"""Time until the next run, if the caller names none."""


def load_tiny_embedder(folder: Path) -> Embedder:
    """Save a tiny model, and load it on one thread, so that CPU seconds do not include waiting threads."""
    import torch

    torch.set_num_threads(1)
    embedder = Embedder(str(save_tiny_nomic(folder)), prompt="clustering: ", dim=32, device="cpu")
    embedder.encode(["one text to load the model"])
    return embedder


@dataclass(frozen=True)
class AssetCost:
    """The cost of one asset in one run of the pipeline.

    written_mb: size of all Parquet files that were created or replaced.
    resident_mb: memory of the process before the asset; None if it cannot be measured.
    peak_mb: maximum memory of the process until the asset was done; None if it cannot be measured.
    counts: the asset's own counts, such as `rows_written`.
    """

    step: str
    asset: str
    seconds: float
    cpu_seconds: float
    n_shards_run: int
    n_users_computed: int
    written_mb: float
    resident_mb: float | None
    peak_mb: float | None
    counts: Mapping[str, int]


class Pipeline:
    """The six assets over one Postgres, one Todoist and one folder, without Airflow."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        todoist: Todoist,
        embedder: Embedder,
        root: Path,
        n_shards: int,
        key: str | None = None,
        writer: TipWriter | None = None,
        events: EventStore | None = None,
    ) -> None:
        """Open the pipeline.

        root: the folder of all Parquet files.
        key: encrypts the users' credentials; None generates one, if no other process reads them.
        writer: writes tips ahead of requests; None: nothing is written ahead.
        events: of webhooks; None: there are none.
        """
        self.accounts = Accounts(connection, CredentialCipher([key or new_key()]))
        self._root = root
        self.shards = Shards(str(root), n_shards)
        self.events = events or EventStore(connection)
        self._runtime = Runtime(
            settings=Settings(data_root=str(root), n_shards=n_shards),
            shards=self.shards,
            accounts=self.accounts,
            events=self.events,
            store=ContextStore(connection),
            history=History(str(root), connection, partial(shard_of, n_shards=n_shards)),
            run_log=RunLog(connection),
            todoist=todoist,
            embedder=embedder,
            tip_writer=writer or tip_writer(Settings(llm_model=None), connection),
            vector_cache=VectorCache(connection),
            calibrations=Calibrations(connection),
            lock=unlocked,
        )

    def run(
        self,
        now: datetime,
        print_line: PrintLine,
        *,
        scope: FetchScope = FetchScope.ALL,
        next_run_at: datetime | None = None,
    ) -> list[AssetCost]:
        """Bring every asset up to date, print a line for each, and return their costs.

        scope, next_run_at: select the users to fetch (see `Accounts.due`); the next run is in four hours by default.
        """
        costs = []
        for asset, users in self._assets(now, next_run_at or now + _DEFAULT_INTERVAL, scope):
            costs.append(self._run_asset(asset, now, users, print_line))
            print_line(f"  {asset.name}: {costs[-1].seconds:.2f} s")
        if self.events.mode != "off":
            self.events.judge(now)
            self.events.expire(now)
        return costs

    def run_in_parts(self, now: datetime) -> Iterator[None]:
        """Bring every asset up to date as `run` does, and yield after each shard of each asset: `n_parts` times."""
        for asset, users in self._assets(now, now + _DEFAULT_INTERVAL, FetchScope.ALL):
            for _ in self._materialize(asset, now, users):
                yield

    @property
    def n_parts(self) -> int:
        """The number of parts of a run."""
        return len(list(GRAPH)) * self.shards.n_shards

    def plan_seconds(self, now: datetime) -> float:
        """Plan a run for all users, without running it, and return the seconds that it took."""
        started = time.perf_counter()
        runner = StepRunner(GRAPH, self._runtime, self._runtime.load_resources(), now)
        runner.estimate(*runner.forecast(), GRAPH)
        return time.perf_counter() - started

    def _assets(self, now: datetime, next_run_at: datetime, scope: FetchScope) -> Iterator[tuple[Asset, Users]]:
        """Yield the assets in the order of a run, each with its users as they are after the assets before it."""
        due = self._due(now, next_run_at, scope)
        for asset in GRAPH:
            yield asset, self._users_of(asset, now, next_run_at, due)

    def _due(self, now: datetime, next_run_at: datetime, scope: FetchScope) -> Users:
        """The users to fetch, and those whose events are to be folded, as the step runner finds them."""
        due = self.accounts.due(now, next_run_at, scope=scope, events=self.events.mode)
        return {**self.events.users_to_fold(now), **due}

    def _run_asset(self, asset: Asset, now: datetime, users: Users, print_line: PrintLine) -> AssetCost:
        files_before, memory = self._files(), MemoryMeter.start()
        started, started_cpu = time.perf_counter(), time.process_time()
        progress = ProgressLogger(
            f"shards of {asset.name}", self.shards.n_shards, lambda line: print_line(f"  {line}")
        )
        results: list[ShardResult] = []
        for of_shard in self._materialize(asset, now, users):
            results += of_shard
            progress.add(1)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
        written_files = self._files() - files_before
        counts = total(results)
        counts.pop("n_shards_changed")
        return AssetCost(
            step=asset.step,
            asset=asset.name,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            n_shards_run=counts.pop("n_shards_run"),
            n_users_computed=counts.pop("n_users_computed"),
            written_mb=sum(n_bytes for _, _, n_bytes in written_files) / 1e6,
            resident_mb=memory.resident_mb,
            peak_mb=memory.peak_mb(),
            counts=counts,
        )

    def _materialize(self, asset: Asset, now: datetime, users: Users) -> Iterator[Sequence[ShardResult]]:
        """Materialize an asset as its step does: calibrate the threshold, then run shard by shard.

        Yields the results of each shard: none if it is up to date.
        """
        if asset is task_clusters:
            calibrate_model(self.shards, self._runtime.calibrations, self._runtime.embedder.version)
        by_shard = self._users_by_shard(users)
        resources, n_shards = self._runtime.load_resources(), self.shards.n_shards
        outdated = frozenset[str]() if asset.is_source else self.accounts.observations(now).outdated
        for shard in range(n_shards):
            if asset.is_source and shard not in by_shard:
                yield []
                continue
            request = build_request(n_shards, by_shard.get(shard, {}), only_shards=[shard])
            if asset.on_demand:
                request = replace(request, demanded=request.observed)
            elif not asset.is_source:
                due = outdated.intersection(request.observed)
                request = replace(request, due=due, observe_shards=request.observe_shards if due else frozenset())
            plan = Planner(GRAPH, self.shards, resources, now).plan([asset], request)
            yield list(materialize(plan, GRAPH, self.shards, resources=resources, now=now))

    def _users_of(self, asset: Asset, now: datetime, next_run_at: datetime, due: Users) -> Users:
        """The users whom an asset receives, as the step runner finds them."""
        if asset.on_demand:
            return self._runtime.tip_writer.demand(now, next_run_at, shards=None, n_shards=self.shards.n_shards)
        if asset.step == FETCH_STEP:
            return due
        return self.accounts.observations(now).at if asset.observes else {}

    def _users_by_shard(self, users: Users) -> Mapping[int, dict[str, datetime]]:
        shards: dict[int, dict[str, datetime]] = {}
        for user, at in users.items():
            shards.setdefault(shard_of(user, self.shards.n_shards), {})[user] = at
        return shards

    def _files(self) -> set[tuple[Path, int, int]]:
        """All files with their modification time in nanoseconds and their size in bytes."""
        stats = [(path, path.stat()) for path in self._root.rglob("*") if path.is_file()]
        return {(path, stat.st_mtime_ns, stat.st_size) for path, stat in stats}


def open_pipeline(
    stack: ExitStack, folder: Path, crowd: Crowd, n_shards: int, embedder: Embedder
) -> tuple[Pipeline, TodoistProcess, psycopg.Connection[Any]]:
    """Open a pipeline for a crowd over a Postgres and a local Todoist of its own, until the stack is closed."""
    connection = stack.enter_context(connect(stack.enter_context(running_postgres(folder / "postgres"))))
    migrate(connection)
    todoist, key = stack.enter_context(todoist_process()), new_key()
    todoist.install(crowd)
    add_accounts(connection, crowd, key)
    pipeline = Pipeline(connection, Todoist(todoist.url), embedder, folder / "data", n_shards, key)
    return pipeline, todoist, connection


@dataclass(frozen=True)
class MemoryMeter:
    """Measures the memory of this process in millions of bytes, on Linux only.

    resident_mb: memory at the start; None on other systems.
    """

    resident_mb: float | None

    @classmethod
    def start(cls) -> MemoryMeter:
        """Measure the memory now, and reset the peak. Source: `proc(5)`, /proc/pid/clear_refs."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            return cls(_status_mb("VmRSS"))
        return cls(None)

    def peak_mb(self) -> float | None:
        """The maximum memory since the start; None on systems other than Linux."""
        peak_mb = _status_mb("VmHWM")
        return max(self.resident_mb, peak_mb) if self.resident_mb and peak_mb else None


def _status_mb(name: str) -> float | None:
    with suppress(OSError):
        if match := re.search(rf"^{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(match[1]) * 1024 / 1e6
    return None


def total_count(costs: Iterable[AssetCost], name: str) -> int:
    """The sum of one count over all assets of a run."""
    return sum(cost.counts.get(name, 0) for cost in costs)


def total_cpu_seconds(costs: Iterable[AssetCost], *, excluded_steps: Iterable[str] = ()) -> float:
    """The CPU seconds of a run, without some of its steps."""
    excluded = set(excluded_steps)
    return sum(cost.cpu_seconds for cost in costs if cost.step not in excluded)
