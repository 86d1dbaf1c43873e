"""Concurrent fetches of many users' mirrors, with one `/sync` call per user; a failure affects only its own user."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from traceback import extract_tb
from typing import Any, TypeVar

from contexts.todoist.accounts import Account, SyncState
from contexts.todoist.client import (
    ResponseUnreadable,
    SyncCalls,
    Todoist,
    TodoistError,
    TodoistSession,
    TokenRefused,
)
from contexts.todoist.credentials import Credentials
from contexts.todoist.mirror import Folded, Mirror, fold

log = logging.getLogger(__name__)

_T = TypeVar("_T")

SaveCredentials = Callable[[Account, Credentials], Awaitable[None]]
"""Stores an account's renewed credentials before their first use."""


@dataclass(frozen=True)
class Fetched:
    """One user's mirror after a successful fetch.

    n_full, n_incremental: number of calls.
    n_skipped: number of invalid items.
    has_unread_zone: whether the time zone in the response cannot be read.
    changed_at: see `Folded`.
    """

    account: Account
    mirror: Mirror
    sync_state: SyncState
    n_full: int
    n_incremental: int
    n_skipped: int
    has_unread_zone: bool
    changed_at: Mapping[tuple[str, str], datetime] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """A user's failed fetch; the stored mirror stays as it is. n_full, n_incremental: number of calls."""

    account: Account
    error: TodoistError
    n_full: int
    n_incremental: int


def fetch(
    todoist: Todoist,
    accounts: Iterable[Account],
    mirrors: Mapping[str, Mirror],
    save_credentials: Callable[[Account, Credentials], None],
) -> list[Fetched | Failed]:
    """Fetch every account, `todoist.concurrency` at a time.

    mirrors: the stored mirrors by user; a user without one gets a full sync.
    save_credentials: stores an account's renewed credentials before their first use. If it raises, the exception is
    raised again when all users are done, because a renewal that is broken off would lose the tokens of its user.
    """

    async def save(account: Account, credentials: Credentials) -> None:
        save_credentials(account, credentials)

    return asyncio.run(_fetch_all(todoist, list(accounts), mirrors, save))


async def _fetch_all(
    todoist: Todoist, accounts: list[Account], mirrors: Mapping[str, Mirror], save_credentials: SaveCredentials
) -> list[Fetched | Failed]:
    semaphore = asyncio.Semaphore(todoist.concurrency)
    async with todoist.session() as session:

        async def fetch_account(account: Account) -> Fetched | Failed:
            async with semaphore:
                return await fetch_one(session, account, mirrors.get(account.user_id), save_credentials)

        outcomes = await asyncio.gather(*map(fetch_account, accounts), return_exceptions=True)
    return [_raise_if_exception(outcome) for outcome in outcomes]


def _raise_if_exception(outcome: Fetched | Failed | BaseException) -> Fetched | Failed:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


async def fetch_one(
    session: TodoistSession, account: Account, stored_mirror: Mirror | None, save_credentials: SaveCredentials
) -> Fetched | Failed:
    """Fetch one account: the changes since `stored_mirror`, or all data if it is None."""
    sync_token, calls = (account.sync_token if stored_mirror is not None else None), SyncCalls()
    stored = Mirror(account.directory, stored_mirror.tasks if stored_mirror is not None else {})

    def read(document: Mapping[str, Any]) -> tuple[Folded, object]:
        return fold(stored, document), document.get("sync_token")

    try:
        folded, new_token = await _sync(session, account, sync_token, read, save_credentials, calls)
    except TodoistError as error:
        log.warning("user %s: not fetched, %s: %s", account.user_id, type(error).__name__, error)
        return Failed(account, error, calls.n_full, calls.n_incremental)
    for item_id, name in folded.skipped:
        log.warning("user %s: item %s skipped, its '%s' cannot be read", account.user_id, item_id, name)
    if folded.unread_zone is not None:
        log.warning("user %s: unreadable time zone %r, kept the previous one", account.user_id, folded.unread_zone)
    if isinstance(new_token, str) and new_token and new_token.isprintable():
        sync_token = new_token
    return Fetched(
        account=account,
        mirror=folded.mirror,
        sync_state=SyncState(
            account.user_id,
            account.connection_number,
            None if folded.needs_full else sync_token,
            folded.mirror.directory,
        ),
        n_full=calls.n_full,
        n_incremental=calls.n_incremental,
        n_skipped=len(folded.skipped),
        has_unread_zone=folded.unread_zone is not None,
        changed_at=folded.changed_at,
    )


async def _sync(
    session: TodoistSession,
    account: Account,
    sync_token: str | None,
    read: Callable[[Mapping[str, Any]], _T],
    save_credentials: SaveCredentials,
    calls: SyncCalls,
) -> _T:
    """Sync with the account's access token, or with a renewed one if Todoist refuses it."""
    try:
        with _failing_alone():
            return await session.sync_and_read(account.credentials.access_token, sync_token, read, calls)
    except TokenRefused:
        # Shielded from cancellation: a renewal invalidates the old refresh token, so its result must be stored.
        credentials = await asyncio.shield(_renew(session, account, save_credentials))
        with _failing_alone():
            return await session.sync_and_read(credentials.access_token, sync_token, read, calls)


async def _renew(session: TodoistSession, account: Account, save_credentials: SaveCredentials) -> Credentials:
    with _failing_alone():
        credentials = await session.renew(account.credentials)
    await save_credentials(account, credentials)
    return credentials


@contextmanager
def _failing_alone() -> Iterator[None]:
    """Turn any unforeseen exception about one user's response into ResponseUnreadable, an error of this user alone.

    The error names the exception's type and place, and not its message, which can hold the user's texts.
    """
    try:
        yield
    except TodoistError:
        raise
    except Exception as error:
        raise ResponseUnreadable(f"the response cannot be read ({type_and_place(error)})") from None


def type_and_place(error: Exception) -> str:
    """Return the type of an exception and the function and line that raised it, without the message."""
    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.name}, line {place.lineno}"
