"""A whole pipeline for tests: accounts, a local Todoist, a root, and nights run by the production step runner."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import psycopg

from assets.batches import TipBatches
from assets.definitions import GRAPH
from assets.engine.graph import Graph
from assets.engine.hashing import shard_of
from assets.engine.materialize import unlocked
from assets.engine.parquet import Shards
from assets.engine.results import ShardResult
from assets.options import RunOptions
from assets.runtime import Runtime
from assets.steps import StepRunner
from assets.tips_ahead import AheadSettings, TipWriter
from contexts.assembly.assemble import Budget
from contexts.assembly.history import History
from contexts.assembly.store import ContextStore
from contexts.clock import Clock
from contexts.postgres.run_log import AssetRun, RunLog
from contexts.settings import EventsMode, Settings
from contexts.themes.calibrations import Calibrations
from contexts.themes.cluster import Calibration, Clusterer
from contexts.themes.embed import Embedder
from contexts.themes.vector_cache import VectorCache
from contexts.todoist.accounts import Accounts
from contexts.todoist.client import Todoist
from contexts.todoist.credentials import CredentialCipher, Credentials, new_key
from contexts.todoist.event_store import EventStore
from local.todoist import LocalTodoist

if TYPE_CHECKING:
    from tips.batches import CandidateBatches
    from tips.generator import CandidateGenerator

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@cache
def _settings(data_root: str, n_shards: int) -> Settings:
    """The settings of a world, whose root no other world has; to read the environment takes 10 ms."""
    return Settings(data_root=data_root, n_shards=n_shards)


class WordVectors(Embedder):
    """An embedder without a model: texts that share words are similar; records the texts that it embeds."""

    def __init__(self, model: str = "word-vectors", dim: int = 32) -> None:
        super().__init__(model, revision="1", dim=dim)
        self.texts: list[str] = []

    def encode(self, texts: Any, on_batch: Any = lambda _: None) -> Any:
        self.texts += texts
        rows = [self._vector(text) for text in texts]
        return np.array(rows, np.float32).reshape(len(rows), self.dim)

    def _vector(self, text: str) -> Any:
        words = text.lower().split() or [""]
        seeds = [[ord(letter) for letter in word] for word in words]
        total = np.sum([np.random.default_rng([*seed, self.dim]).normal(size=self.dim) for seed in seeds], axis=0)
        return total / np.linalg.norm(total)


@dataclass
class World:
    """One Postgres, one Todoist and one root, and the runs of the pipeline over them."""

    connection: psycopg.Connection[Any]
    todoist: LocalTodoist
    client: Todoist
    root: Path
    n_shards: int = 2
    embedder: Embedder = field(default_factory=WordVectors)
    threshold: float = 0.4
    budget: Budget = field(default_factory=lambda: Budget(2000))
    key: str = field(default_factory=new_key)
    graph: Graph = GRAPH
    clock: Clock = lambda: datetime.now(UTC)
    new_generator: Callable[[], CandidateGenerator] | None = None
    new_batches: Callable[[str], CandidateBatches] | None = None
    batch_model: str | None = None
    ahead: AheadSettings = field(default_factory=AheadSettings)
    events: EventsMode = "off"

    def __post_init__(self) -> None:
        self.accounts = Accounts(self.connection, CredentialCipher([self.key]))
        self.store = ContextStore(self.connection)

    @property
    def shards(self) -> Shards:
        return Shards(str(self.root), self.n_shards)

    @property
    def history(self) -> History:
        return History(str(self.root), self.connection, lambda user: shard_of(user, self.n_shards))

    @property
    def runtime(self) -> Runtime:
        """The runtime over this world; its embedder has no model to load."""
        return Runtime(
            settings=_settings(str(self.root), self.n_shards),
            shards=self.shards,
            accounts=self.accounts,
            events=EventStore(self.connection, self.events),
            store=self.store,
            history=self.history,
            run_log=RunLog(self.connection),
            todoist=self.client,
            embedder=self.embedder,
            vector_cache=VectorCache(self.connection),
            calibrations=Calibrations(self.connection),
            tip_writer=TipWriter(
                self.connection,
                self.ahead,
                self.new_generator,
                clock=lambda: self.clock(),
                new_id=uuid4,
                batches=self.batches,
            ),
            lock=unlocked,
        )

    @property
    def batches(self) -> TipBatches | None:
        """The batches of tips ahead, by the schedule of the default settings."""
        if self.new_batches is None:
            return None
        return TipBatches(
            self.connection,
            self.new_batches,
            Settings(),
            model=self.batch_model,
            clock=lambda: self.clock(),
            new_id=uuid4,
        )

    @property
    def resources(self) -> dict[type, object]:
        """The resources of the runtime, with the world's own threshold and budget."""
        return {
            **self.runtime.load_resources(),
            Clusterer: Clusterer(self.embedder.version, Calibration(self.threshold)),
            Budget: self.budget,
        }

    def add(self, user: str, document: dict[str, Any], timezone: str = "UTC") -> None:
        """Add a user with an account, both at Todoist and in the context store."""
        token = f"token-of-{user}"
        self.todoist.load(token, document, user=user)
        self.accounts.add(user, email=f"{user}@example.org", timezone=timezone, credentials=Credentials(token))

    def night(self, now: datetime = NOON, **options: Any) -> dict[str, list[ShardResult]]:
        """Run every step in order; return the results by asset."""
        results = self.run(now, RunOptions(**options))
        return {asset.name: [result for result in results if result.asset == asset.name] for asset in GRAPH}

    def run(
        self, now: datetime, options: RunOptions, resources: Mapping[type, object] | None = None, paused: str = ""
    ) -> list[ShardResult]:
        """Run the selected steps, except for a paused one, as Airflow does: plan, materialize each shard, finish."""
        results: list[ShardResult] = []
        for step in self.graph.steps:
            runner = StepRunner(self.graph, self.runtime, resources or self.resources, now, options)
            if runner.members(step) and step != paused:
                results += run_step(runner, step, f"{step} {uuid4()}")[0]
        return results

    def rows(self, asset: str) -> list[dict[str, Any]]:
        """Return all rows of an asset, shard by shard."""
        rows: list[dict[str, Any]] = []
        for shard in range(self.n_shards):
            with self.shards.open(GRAPH[asset], shard) as opened:
                if opened:
                    rows += opened.read(GRAPH[asset].schema.names).to_pylist()
        return rows

    def stored(self) -> dict[str, dict[str, Any]]:
        """Return the rows of context_store by user, with the last fetch that each agrees with."""
        sql = """
            SELECT c.user_id, fetched_at(materialized_at, c.rows_digest, a.rows_digest, observed_at),
                   context_json, context_hash
            FROM context_store c LEFT JOIN todoist_accounts a USING (user_id) ORDER BY c.user_id
        """
        names = ("fetched_at", "context_json", "context_hash")
        return {user: dict(zip(names, values, strict=True)) for user, *values in self.connection.execute(sql)}

    def stored_state(self) -> dict[str, Any]:
        """Return everything stored, with the ids of themes replaced by their members, without connection numbers."""
        tables = {name: self.rows(name) for name in GRAPH.assets}
        for row in chain(*tables.values()):
            row.pop("connection_number", None)
        members: dict[str, dict[str, list[str]]] = {}
        for row in tables["task_clusters"]:
            members.setdefault(row["user_id"], {}).setdefault(row["cluster_id"], []).append(row["task_id"])
        names = {
            user: {old: "+".join(sorted(ids)) for old, ids in themes.items()} for user, themes in members.items()
        }
        for row in tables["task_clusters"]:
            row["cluster_id"] = row["cluster_id"] and names[row["user_id"]][row["cluster_id"]]
        for row in tables["user_contexts"]:
            row |= _renamed(row, names.get(row["user_id"], {})) | {"context_hash": "", "row_version": ""}
        for row in tables["context_store"]:
            row |= {"context_hash": "", "row_version": ""}
        sql = "SELECT user_id, context_json, groups_json, valid_until FROM context_store ORDER BY user_id"
        stored = [
            {
                "user_id": user,
                **_renamed({"context_json": context, "groups_json": groups}, names.get(user, {})),
                "valid_until": until,
            }
            for user, context, groups, until in self.connection.execute(sql)
        ]
        return {**tables, "store": stored}


def _renamed(row: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """Return a context and the groups of its tasks with other theme ids, in the order of these."""
    context, groups = json.loads(row["context_json"]), json.loads(row["groups_json"])
    for theme in context["themes"]:
        theme["id"] = ids[theme["id"]]
    for theme in groups["themes"]:
        theme["theme_id"] = ids[theme["theme_id"]]
    context["themes"].sort(key=lambda theme: theme["id"])
    groups["themes"].sort(key=lambda theme: theme["theme_id"])
    return {"context_json": context, "groups_json": groups}


def run_step(runner: StepRunner, step: str, run_id: str) -> tuple[list[ShardResult], list[AssetRun]]:
    """Run one step as the tasks of its DAG do; return the results of its shards and its rows in the run log."""
    plan, planner = runner.plan(step)
    runner.start(step, run_id, runner.now, plan, runner.estimate(plan, planner, runner.members(step)))
    results = list(runner.materialize_shards(step, plan.by_shard))
    return results, runner.finish(step, run_id, runner.now, results)
