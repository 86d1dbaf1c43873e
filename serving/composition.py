"""The composition root: the only module that names every concrete part of the service."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from contexts.assembly.assemble import Budget
from contexts.settings import SettingsError
from contexts.todoist.client import Todoist, TodoistSession
from contexts.todoist.credentials import CredentialCipher
from serving.app import build_app
from serving.auth import BearerAuth
from serving.background import run_periodically
from serving.candidate_source import CandidateSource, LLMWaits
from serving.candidate_writer import CandidateWriter, Writings
from serving.channel import ChannelWatch
from serving.connect import Connector
from serving.connect_state import STATE_LABEL, StateSigner
from serving.decide import Decider
from serving.event_refresh import EventRefresher
from serving.event_store import open_event_store
from serving.events import EventReceiver
from serving.gate import Gate, Lane
from serving.inline import InlineAssembler
from serving.learn import Learner
from serving.metrics import Metrics
from serving.new_users import NewUsers
from serving.readiness import Readiness
from serving.ready_tips import ReadyTips
from serving.recommend import Recommender, Timing
from serving.retention import Periods, Retention
from serving.server import CLEANUP_S, LAST_RESORT_S
from serving.settings import ServingSettings
from serving.single_flight import AdvisoryLocks
from serving.startup import check_database
from serving.store import Store, open_store
from tips.bandit import ThompsonPolicy
from tips.features import FEATURES_VERSION
from tips.worth import least_probability

if TYPE_CHECKING:
    from tips.generator import CandidateGenerator

_T = TypeVar("_T")

POLICY = f"thompson-{FEATURES_VERSION}"

_FETCH_CONCURRENCY = 64
_REFRESH_INTERVAL_S = 0.5
"""Time after which a process decides by what another one has learned."""

_IGNORE_INTERVAL_S = 300.0
_RETENTION_INTERVAL_S = 600.0
_MARK_INTERVAL_S = 1.0
_NEW_USERS_INTERVAL_S = 3.0
_WATCH_INTERVAL_S = 60.0
_EVENT_REFRESH_INTERVAL_S = 10.0
_METRICS_INTERVAL_S = 1.0
_LAST_MARKS_S = (CLEANUP_S - LAST_RESORT_S) / 2
"""Time to mark the last undelivered decisions; the server's shutdown needs the rest of its cleanup time."""


def utc_now() -> datetime:
    """The current time, aware UTC."""
    return datetime.now(UTC)


@asynccontextmanager
async def open_app(
    settings: ServingSettings,
    url: str,
    cipher: CredentialCipher,
    *,
    clock: Callable[[], datetime] = utc_now,
    writings: Writings | None = None,
    new_users_interval_s: float = _NEW_USERS_INTERVAL_S,
    event_refresh_interval_s: float = _EVENT_REFRESH_INTERVAL_S,
) -> AsyncIterator[Gate]:
    """The app over open connections, after the checks of `startup`.

    writings: the sets that the LLM writes; those that are under way at the end are cancelled.
    new_users_interval_s: time between two searches for new users.
    event_refresh_interval_s: time between two searches for contexts to be refreshed because of an event.

    Raises NotReady, CredentialsError or SettingsError; OSError or an error of asyncpg if Postgres cannot be reached.
    """
    async with AsyncExitStack() as stack:
        writings = writings or Writings(max_started=settings.llm_concurrency)
        yield await _Composition(settings, url, cipher, clock, writings, stack).app(
            new_users_interval_s, event_refresh_interval_s
        )


@dataclass(frozen=True)
class _Composition:
    """Makes the parts of the service and joins them; the stack ends them in the reverse order."""

    settings: ServingSettings
    url: str
    cipher: CredentialCipher
    clock: Callable[[], datetime]
    writings: Writings
    stack: AsyncExitStack
    metrics: Metrics = field(default_factory=Metrics)

    async def app(self, new_users_interval_s: float, event_refresh_interval_s: float) -> Gate:
        """The whole service; see `open_app`. The stack ends each part that `_enter` or `_repeat` began."""
        settings, metrics, clock, timeout_s = self.settings, self.metrics, self.clock, self.settings.request_budget
        generator = self._generator()
        store = await self._store()
        locks = await self._enter(AdvisoryLocks.connected(self.url, timeout_s=timeout_s))
        session = await self._todoist_session()
        inline = self._inline_assembler(store, session)
        learner = Learner(store.pool, POLICY, metrics, clock)
        await learner.refresh()
        recommender = self._recommender(store, locks, inline, learner, self._writer(store, locks, generator))
        new_users = NewUsers(store, recommender.prepare, metrics, clock)
        periods = Periods(settings.decision_days, settings.llm_call_days, settings.reaction_days)
        await self._repeat("preparing new users", new_users_interval_s, new_users.prepare_due)
        await self._repeat("loading the posterior", _REFRESH_INTERVAL_S, learner.refresh)
        await self._repeat(
            "marking ignored tips", _IGNORE_INTERVAL_S, partial(learner.ignore, settings.ignored_after)
        )
        await self._repeat(
            "deleting old rows", _RETENTION_INTERVAL_S, Retention(store.pool, periods, metrics, clock).sweep
        )
        if settings.events_mode != "off":
            watch = ChannelWatch(store.pool, metrics, clock)
            refresher = EventRefresher(store, locks, inline, metrics, clock, timeout_s=timeout_s)
            await self._repeat("watching events", _WATCH_INTERVAL_S, watch.check)
            await self._repeat("refreshing changed contexts", event_refresh_interval_s, refresher.refresh_due)
        event_lane = await self._event_lane()
        await self._repeat("reading queues", _METRICS_INTERVAL_S, metrics.update_watched)
        return build_app(
            recommender,
            learner,
            BearerAuth([token.get_secret_value() for token in settings.service_tokens]),
            metrics,
            await self._enter(Readiness.connected(self.url, POLICY)),
            self._connector(store, session),
            undelivered=store.deliveries.undelivered,
            limits=settings.gate_limits,
            connected_url=settings.todoist_connected_url,
            event_lane=event_lane,
        )

    async def _store(self) -> Store:
        store = await self._enter(
            open_store(
                self.url,
                self.metrics,
                n_connections=self.settings.database_connections,
                timeout_s=self.settings.request_budget,
                reaction_days=self.settings.reaction_days,
                believes_events=self.settings.events_mode != "off",
            )
        )
        await check_database(store.pool, self.cipher, store.report)
        self.metrics.ready.set(1)
        self.stack.push_async_callback(store.close, timeout_s=_LAST_MARKS_S / 2)
        await self._repeat("marking undelivered decisions", _MARK_INTERVAL_S, store.deliveries.flush)
        return store

    async def _todoist_session(self) -> TodoistSession:
        todoist = Todoist(
            self.settings.todoist_api_url,
            total_timeout=self.settings.todoist_timeout,
            attempt_timeout=self.settings.todoist_timeout,
            concurrency=_FETCH_CONCURRENCY,
            max_response_bytes=self.settings.inline_max_response,
            app=self.settings.oauth_app,
        )
        return await self._enter(todoist.session(self.metrics.todoist_calls.inc))

    def _inline_assembler(self, store: Store, session: TodoistSession) -> InlineAssembler:
        return InlineAssembler(
            store,
            session,
            self.cipher,
            Budget(self.settings.context_token_budget),
            self.metrics,
            timeout_s=self.settings.todoist_timeout,
            clock=self.clock,
        )

    def _generator(self) -> CandidateGenerator | None:
        """The LLM of the settings, if any; a process of its own ends with the stack. Raises SettingsError.

        Only a service with an LLM imports pydantic-ai, which takes two thirds of its start.
        """
        if self.settings.llm_model is None:
            return None
        from tips.generator import LLMGenerator
        from tips.gguf import opened_model
        from tips.models import LLMError
        from tips.prompt import MARK_LABEL

        try:
            return LLMGenerator(
                self.stack.enter_context(opened_model(self.settings.llm_model)),
                timeout_s=self.settings.llm_timeout,
                mark_secret=self.cipher.derived_secret(MARK_LABEL),
                output=self.settings.llm_output,
            )
        except LLMError as error:
            raise SettingsError(str(error)) from None

    def _writer(
        self, store: Store, locks: AdvisoryLocks, generator: CandidateGenerator | None
    ) -> CandidateWriter | None:
        if generator is None:
            return None
        self.stack.push_async_callback(self.writings.cancel)
        self.metrics.watch_queues({"writings": lambda: self.writings.n_running})
        return CandidateWriter(
            store,
            locks,
            generator,
            self.metrics,
            self.clock,
            uuid4,
            timeout_s=self.settings.llm_timeout,
            writings=self.writings,
            least_probability=least_probability(self.settings.tips_ahead_value) if self._writes_ahead else 0.0,
        )

    @property
    def _writes_ahead(self) -> bool:
        return self.settings.tips_ahead != "off"

    def _recommender(
        self,
        store: Store,
        locks: AdvisoryLocks,
        inline: InlineAssembler,
        learner: Learner,
        writer: CandidateWriter | None,
    ) -> Recommender:
        settings, clock, budget_s = self.settings, self.clock, self.settings.request_budget
        decider = Decider(store, learner, ThompsonPolicy(POLICY), new_id=uuid4, new_seed=_new_seed)
        ready_tips = ReadyTips(store, decider, clock, sla=settings.freshness_sla, budget_s=budget_s)
        self.metrics.watch_queues({"tips": lambda: ready_tips.n_waiting})
        self.stack.push_async_callback(ready_tips.close, timeout_s=_LAST_MARKS_S / 2)
        waits = LLMWaits(settings.llm_wait, settings.llm_first_wait)
        recommender = Recommender(
            store=store,
            ready_tips=ready_tips,
            locks=locks,
            inline=inline,
            candidate_source=CandidateSource(store, writer, waits, new_id=uuid4, writes_ahead=self._writes_ahead),
            decider=decider,
            timing=Timing(
                settings.freshness_sla, settings.revalidate_after, settings.max_context_age, budget_s=budget_s
            ),
            clock=clock,
        )
        self.stack.push_async_callback(recommender.close)
        return recommender

    async def _event_lane(self) -> Lane | None:
        """The part of the service that answers Todoist's webhooks; None without a secret to check them by."""
        if not (event_secrets := self.settings.event_secrets):
            return None
        events = await self._enter(open_event_store(self.url, self.clock))
        self.metrics.watch_queues({"events": lambda: events.n_waiting})
        receiver = EventReceiver(events, event_secrets, self.metrics, self.clock)
        return Lane(receiver, receiver.admit, self.settings.event_limits)

    def _connector(self, store: Store, session: TodoistSession) -> Connector:
        return Connector(
            self.settings.oauth_app,
            self.settings.authorize_url,
            StateSigner(self.cipher.derived_secret(STATE_LABEL)),
            session,
            store.pool,
            self.cipher,
            self.metrics,
            self.clock,
        )

    async def _enter(self, part: AbstractAsyncContextManager[_T]) -> _T:
        return await self.stack.enter_async_context(part)

    async def _repeat(self, name: str, interval_s: float, work: Callable[[], Awaitable[object]]) -> None:
        await self._enter(run_periodically(name, interval_s, work))


def _new_seed() -> int:
    return secrets.randbits(63)
