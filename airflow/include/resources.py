"""The concrete doors of the night: Airflow's connections and the settings become the assets' resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import Connection

from assets.parquet import Shards
from contexts.accounts import Accounts
from contexts.assemble import Budget
from contexts.cluster import Clusterer
from contexts.embed import Embedder
from contexts.ledger import Ledger
from contexts.settings import Settings, VaultSettings, read_settings
from contexts.store import ContextStore
from contexts.todoist import API_URL, Todoist
from contexts.vault import Vault

NO_THEMES = 1.0
"""The threshold before a model was calibrated: nothing is alike."""


@dataclass(frozen=True)
class Doors:
    """All that a step needs, open."""

    settings: Settings
    shards: Shards
    accounts: Accounts
    store: ContextStore
    ledger: Ledger
    todoist: Todoist
    embedder: Embedder

    @property
    def resources(self) -> Mapping[type, object]:
        """What asset functions ask for, by type; the threshold is the stored one."""
        model = self.embedder.version
        return {
            Todoist: self.todoist,
            Accounts: self.accounts,
            ContextStore: self.store,
            Embedder: self.embedder,
            Clusterer: Clusterer(model, self.store.threshold(model) or NO_THEMES),
            Budget: Budget(self.settings.context_token_budget),
        }


@contextmanager
def open_doors() -> Iterator[Doors]:
    """Connect to Postgres by the connection `context_store` and to Todoist by `todoist`; close at the end."""
    settings = read_settings(Settings)
    keys = [key.get_secret_value() for key in read_settings(VaultSettings).credentials_keys]
    connection = cast("psycopg.Connection[Any]", PostgresHook("context_store").get_conn())
    with connection:
        connection.autocommit = True
        yield Doors(
            settings=settings,
            shards=Shards(settings.data_root, settings.n_shards),
            accounts=Accounts(connection, Vault(keys)),
            store=ContextStore(connection, reaction_days=settings.reaction_days),
            ledger=Ledger(connection),
            todoist=_todoist(settings),
            embedder=Embedder(
                settings.embedding_model,
                revision=settings.revision,
                prompt=settings.embedding_prompt,
                dim=settings.embedding_dim,
                device=settings.embedding_device,
            ),
        )


def _todoist(settings: Settings) -> Todoist:
    url = _url(Connection.get("todoist"))
    return Todoist(url, concurrency=settings.todoist_concurrency, app=settings.oauth_app)


def _url(found: Connection) -> str:
    """The address that a connection names, Todoist's own where it names none; https where it does not say."""
    if not found.host:
        return API_URL
    kinds = [kind for kind in (found.schema, found.conn_type) if kind in ("http", "https")]
    is_bare = found.conn_type == "http" and not found.schema and found.host.endswith("todoist.com")
    address = found.host if "://" in found.host else f"{'https' if is_bare or not kinds else kinds[0]}://{found.host}"
    return f"{address}:{found.port}" if found.port else address
