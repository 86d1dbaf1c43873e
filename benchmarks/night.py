"""One night in this process, asset by asset, with what each took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from assets.asset import Asset, Users
from assets.definitions import GRAPH, task_clusters, task_embeddings
from assets.definitions.vectors import vectors_by_text
from assets.materialize import materialize
from assets.parquet import Shards
from assets.records import Record, total
from contexts.accounts import Accounts, Look
from contexts.assemble import Budget
from contexts.cluster import Clusterer, calibrate
from contexts.embed import Embedder
from contexts.store import ContextStore
from contexts.todoist import Todoist
from contexts.vault import Vault, new_key

FETCH = "fetch_signals"
_CALIBRATION_TEXTS = 2000


@dataclass(frozen=True)
class Cost:
    """What one asset took in a night. n_rows_written: rows of the Parquet files replaced."""

    step: str
    asset: str
    seconds: float
    cpu_seconds: float
    n_shards_run: int
    n_users_computed: int
    n_rows_written: int
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
    ) -> None:
        """key: that the users' tokens are encrypted with, where anybody else is to read them."""
        self.accounts = Accounts(connection, Vault([key or new_key()]))
        self._store = ContextStore(connection)
        self._todoist = todoist
        self._embedder = embedder
        self._shards = Shards(str(root), n_shards)

    def night(
        self,
        now: datetime,
        say: Callable[[str], None],
        *,
        look: Look = Look.EVERYBODY,
        until: datetime | None = None,
    ) -> list[Cost]:
        """Bring every asset up to date and say so one by one. look, until: see `Accounts.due`."""
        costs = []
        due = self.accounts.due(now, until or now + timedelta(hours=4), look=look)
        for asset in GRAPH:
            costs.append(self._cost(asset, now, due))
            say(f"  {asset.name}: {costs[-1].seconds:.2f} s")
        return costs

    def _cost(self, asset: Asset, now: datetime, due: Users) -> Cost:
        before, began, began_cpu = self._written_at(asset), time.perf_counter(), time.process_time()
        records = self._materialize(asset, now, due)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        after = self._written_at(asset)
        counts = total(records)
        counts.pop("n_shards_changed")
        return Cost(
            step=asset.step,
            asset=asset.name,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            n_shards_run=counts.pop("n_shards_run"),
            n_users_computed=counts.pop("n_users_changed"),
            n_rows_written=sum(each.n_rows for each in records if before.get(each.shard) != after[each.shard]),
            counts=counts,
        )

    def _materialize(self, asset: Asset, now: datetime, due: Users) -> list[Record]:
        """The asset as a run of its step would make it: same users, and the threshold chosen before clustering."""
        users = due if asset.step == FETCH else self.accounts.observed()
        if asset is task_clusters:
            self._calibrate()
        return materialize(
            GRAPH, self._shards, resources=self._resources(), now=now, users=users, select=[asset.name]
        )

    def _resources(self) -> Mapping[type, object]:
        model = self._embedder.version
        return {
            Todoist: self._todoist,
            Accounts: self.accounts,
            ContextStore: self._store,
            Embedder: self._embedder,
            Clusterer: Clusterer(model, self._store.threshold(model) or 1.0),
            Budget: Budget(2000),
        }

    def _calibrate(self) -> None:
        model = self._embedder.version
        if self._store.threshold(model) is None:
            sample = self._sample(model)
            self._store.keep_threshold(model, calibrate(sample), len(sample))

    def _sample(self, model: str) -> np.ndarray:
        found: dict[str, np.ndarray] = {}
        for shard in range(self._shards.n_shards):
            with self._shards.open(task_embeddings, shard) as opened:
                if opened and len(found) < _CALIBRATION_TEXTS:
                    found |= vectors_by_text(opened.read(task_embeddings.schema.names), model)
        return np.array([found[key] for key in sorted(found)[:_CALIBRATION_TEXTS]], np.float32)

    def _written_at(self, asset: Asset) -> dict[int, int]:
        """When each shard's file was written, in nanoseconds; rows of others were not."""
        paths = {shard: Path(self._shards.path(asset.name, shard)) for shard in range(self._shards.n_shards)}
        return {shard: path.stat().st_mtime_ns for shard, path in paths.items() if path.exists()}


def cpu_of(costs: Iterable[Cost], *, without: Iterable[str] = ()) -> float:
    """CPU seconds of a night, some steps left out."""
    left_out = set(without)
    return sum(cost.cpu_seconds for cost in costs if cost.step not in left_out)
