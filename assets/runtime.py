"""The runtime of the pipeline: every connection and client that steps use, built from the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg

from assets.batches import TipBatches
from assets.engine.errors import AssetError
from assets.engine.hashing import shard_of
from assets.engine.materialize import Lock
from assets.engine.parquet import Shards
from assets.tips_ahead import AheadSettings, TipWriter
from contexts.assembly.assemble import Budget
from contexts.assembly.history import History
from contexts.assembly.store import ContextStore
from contexts.postgres.locks import locked
from contexts.postgres.migrate import check_migrated
from contexts.postgres.run_log import RunLog
from contexts.postgres.sql import connect
from contexts.settings import CredentialSettings, DatabaseSettings, Settings, check_settings, read_settings
from contexts.themes.calibrations import Calibrations
from contexts.themes.cluster import Calibration, Clusterer
from contexts.themes.embed import Embedder
from contexts.themes.universal_encoder import new_embedder
from contexts.themes.vector_cache import VectorCache
from contexts.todoist.accounts import Accounts
from contexts.todoist.client import Todoist
from contexts.todoist.credentials import CredentialCipher
from contexts.todoist.event_store import EventStore

if TYPE_CHECKING:
    from tips.batches import CandidateBatches
    from tips.generator import CandidateGenerator

LAYOUT_LOCK = "layout"
"""The lock that writers of shards share, and that a process holds alone while it moves rows to other shards."""

UNCALIBRATED = Calibration(threshold=2.0)
"""The calibration of a model before its first one: no two texts are that similar."""


@dataclass(frozen=True)
class Runtime:
    """The settings, connections and clients of the pipeline."""

    settings: Settings
    shards: Shards
    accounts: Accounts
    events: EventStore
    store: ContextStore
    history: History
    run_log: RunLog
    todoist: Todoist
    embedder: Embedder
    vector_cache: VectorCache
    calibrations: Calibrations
    tip_writer: TipWriter
    lock: Lock

    @classmethod
    def connect(
        cls,
        settings: Settings,
        cipher: CredentialCipher,
        connection: psycopg.Connection[Any],
        todoist_url: str,
        *,
        n_threads: int | None = None,
    ) -> Runtime:
        """Build the runtime over one Postgres connection and one Todoist API. n_threads: see `Embedder`.

        Raises WrongShardCount if DATA_ROOT has another number of shards than the settings.
        """
        connection.autocommit = True
        shards = Shards(settings.data_root, settings.n_shards)
        shards.check_layout()
        clock = partial(datetime.now, UTC)
        return cls(
            settings=settings,
            shards=shards,
            accounts=Accounts(connection, cipher, clock=clock),
            events=EventStore(connection, settings.events_mode, settings.event_miss_bound, clock=clock),
            store=ContextStore(connection, reaction_days=settings.reaction_days, clock=clock),
            history=History(settings.data_root, connection, lambda user: shard_of(user, settings.n_shards)),
            run_log=RunLog(connection),
            todoist=Todoist(
                todoist_url,
                concurrency=settings.todoist_concurrency,
                max_response_bytes=settings.todoist_max_response,
                app=settings.oauth_app,
            ),
            embedder=new_embedder(
                settings.embedding_model,
                revision=settings.revision,
                prompt=settings.embedding_prompt,
                dim=settings.embedding_dim,
                device=settings.embedding_device,
                n_threads=n_threads,
            ),
            vector_cache=VectorCache(connection),
            calibrations=Calibrations(connection),
            tip_writer=tip_writer(settings, connection, cipher),
            lock=lambda asset, shard: _shard_lock(connection, asset, shard),
        )

    def load_resources(self) -> Mapping[type, object]:
        """Return the resources that assets ask for, by type.

        Reads the model's calibration from Postgres. Load them once per step: the embed step calibrates it.
        """
        model = self.embedder.version
        return {
            Todoist: self.todoist,
            Accounts: self.accounts,
            EventStore: self.events,
            ContextStore: self.store,
            History: self.history,
            Embedder: self.embedder,
            VectorCache: self.vector_cache,
            Clusterer: Clusterer(model, self.calibrations.get(model) or UNCALIBRATED),
            Budget: Budget(self.settings.context_token_budget),
            TipWriter: self.tip_writer,
        }


def tip_writer(
    settings: Settings, connection: psycopg.Connection[Any], cipher: CredentialCipher | None = None
) -> TipWriter:
    """Return the writer of tips ahead of requests. Nothing is written without LLM_MODEL, or with TIPS_AHEAD=off.

    cipher: makes the mark in prompts, as in the service; None if nothing is written.
    """
    return TipWriter(
        connection,
        AheadSettings(
            price=_PRICES[settings.tips_ahead],
            value=settings.tips_ahead_value,
            max_calls=settings.tips_ahead_calls,
            max_cost_usd=settings.tips_ahead_dollars,
            concurrency=settings.tips_ahead_concurrency,
            timeout_s=settings.tips_ahead_timeout,
        ),
        partial(_new_generator, settings, cipher) if settings.writes_tips else None,
        clock=partial(datetime.now, UTC),
        new_id=uuid4,
        batches=TipBatches(
            connection,
            partial(_new_batches, settings, cipher),
            settings,
            model=settings.llm_model if settings.tips_ahead == "batch" else None,
            clock=partial(datetime.now, UTC),
            new_id=uuid4,
        ),
    )


_PRICES = {"off": 1.0, "now": 1.0, "flex": 0.5, "batch": 1.0}
"""The price of a call at once by TIPS_AHEAD, in prices of a usual one."""


def _new_generator(settings: Settings, cipher: CredentialCipher | None) -> CandidateGenerator:
    """Return a generator; raise AssetError if there is no such model.

    Only runs that write tips import pydantic-ai.
    """
    from tips.generator import LLMGenerator
    from tips.gguf import lasting_model
    from tips.models import LLMError

    try:
        return LLMGenerator(
            lasting_model(settings.llm_model or ""),
            timeout_s=settings.tips_ahead_timeout,
            mark_secret=_mark_secret(cipher),
            output=settings.llm_output,
            is_flex=settings.tips_ahead == "flex",
            waits=True,
        )
    except LLMError as error:
        raise AssetError(str(error)) from None


def _new_batches(settings: Settings, cipher: CredentialCipher | None, model: str) -> CandidateBatches:
    """Return the client of a model's batches; raise AssetError if there is no such model, or it has no batches."""
    from tips.batches import CandidateBatches
    from tips.models import LLMError

    try:
        return CandidateBatches(model, mark_secret=_mark_secret(cipher), output=settings.llm_output)
    except LLMError as error:
        raise AssetError(str(error)) from None


def _mark_secret(cipher: CredentialCipher | None) -> bytes | None:
    from tips.prompt import MARK_LABEL

    return cipher.derived_secret(MARK_LABEL) if cipher else None


@contextmanager
def _shard_lock(connection: psycopg.Connection[Any], asset: str, shard: int) -> Iterator[None]:
    """Hold the lock of a shard, and a share of the lock under which all rows are moved to other shards."""
    with locked(connection, LAYOUT_LOCK, is_shared=True), locked(connection, f"{asset}/{shard}"):
        yield


@contextmanager
def runtime_from_environment() -> Iterator[Runtime]:
    """Build the runtime from the environment: DATABASE_URL, CREDENTIALS_KEYS, TODOIST_API_URL and the settings.

    Raises SettingsError, CredentialsError, and MigrationsMissing if the database is not migrated.
    """
    check_settings(Settings, DatabaseSettings, CredentialSettings)
    settings, cipher = read_settings(Settings), CredentialCipher(read_settings(CredentialSettings).keys)
    with connect(read_settings(DatabaseSettings).database_url) as connection:
        check_migrated(connection)
        yield Runtime.connect(settings, cipher, connection, settings.todoist_api_url)
