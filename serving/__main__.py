"""`python -m serving`: the composition root, the only module that names every concrete part of the service."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

import uvloop

from contexts.assembly.assemble import Budget
from contexts.settings import (
    CredentialSettings,
    DatabaseSettings,
    SettingsError,
    check_settings,
    misspelt_names,
    read_settings,
)
from contexts.todoist.client import Todoist
from contexts.todoist.credentials import CredentialCipher, CredentialsError
from serving.access_log import log_lines_alone
from serving.app import build_app
from serving.auth import BearerAuth
from serving.background import run_periodically
from serving.candidate_source import CandidateSource, LLMWaits
from serving.candidate_writer import CandidateWriter, Writings
from serving.channel import ChannelWatch
from serving.connect import Connector
from serving.connect_state import STATE_LABEL, StateSigner
from serving.connections import ConnectionTable
from serving.decide import Decider
from serving.event_refresh import EventRefresher
from serving.event_store import open_event_store
from serving.events import EventReceiver
from serving.gate import Gate, Lane
from serving.inline import InlineAssembler
from serving.learn import Learner
from serving.membership import Membership
from serving.metrics import Metrics, share_metrics
from serving.metrics_folder import metrics_folder
from serving.new_users import NewUsers
from serving.pools import DATABASE_ERRORS
from serving.process_group import ProcessGroup, listening_socket
from serving.readiness import Readiness
from serving.ready_tips import ReadyTips
from serving.recommend import Recommender, Timing
from serving.retention import Periods, Retention
from serving.server import CLEANUP_S, LAST_RESORT_S, Server, allow_open_files, check_port
from serving.settings import ServingSettings
from serving.single_flight import AdvisoryLocks
from serving.startup import NotReady, check_database
from serving.store import open_store
from tips.bandit import ThompsonPolicy
from tips.features import FEATURES_VERSION
from tips.generator import CandidateGenerator, LLMGenerator
from tips.gguf import opened_model
from tips.models import LLMError
from tips.prompt import MARK_LABEL
from tips.worth import least_probability

log = logging.getLogger(__name__)

POLICY = f"thompson-{FEATURES_VERSION}"

_FETCH_CONCURRENCY = 64
_SWITCH_INTERVAL_S = 0.0005
"""The event loop waits this long for the thread that reads a large account, a tenth of Python's default."""

_REFRESH_INTERVAL_S = 0.5
"""Time after which a process decides by what another one has learned."""

_IGNORE_INTERVAL_S = 300.0
_RETENTION_INTERVAL_S = 600.0
_MARK_INTERVAL_S = 1.0
_LOOK_INTERVAL_S = 3.0
_WATCH_INTERVAL_S = 60.0
_EVENT_LOOK_INTERVAL_S = 10.0
_METRICS_INTERVAL_S = 1.0
_LAST_MARKS_S = (CLEANUP_S - LAST_RESORT_S) / 2
"""Time for the last marks; the server's shutdown can use a part of its cleanup time for requests that it cancels."""


def utc_now() -> datetime:
    """The current time, aware UTC."""
    return datetime.now(UTC)


def main(arguments: Sequence[str] = ()) -> int:
    """Serve until a signal ends the process; 1, with a sentence on stderr, if the service cannot start.

    arguments: those of a process that a group has started, see `Membership`.
    """
    if {"--help", "-h"} & set(arguments):
        print("python -m serving: serve tips over HTTP, without options: docs/settings.md has the settings")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log_lines_alone()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    for sentence in misspelt_names(os.environ, ServingSettings):
        log.warning(sentence)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: connections are closed
    try:
        check_settings(ServingSettings, DatabaseSettings, CredentialSettings)
        settings, url = read_settings(ServingSettings), read_settings(DatabaseSettings).database_url
        cipher = CredentialCipher(read_settings(CredentialSettings).keys)
        member = Membership.from_arguments(arguments)
        if member is None and settings.serving_workers > 1:
            return _serve_in_group(settings)
        uvloop.run(_serve(settings, url, cipher, member))
    except (SettingsError, LLMError, CredentialsError, NotReady) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except DATABASE_ERRORS as error:
        reason = str(error) or type(error).__name__
        sys.stderr.write(f"DATABASE_URL: Postgres cannot be reached, or refuses the service: {reason}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _serve_in_group(settings: ServingSettings) -> int:
    """Serve with several processes until a signal ends them; returns the exit status."""
    address = listening_socket(settings.serving_host, settings.serving_port)
    with metrics_folder() as folder, address as listener:
        command = [sys.executable, "-m", "serving"]
        return ProcessGroup(
            settings.serving_workers, command, listener, folder, grace_period_s=settings.grace_period
        ).run()


async def _serve(settings: ServingSettings, url: str, cipher: CredentialCipher, member: Membership | None) -> None:
    """Serve in this process. member: its place in a group of processes, if it has one."""
    allow_open_files(settings.max_connections + settings.database_connections)
    if member is None:  # otherwise the group listens there already
        await check_port(settings.serving_host, settings.serving_port)
    else:
        share_metrics(member.metrics_folder, member.slot)
    writings = Writings(max_started=settings.llm_concurrency)
    async with open_app(settings, url, cipher, writings=writings) as app:
        table = ConnectionTable(settings.connection_limits, app.metrics.refused_connection)
        app.metrics.watch_connections(lambda: len(table), settings.max_connections)
        server = Server(
            app,
            table,
            settings.shutdown,
            host=settings.serving_host,
            port=settings.serving_port,
            n_background=lambda: writings.n_running,
            on_listening=member.announce if member else lambda: None,
        )
        if member is not None:
            member.follow(stop=server.stop, force=server.force, retire=server.retire)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        gc.freeze()  # these objects live as long as the process: garbage collections need not visit them
        await server.serve([member.listener] if member else None)


@asynccontextmanager
async def open_app(
    settings: ServingSettings,
    url: str,
    cipher: CredentialCipher,
    *,
    clock: Callable[[], datetime] = utc_now,
    writings: Writings | None = None,
    look_interval_s: float = _LOOK_INTERVAL_S,
    event_look_interval_s: float = _EVENT_LOOK_INTERVAL_S,
) -> AsyncIterator[Gate]:
    """The app over open connections, after the checks of `startup`.

    writings: of the LLM; those that are under way at the end are cancelled. look_interval_s: time between two looks
    for new users. event_look_interval_s: that between two looks for contexts to be refreshed because of an event.

    Raises NotReady, CredentialsError or LLMError; OSError or an error of asyncpg if Postgres cannot be reached.
    """
    writings = writings or Writings(max_started=settings.llm_concurrency)
    timeout_s, metrics = settings.request_budget, Metrics()
    async with AsyncExitStack() as stack:
        generator = _generator(settings, cipher, stack)
        store = await stack.enter_async_context(
            open_store(
                url,
                metrics,
                n_connections=settings.database_connections,
                timeout_s=timeout_s,
                reaction_days=settings.reaction_days,
                believes_events=settings.events_mode != "off",
            )
        )
        await check_database(store.pool, cipher, store.report)
        metrics.ready.set(1)
        stack.push_async_callback(store.close, timeout_s=_LAST_MARKS_S / 2)
        await stack.enter_async_context(
            run_periodically("marking undelivered decisions", _MARK_INTERVAL_S, store.deliveries.flush)
        )
        locks = await stack.enter_async_context(AdvisoryLocks.connected(url, timeout_s=timeout_s))
        todoist = Todoist(
            settings.todoist_api_url,
            total_timeout=settings.todoist_timeout,
            attempt_timeout=settings.todoist_timeout,
            concurrency=_FETCH_CONCURRENCY,
            max_response_bytes=settings.inline_max_response,
            app=settings.oauth_app,
        )
        session = await stack.enter_async_context(todoist.session(metrics.todoist_calls.inc))
        inline = InlineAssembler(
            store,
            session,
            cipher,
            Budget(settings.context_token_budget),
            metrics,
            timeout_s=settings.todoist_timeout,
            clock=clock,
        )
        learner = Learner(store.pool, POLICY, metrics, clock)
        await learner.refresh()
        writer, writes_ahead = None, settings.tips_ahead != "off"
        if generator is not None:
            writer = CandidateWriter(
                store,
                locks,
                generator,
                metrics,
                clock,
                uuid4,
                timeout_s=settings.llm_timeout,
                writings=writings,
                least_probability=least_probability(settings.tips_ahead_value) if writes_ahead else 0.0,
            )
            stack.push_async_callback(writings.cancel)
            metrics.watch_queues({"writings": lambda: writings.n_running})
        decider = Decider(store, learner, ThompsonPolicy(POLICY), new_id=uuid4, new_seed=_new_seed)
        ready_tips = ReadyTips(store, decider, clock, sla=settings.freshness_sla, budget_s=settings.request_budget)
        metrics.watch_queues({"tips": lambda: ready_tips.n_waiting})
        stack.push_async_callback(ready_tips.close, timeout_s=_LAST_MARKS_S / 2)
        recommender = Recommender(
            store=store,
            ready_tips=ready_tips,
            locks=locks,
            inline=inline,
            candidate_source=CandidateSource(
                store,
                writer,
                LLMWaits(settings.llm_wait, settings.llm_first_wait),
                new_id=uuid4,
                writes_ahead=writes_ahead,
            ),
            decider=decider,
            timing=Timing(
                settings.freshness_sla,
                settings.revalidate_after,
                settings.max_context_age,
                budget_s=settings.request_budget,
            ),
            clock=clock,
        )
        stack.push_async_callback(recommender.close)
        new_users = NewUsers(store, recommender.prepare, metrics, clock)
        await stack.enter_async_context(run_periodically("preparing new users", look_interval_s, new_users.look))
        await stack.enter_async_context(
            run_periodically("loading the posterior", _REFRESH_INTERVAL_S, learner.refresh)
        )
        await stack.enter_async_context(
            run_periodically(
                "marking ignored tips", _IGNORE_INTERVAL_S, lambda: learner.ignore(settings.ignored_after)
            )
        )
        periods = Periods(settings.decision_days, settings.llm_call_days, settings.reaction_days)
        retention = Retention(store.pool, periods, metrics, clock)
        await stack.enter_async_context(run_periodically("deleting old rows", _RETENTION_INTERVAL_S, retention.sweep))
        if settings.events_mode != "off":
            watch = ChannelWatch(store.pool, metrics, clock)
            await stack.enter_async_context(run_periodically("watching events", _WATCH_INTERVAL_S, watch.look))
            refresher = EventRefresher(store, locks, inline, metrics, clock, timeout_s=timeout_s)
            await stack.enter_async_context(
                run_periodically("refreshing changed contexts", event_look_interval_s, refresher.look)
            )
        event_lane = None
        if secrets := settings.event_secrets:
            events = await stack.enter_async_context(open_event_store(url, clock))
            receiver = EventReceiver(events, secrets, metrics, clock)
            event_lane = Lane(receiver, receiver.admit, settings.event_limits)
            metrics.watch_queues({"events": lambda: events.n_waiting})
        connector = Connector(
            settings.oauth_app,
            settings.authorize_url,
            StateSigner(cipher.derived_secret(STATE_LABEL)),
            session,
            store.pool,
            cipher,
            metrics,
            clock,
        )
        await stack.enter_async_context(run_periodically("looking at queues", _METRICS_INTERVAL_S, metrics.look))
        auth = BearerAuth([token.get_secret_value() for token in settings.service_tokens])
        readiness = await stack.enter_async_context(Readiness.connected(url, POLICY))
        limits, undelivered = settings.gate_limits, store.deliveries.undelivered
        yield build_app(
            recommender,
            learner,
            auth,
            metrics,
            readiness,
            undelivered,
            limits,
            connector,
            settings.todoist_connected_url,
            event_lane,
        )


def _generator(
    settings: ServingSettings, cipher: CredentialCipher, stack: AsyncExitStack
) -> CandidateGenerator | None:
    """The LLM of the settings, if any; a process of its own ends with the stack."""
    if settings.llm_model is None:
        return None
    return LLMGenerator(
        stack.enter_context(opened_model(settings.llm_model)),
        timeout_s=settings.llm_timeout,
        mark_secret=cipher.derived_secret(MARK_LABEL),
        output=settings.llm_output,
    )


def _new_seed() -> int:
    return secrets.randbits(63)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
