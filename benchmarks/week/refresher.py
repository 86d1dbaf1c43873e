"""The service's refreshes because of events, at simulated instants instead of every ten real seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from benchmarks.week.service import ServiceConnections, service_settings
from benchmarks.week.timeline import SimulatedClock
from contexts.assembly.assemble import Budget
from contexts.todoist.client import Todoist
from contexts.todoist.credentials import CredentialCipher
from serving.event_refresh import EventRefresher
from serving.inline import InlineAssembler
from serving.metrics import Metrics
from serving.single_flight import AdvisoryLocks
from serving.store import open_store


@dataclass(frozen=True)
class Refresher:
    """The refreshes because of events."""

    _refresher: EventRefresher
    _calls: list[None]

    @property
    def n_calls(self) -> int:
        """The number of its calls to Todoist so far."""
        return len(self._calls)

    async def refresh_due(self) -> None:
        """Refresh the contexts that are due now."""
        await self._refresher.refresh_due()


@asynccontextmanager
async def running_refresher(connections: ServiceConnections, clock: SimulatedClock) -> AsyncIterator[Refresher]:
    """The part of a second service process that refreshes contexts, with its own connections."""
    settings, metrics = service_settings(connections), Metrics()
    timeout_s = settings.request_budget
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(connections.database_url, metrics, n_connections=2, timeout_s=timeout_s)
        )
        locks = await stack.enter_async_context(
            AdvisoryLocks.connected(connections.database_url, timeout_s=timeout_s)
        )
        calls = list[None]()
        session = await stack.enter_async_context(
            Todoist(connections.todoist_url).session(lambda: calls.append(None))
        )
        inline = InlineAssembler(
            store,
            session,
            CredentialCipher([connections.key]),
            Budget(settings.context_token_budget),
            metrics,
            timeout_s=settings.todoist_timeout,
            clock=clock.now,
        )
        yield Refresher(EventRefresher(store, locks, inline, metrics, clock.now, timeout_s=timeout_s), calls)
