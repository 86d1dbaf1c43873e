"""A machine's worth of pipeline for tests: a night over its doors, in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from assets.definitions import GRAPH
from assets.materialize import materialize
from assets.parquet import Shards
from assets.records import Record
from assets.versions import shard_of
from contexts.accounts import Accounts
from contexts.assemble import Budget
from contexts.cluster import Clusterer
from contexts.embed import Embedder
from contexts.history import History
from contexts.store import ContextStore
from contexts.todoist import Credentials, Todoist
from contexts.vault import Vault, new_key
from contexts.vectors import VectorCache
from local.todoist import LocalTodoist

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class WordVectors(Embedder):
    """An embedder with behaviour: texts that share words are alike; counts what it is asked to embed."""

    def __init__(self, model: str = "word-vectors", dim: int = 32) -> None:
        super().__init__(model, revision="1", dim=dim)
        self.texts: list[str] = []

    def encode(self, texts: Any, done: Any = lambda _: None) -> Any:
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
    """One machine's worth of pipeline: its doors, and a night over them in this process."""

    connection: psycopg.Connection[Any]
    todoist: LocalTodoist
    client: Todoist
    root: Path
    n_shards: int = 2
    embedder: Embedder = field(default_factory=WordVectors)
    threshold: float = 0.4
    budget: Budget = field(default_factory=lambda: Budget(2000))
    key: str = field(default_factory=new_key)

    def __post_init__(self) -> None:
        self.accounts = Accounts(self.connection, Vault([self.key]))
        self.store = ContextStore(self.connection)

    @property
    def shards(self) -> Shards:
        return Shards(str(self.root), self.n_shards)

    @property
    def history(self) -> History:
        return History(str(self.root), self.connection, lambda user: shard_of(user, self.n_shards))

    @property
    def resources(self) -> dict[type, object]:
        return {
            Todoist: self.client,
            Accounts: self.accounts,
            ContextStore: self.store,
            History: self.history,
            Embedder: self.embedder,
            VectorCache: VectorCache(self.connection),
            Clusterer: Clusterer(self.embedder.version, self.threshold),
            Budget: self.budget,
        }

    def add(self, user: str, document: dict[str, Any], timezone: str = "UTC") -> None:
        """A user with an account, at Todoist and with us."""
        token = f"token-of-{user}"
        self.todoist.load(token, document, user=user)
        self.accounts.add(user, email=f"{user}@example.org", timezone=timezone, credentials=Credentials(token))

    def night(self, now: datetime = NOON, **options: Any) -> dict[str, list[Record]]:
        """Every step in order, as Airflow would run them; the records by asset."""
        records: list[Record] = []
        for step, members in GRAPH.steps.items():
            is_source = step == "fetch_signals"
            due = self.accounts.due(now, now + timedelta(hours=4))
            records += materialize(
                GRAPH,
                self.shards,
                resources=self.resources,
                now=now,
                users=due if is_source else self.accounts.observed(),
                select=[member.name for member in members],
                **options,
            )
        return {asset.name: [each for each in records if each.asset == asset.name] for asset in GRAPH}

    def rows(self, asset: str) -> list[dict[str, Any]]:
        """All rows of an asset, shard by shard."""
        found: list[dict[str, Any]] = []
        for shard in range(self.n_shards):
            with self.shards.open(GRAPH[asset], shard) as opened:
                if opened:
                    found += opened.read(GRAPH[asset].schema.names).to_pylist()
        return found

    def stored(self) -> dict[str, dict[str, Any]]:
        """The rows of context_store by user."""
        sql = "SELECT user_id, materialized_at, context_json, context_hash FROM context_store ORDER BY user_id"
        names = ("materialized_at", "context_json", "context_hash")
        return {user: dict(zip(names, values, strict=True)) for user, *values in self.connection.execute(sql)}
