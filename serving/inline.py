"""A context assembled during the request: one call of Todoist, the night's assembler, written through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from contexts.accounts import Account
from contexts.assemble import Budget, assemble
from contexts.fetch import Failed, fetch_one
from contexts.mirror import Directory, open_tasks
from contexts.model import Groups, Signals
from contexts.store import StoredContext
from contexts.todoist import (
    Credentials,
    RequestRefused,
    TodoistError,
    TodoistSession,
    TodoistUnavailable,
    TokenRefused,
)
from contexts.vault import Vault, VaultError
from serving.metrics import Metrics
from serving.store import Store

log = logging.getLogger(__name__)

_FAILURES = 5
_OPEN_SECONDS = 30.0
_LONGEST_REST = 900.0


class NotAssembled(Exception):
    """No fresh context could be made; the message says why, by id and without a text."""


class Inline:
    """Assembles contexts during requests."""

    def __init__(
        self,
        store: Store,
        session: TodoistSession,
        vault: Vault,
        budget: Budget,
        metrics: Metrics,
        *,
        seconds: float,
        clock: Callable[[], datetime],
    ) -> None:
        """seconds: that one assembly may take."""
        self._store = store
        self._session = session
        self._vault = vault
        self._budget = budget
        self._metrics = metrics
        self._seconds = seconds
        self._clock = clock
        self._rests: dict[str, datetime] = {}
        self._breakers = AsyncCircuitBreakerFactory(
            default_threshold=_FAILURES,
            default_ttl=_OPEN_SECONDS,
            # What concerns one account says nothing of Todoist: a refused token, that account's own limit.
            exclude=[TokenRefused, RequestRefused, (TodoistUnavailable, lambda error: error.retry_after is not None)],
        )

    async def assemble(self, user_id: str) -> None:
        """Store the user's context as of now, unless a newer one came; NotAssembled when it cannot be had in time."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._assemble(user_id)
        except (TodoistError, VaultError, OpenedState, TimeoutError) as error:
            why = str(error) or type(error).__name__
            log.warning("user %s: not assembled, %s", user_id, why)
            self._metrics.inline.labels("failed").inc()
            raise NotAssembled(why) from None
        self._metrics.inline.labels("assembled").inc()

    async def _assemble(self, user_id: str) -> None:
        now = self._clock()
        signals, themes = await self._signals(user_id, now)
        made = assemble(signals, now, self._budget)
        row = StoredContext(user_id, now, made.context_json, made.context_hash, made.valid_until, themes)
        await self._store.write_context(row, signals.timezone)

    async def _signals(self, user_id: str, now: datetime) -> tuple[Signals, str]:
        account = await self._account(user_id)
        if now < self._rests.get(user_id, now):
            raise NotAssembled("Todoist asked to wait, or refused the account")
        async with await self._breakers.get_breaker("todoist"):
            fetched = await fetch_one(self._session, account, None, self._renewed)
            if isinstance(fetched, Failed):
                self._rest(user_id, fetched.error, now)
                raise fetched.error
        self._rests.pop(user_id, None)
        themes = await self._store.themes(user_id)
        directory = fetched.mirror.directory
        return Signals(
            user_id=user_id,
            timezone=directory.timezone or account.timezone,
            language=directory.language or "en",
            tasks=open_tasks(fetched.mirror),
            groups=Groups.from_json(themes),
            reactions=await self._store.reactions(user_id, now),
        ), themes

    def _rest(self, user_id: str, error: TodoistError, now: datetime) -> None:
        """Leave the account alone for as long as Todoist asked for, or a while where it refuses it altogether."""
        if isinstance(error, TokenRefused | RequestRefused):
            self._rests[user_id] = now + timedelta(seconds=_LONGEST_REST)
        elif isinstance(error, TodoistUnavailable) and error.retry_after is not None:
            self._rests[user_id] = now + timedelta(seconds=min(error.retry_after, _LONGEST_REST))

    async def _account(self, user_id: str) -> Account:
        row = await self._store.account(user_id)
        if row is None:
            raise NotAssembled("the account is not connected")
        credentials = self._vault.unseal(user_id, row["credentials"])
        return Account(user_id, credentials, None, Directory(), row["timezone"])

    async def _renewed(self, user_id: str, credentials: Credentials) -> None:
        await self._store.save_credentials(user_id, self._vault.seal(user_id, credentials))
