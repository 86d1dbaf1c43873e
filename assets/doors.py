"""All that the night needs of the world outside: what assets ask for, and what plans and ledgers are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from assets.materialize import Lock
from assets.parquet import Shards
from assets.versions import shard_of
from contexts.accounts import Accounts
from contexts.assemble import Budget
from contexts.cluster import Clusterer
from contexts.embed import Embedder
from contexts.history import History
from contexts.ledger import Ledger
from contexts.locks import locked
from contexts.settings import DatabaseSettings, Settings, VaultSettings, read_settings
from contexts.sql import connect
from contexts.store import ContextStore
from contexts.todoist import Todoist
from contexts.vault import Vault
from contexts.vectors import VectorCache

NO_THEMES = 2.0
"""The threshold before a model was calibrated: nothing is alike."""


@dataclass(frozen=True)
class Doors:
    """All that a step needs."""

    settings: Settings
    shards: Shards
    accounts: Accounts
    store: ContextStore
    history: History
    ledger: Ledger
    todoist: Todoist
    embedder: Embedder
    vectors: VectorCache
    lock: Lock

    @classmethod
    def of(
        cls,
        settings: Settings,
        vault: Vault,
        connection: psycopg.Connection[Any],
        todoist_url: str,
        *,
        n_threads: int | None = None,
    ) -> Doors:
        """The doors behind one connection and one address of Todoist's API. n_threads: see `Embedder`."""
        connection.autocommit = True
        return cls(
            settings=settings,
            shards=Shards(settings.data_root, settings.n_shards),
            accounts=Accounts(connection, vault),
            store=ContextStore(connection, reaction_days=settings.reaction_days),
            history=History(settings.data_root, connection, lambda user: shard_of(user, settings.n_shards)),
            ledger=Ledger(connection),
            todoist=Todoist(todoist_url, concurrency=settings.todoist_concurrency, app=settings.oauth_app),
            embedder=Embedder(
                settings.embedding_model,
                revision=settings.revision,
                prompt=settings.embedding_prompt,
                dim=settings.embedding_dim,
                device=settings.embedding_device,
                n_threads=n_threads,
            ),
            vectors=VectorCache(connection),
            lock=lambda asset, shard: locked(connection, f"{asset}/{shard}"),
        )

    @property
    def resources(self) -> Mapping[type, object]:
        """What asset functions ask for, by type; the threshold is the stored one."""
        model = self.embedder.version
        return {
            Todoist: self.todoist,
            Accounts: self.accounts,
            ContextStore: self.store,
            History: self.history,
            Embedder: self.embedder,
            VectorCache: self.vectors,
            Clusterer: Clusterer(model, self.store.threshold(model) or NO_THEMES),
            Budget: Budget(self.settings.context_token_budget),
        }


@contextmanager
def doors_from_environment() -> Iterator[Doors]:
    """The doors that the environment names: DATABASE_URL, CREDENTIALS_KEYS, TODOIST_API_URL and the settings."""
    settings, vault = read_settings(Settings), Vault(read_settings(VaultSettings).keys)
    with connect(read_settings(DatabaseSettings).database_url) as connection:
        yield Doors.of(settings, vault, connection, settings.todoist_api_url)
