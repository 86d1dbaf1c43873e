"""Contexts refreshed because of an event: before a request that will probably come within minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from contexts.postgres.sql import queries
from serving.background import run_together
from serving.batcher import Overloaded
from serving.inline import InlineAssembler, NotAssembled
from serving.metrics import Metrics
from serving.single_flight import AdvisoryLocks
from serving.store import Store

_SQL = queries("events", "asyncpg")

_HORIZON = timedelta(minutes=15)
_THRESHOLD = 0.8
"""The least probability of a request within the horizon. At one half, a simulated week had a refresh for every eighth
request, and one more call for many of them, because events of a refreshed user wait for the next call."""

_QUIET = timedelta(seconds=10)
"""Time without an event of the user after which a refresh begins: changes often come several at once."""

_MAX_WAIT = timedelta(minutes=1)
"""Time after which a refresh begins although events go on."""

_MIN_AGE = timedelta(minutes=15)
"""A younger context is not refreshed: Todoist allows 100 full calls in this time, for all tools of the user."""

_PAGE_USERS = 200
"""Number of users with events that one call reads; the next call continues after the last of them."""

_MAX_AT_ONCE = 4
_RETRY_AFTER = timedelta(minutes=5)


class EventRefresher:
    """Finds users who will probably ask soon and whose context lacks an event, and refreshes the context.

    Each refresh is a full call, because the service has no stored tasks that an incremental one could continue.
    Several processes can do so at the same time: a refresh holds the lock of any other refresh of the account's
    context, and finds the work done.
    """

    def __init__(
        self,
        store: Store,
        locks: AdvisoryLocks,
        inline: InlineAssembler,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        timeout_s: float,
    ) -> None:
        """timeout_s: upper bound for one refresh, the wait for its lock included."""
        self._store = store
        self._locks = locks
        self._inline = inline
        self._metrics = metrics
        self._clock = clock
        self._timeout_s = timeout_s
        self._after = ""  # the last user that the present round has read
        self._retry_at: dict[int, datetime] = {}  # by connection number

    async def refresh_due(self) -> None:
        """Refresh the contexts that are due among the next users with events, `_MAX_AT_ONCE` at once.

        Raises the errors of asyncpg.
        """
        now = self._clock()
        self._retry_at = {number: at for number, at in self._retry_at.items() if now < at}
        rows = await self._read(now, self._after)
        self._after = rows[-1]["user_id"] if len(rows) == _PAGE_USERS else ""
        due = {row["user_id"]: row["connection_number"] for row in rows if row["is_due"]}
        places = asyncio.Semaphore(_MAX_AT_ONCE)

        async def refresh(user_id: str, number: int) -> None:
            async with places:
                await self._refresh(user_id, number)

        refreshes = [refresh(*user) for user in due.items() if user[1] not in self._retry_at]
        await run_together(refreshes)

    async def _refresh(self, user_id: str, connection_number: int) -> None:
        """Refresh one context, unless it is not due any more; a failed refresh is tried again after a while."""
        try:
            self._store.check_load()
            async with asyncio.timeout(self._timeout_s), self._locks.hold(f"refresh {user_id} {connection_number}"):
                is_due = any(row["is_due"] for row in await self._read(self._clock(), "", user_id))
                if is_due:
                    await self._inline.assemble(user_id)
        except Overloaded:  # requests come first; a later call finds the user again
            return
        except (NotAssembled, TimeoutError):
            self._retry_at[connection_number] = self._clock() + _RETRY_AFTER
            outcome = "failed"
        else:
            outcome = "refreshed" if is_due else "superseded"
        self._metrics.event_refreshes.labels(outcome).inc()

    async def _read(self, now: datetime, after: str, only_user: str | None = None) -> list[Any]:
        rows = _SQL.users_to_refresh(
            self._store.pool,
            after=after,
            only_user=only_user,
            max_users=_PAGE_USERS,
            now=now,
            until=now + _HORIZON,
            threshold=_THRESHOLD,
            quiet_since=now - _QUIET,
            waiting_since=now - _MAX_WAIT,
            fetched_before=now - _MIN_AGE,
        )
        return [row async for row in rows]
