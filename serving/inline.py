"""Contexts assembled during a request: one call to Todoist, the pipeline's assembler, written to the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from contexts.assembly.assemble import Assembled, Budget, assemble
from contexts.assembly.model import Reaction, Signals, TaskGroups
from contexts.assembly.store import StoredContext
from contexts.circuit import Circuit, CircuitOpen
from contexts.todoist.accounts import Account
from contexts.todoist.client import (
    TodoistError,
    TodoistSession,
    TodoistUnavailable,
    TokenRefused,
)
from contexts.todoist.credentials import CredentialCipher, Credentials, CredentialsError
from contexts.todoist.fetch import Failed, fetch_one, type_and_place
from contexts.todoist.mirror import Directory, Mirror, open_tasks
from serving.metrics import Metrics
from serving.pools import DATABASE_ERRORS
from serving.row_formats import Unreadable, read_groups
from serving.store import Store, UserState

log = logging.getLogger(__name__)

_MAX_COOLDOWN_S = 900.0
_MANY_TASKS = 100
"""The context of more tasks is assembled in a thread."""

_MAX_COOLDOWNS = _MAX_REFUSED = 10_000
"""The numbers of users whose cool-downs and refusals are remembered: those who never come back leave no entry."""

_T = TypeVar("_T")


class NotAssembled(Exception):
    """No fresh context could be assembled; the message says why, without any text of the user."""


class InlineAssembler:
    """Assembles contexts during requests, and leaves an account alone during its cool-down."""

    def __init__(
        self,
        store: Store,
        session: TodoistSession,
        cipher: CredentialCipher,
        budget: Budget,
        metrics: Metrics,
        *,
        timeout_s: float,
        clock: Callable[[], datetime],
    ) -> None:
        """timeout_s: upper bound for the calls of Todoist in one assembly."""
        self._store = store
        self._session = session
        self._cipher = cipher
        self._budget = budget
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._clock = clock
        # Each user's connection number and end of the cool-down.
        self._cooldowns: dict[str, tuple[int, datetime]] = {}
        self._refused: dict[str, int] = {}  # the connection numbers of users whose last answer was a refused token
        self._circuit = Circuit(_is_down)

    def is_refused(self, user: UserState) -> bool:
        """Whether Todoist refused the account's token when it was last asked, here or in the last run."""
        return user.is_refused or self._refused.get(user.user_id) == user.connection_number

    async def assemble(self, user_id: str) -> None:
        """Store the user's context as of now, unless a newer one is stored, or the account is replaced, meanwhile.

        Raises NotAssembled if that fails or takes too long.
        """
        try:
            await self._assemble(user_id)
        except (TodoistError, CredentialsError, CircuitOpen, TimeoutError) as error:
            raise self._not_assembled(user_id, str(error) or type(error).__name__) from None
        except (NotAssembled, *DATABASE_ERRORS):
            raise
        except Exception as error:  # the odd data of one user fail alone; a message can hold the user's texts
            raise self._not_assembled(user_id, type_and_place(error)) from None
        self._metrics.inline.labels("assembled").inc()

    def _not_assembled(self, user_id: str, reason: str) -> NotAssembled:
        log.warning("user %s: context not assembled, %s", user_id, reason)
        self._metrics.inline.labels("failed").inc()
        return NotAssembled(reason)

    async def _assemble(self, user_id: str) -> None:
        now, account = self._clock(), await self._account(user_id)
        mirror = await self._fetch(account, now)
        groups, reactions = await self._groups(account), await self._store.read_reactions(user_id, now)

        def make() -> tuple[StoredContext, str]:
            signals = _signals(account, mirror, groups, reactions)
            return _row(signals, assemble(signals, now, self._budget), now), signals.timezone

        is_large = len(mirror.tasks) > _MANY_TASKS
        row, timezone = await (self._session.beside_the_loop(make) if is_large else _at_once(make))
        owner = mirror.directory.todoist_user_id
        if owner and owner != account.directory.todoist_user_id:
            await self._store.save_owner(account, owner)
        if timezone != account.timezone:
            await self._store.save_timezone(account, timezone)
        await self._store.write_context(row, account)

    async def _fetch(self, account: Account, now: datetime) -> Mirror:
        user_id, number = account.user_id, account.connection_number
        cooling, until = self._cooldowns.get(user_id, (number, now))
        if cooling == number and now < until:
            raise NotAssembled("the account is cooling down: Todoist asked to wait, refused it or is unreadable")
        with self._circuit.call(user_id):
            async with asyncio.timeout(self._timeout_s):
                fetched = await fetch_one(self._session, account, None, self._save_renewed)
            if isinstance(fetched, Failed):
                self._cool_down(account, fetched.error, now)
                raise fetched.error
        self._cooldowns.pop(user_id, None)
        self._refused.pop(user_id, None)
        return fetched.mirror

    async def _groups(self, account: Account) -> TaskGroups:
        """The stored task groups; none if they cannot be read, until the next run of the pipeline writes them."""
        try:
            return read_groups(account.user_id, await self._store.read_groups(account))
        except Unreadable as error:
            self._store.report(error)
            return TaskGroups()

    def _cool_down(self, account: Account, error: TodoistError, now: datetime) -> None:
        """Start a cool-down: as long as Todoist asked for, at most `_MAX_COOLDOWN_S`.

        If it refuses the account, or its response cannot be read, the cool-down is the maximum.
        """
        if isinstance(error, TokenRefused):
            if len(self._refused) >= _MAX_REFUSED:
                del self._refused[next(iter(self._refused))]  # the pipeline's next run stores the refusal too
            self._refused[account.user_id] = account.connection_number
        seconds = _MAX_COOLDOWN_S
        if isinstance(error, TodoistUnavailable):
            if error.retry_after is None:
                return
            seconds = min(error.retry_after, _MAX_COOLDOWN_S)
        if len(self._cooldowns) >= _MAX_COOLDOWNS:
            self._drop_cooldowns(now)
        self._cooldowns[account.user_id] = account.connection_number, now + timedelta(seconds=seconds)

    def _drop_cooldowns(self, now: datetime) -> None:
        """Drop the cool-downs that are over, or, if none is, the oldest one."""
        self._cooldowns = {key: (number, until) for key, (number, until) in self._cooldowns.items() if now < until}
        if len(self._cooldowns) >= _MAX_COOLDOWNS:
            del self._cooldowns[next(iter(self._cooldowns))]

    async def _account(self, user_id: str) -> Account:
        row = await self._store.read_account(user_id)
        if row is None:
            raise NotAssembled("the user is inactive, or the account is not connected")
        credentials = self._cipher.unseal(user_id, row["credentials"])
        directory = Directory(todoist_user_id=row["todoist_user_id"])
        return Account(user_id, row["connection_number"], credentials, None, directory, row["timezone"])

    async def _save_renewed(self, account: Account, credentials: Credentials) -> None:
        await self._store.save_credentials(account, self._cipher.seal(account.user_id, credentials))


async def _at_once(make: Callable[[], _T]) -> _T:
    return make()


def _signals(account: Account, mirror: Mirror, groups: TaskGroups, reactions: tuple[Reaction, ...]) -> Signals:
    directory = mirror.directory
    return Signals(
        user_id=account.user_id,
        timezone=directory.timezone or account.timezone,
        language=directory.language or "en",
        tasks=open_tasks(mirror),
        groups=groups,
        reactions=reactions,
    )


def _row(signals: Signals, assembled: Assembled, now: datetime) -> StoredContext:
    return StoredContext(
        signals.user_id,
        now,
        assembled.context_json,
        assembled.context_hash,
        assembled.valid_until,
        signals.groups.to_json(),
    )


def _is_down(error: Exception) -> bool | None:
    """Whether an error of a fetch means that Todoist is down; None if Todoist asks to wait, or it is not its error.

    A refusal or an unreadable account says nothing about Todoist as a whole.
    """
    if isinstance(error, TodoistUnavailable):
        return True if error.retry_after is None else None
    if isinstance(error, TimeoutError):
        return True
    return False if isinstance(error, TodoistError) else None
