"""One night in this process, asset by asset, with what each took."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from assets.asset import Asset, Users
from assets.calibration import calibrate_model
from assets.definitions import GRAPH, task_clusters
from assets.doors import Doors
from assets.materialize import materialize, unlocked
from assets.night import Night
from assets.parquet import Shards
from assets.records import Record, total
from assets.versions import shard_of
from contexts.accounts import Accounts, Look
from contexts.embed import Embedder
from contexts.history import History
from contexts.ledger import Ledger
from contexts.progress import Progress
from contexts.settings import Settings
from contexts.store import ContextStore
from contexts.todoist import Todoist
from contexts.vault import Vault, new_key
from contexts.vectors import VectorCache

FETCH = "fetch_signals"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Cost:
    """What one asset took in a night. written_mb: of Parquet files, new ones and replaced ones.

    resident_mb: the process's memory before; peak_mb: the most until the end; None where neither can be had.
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
    ) -> None:
        """key: that the users' tokens are encrypted with, where anybody else is to read them."""
        self.accounts = Accounts(connection, Vault([key or new_key()]))
        self._root = root
        self._shards = Shards(str(root), n_shards)
        self._doors = Doors(
            settings=Settings(data_root=str(root), n_shards=n_shards),
            shards=self._shards,
            accounts=self.accounts,
            store=ContextStore(connection),
            history=History(str(root), connection, partial(shard_of, n_shards=n_shards)),
            ledger=Ledger(connection),
            todoist=todoist,
            embedder=embedder,
            vectors=VectorCache(connection),
            lock=unlocked,
        )

    def night(
        self,
        now: datetime,
        say: Say,
        *,
        look: Look = Look.EVERYBODY,
        until: datetime | None = None,
    ) -> list[Cost]:
        """Bring every asset up to date and say how far it is. look, until: see `Accounts.due`."""
        costs = []
        due = self.accounts.due(now, until or now + timedelta(hours=4), look=look)
        for asset in GRAPH:
            costs.append(self._cost(asset, now, due, say))
            say(f"  {asset.name}: {costs[-1].seconds:.2f} s")
        return costs

    def seconds_to_plan(self, now: datetime) -> float:
        """How long it takes to say what the next night for everybody would run."""
        began = time.perf_counter()
        night = Night(self._doors, now)
        night.bill(*night.forecast(), GRAPH)
        return time.perf_counter() - began

    def _cost(self, asset: Asset, now: datetime, due: Users, say: Say) -> Cost:
        before, memory = self._files(), Memory.measured()
        began, began_cpu = time.perf_counter(), time.process_time()
        records = self._materialize(asset, now, due, say)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        written = self._files() - before
        counts = total(records)
        counts.pop("n_shards_changed")
        return Cost(
            step=asset.step,
            asset=asset.name,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            n_shards_run=counts.pop("n_shards_run"),
            n_users_computed=counts.pop("n_users_changed"),
            written_mb=sum(n_bytes for _, _, n_bytes in written) / 1e6,
            resident_mb=memory.resident_mb,
            peak_mb=memory.peak_mb(),
            counts=counts,
        )

    def _materialize(self, asset: Asset, now: datetime, due: Users, say: Say) -> list[Record]:
        """The asset as the runs of its step would make it: shard by shard, each with the users whom it would look at,
        and the threshold chosen before clustering.
        """
        if asset is task_clusters:
            calibrate_model(self._shards, self._doors.store, self._doors.embedder.version)
        looked_at = self._by_shard(self._users(asset, due))
        resources, progress = (
            self._doors.resources,
            Progress(f"shards of {asset.name}", self._shards.n_shards, lambda line: say(f"  {line}")),
        )
        records: list[Record] = []
        for shard in range(self._shards.n_shards):
            if shard in looked_at or not asset.is_source:
                users = looked_at.get(shard, {})
                records += materialize(
                    GRAPH,
                    self._shards,
                    resources=resources,
                    now=now,
                    users=users,
                    select=[asset.name],
                    only_shards=[shard],
                )
            progress.add(1)
        return records

    def _users(self, asset: Asset, due: Users) -> Users:
        if asset.step == FETCH:
            return due
        return self.accounts.observed() if asset.observes else {}

    def _by_shard(self, users: Users) -> Mapping[int, dict[str, datetime]]:
        shards: dict[int, dict[str, datetime]] = {}
        for user, at in users.items():
            shards.setdefault(shard_of(user, self._shards.n_shards), {})[user] = at
        return shards

    def _files(self) -> set[tuple[Path, int, int]]:
        """All files, with the time at which each was written (nanoseconds) and its bytes."""
        files = [(path, path.stat()) for path in self._root.rglob("*") if path.is_file()]
        return {(path, found.st_mtime_ns, found.st_size) for path, found in files}


@dataclass(frozen=True)
class Memory:
    """This process's memory, in millions of bytes, as Linux counts it; None elsewhere."""

    resident_mb: float | None

    @classmethod
    def measured(cls) -> Memory:
        """What it is now; from here on the peak is looked for. Source: `proc(5)`, /proc/pid/clear_refs."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            return cls(_status_mb("VmRSS"))
        return cls(None)

    def peak_mb(self) -> float | None:
        """The most since it was measured."""
        peak_mb = _status_mb("VmHWM")
        return max(self.resident_mb, peak_mb) if self.resident_mb and peak_mb else None


def _status_mb(name: str) -> float | None:
    with suppress(OSError):
        if found := re.search(rf"^{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024 / 1e6
    return None


def count_of(costs: Iterable[Cost], name: str) -> int:
    """What the assets of a night counted under a name, all together."""
    return sum(cost.counts.get(name, 0) for cost in costs)


def cpu_of(costs: Iterable[Cost], *, without: Iterable[str] = ()) -> float:
    """CPU seconds of a night, some steps left out."""
    left_out = set(without)
    return sum(cost.cpu_seconds for cost in costs if cost.step not in left_out)
