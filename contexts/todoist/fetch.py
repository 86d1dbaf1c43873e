"""Concurrent fetches of many users' mirrors, with one `/sync` call per user; a failure affects only its own user."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from contexts.todoist.accounts import Account, SyncState
from contexts.todoist.client import SyncResponse, Todoist, TodoistError, TodoistSession, TokenRefused
from contexts.todoist.credentials import Credentials
from contexts.todoist.mirror import Mirror, fold

log = logging.getLogger(__name__)

SaveCredentials = Callable[[str, Credentials], Awaitable[None]]
"""Stores a user's renewed credentials before their first use."""


@dataclass(frozen=True)
class Fetched:
    """One user's mirror after a successful fetch.

    n_full, n_incremental: number of calls.
    n_skipped: number of invalid items.
    """

    account: Account
    mirror: Mirror
    sync_state: SyncState
    n_full: int
    n_incremental: int
    n_skipped: int


@dataclass(frozen=True)
class Failed:
    """A user's failed fetch; the stored mirror stays as it is."""

    account: Account
    error: TodoistError


def fetch(
    todoist: Todoist,
    accounts: Iterable[Account],
    mirrors: Mapping[str, Mirror],
    save_credentials: Callable[[str, Credentials], None],
) -> list[Fetched | Failed]:
    """Fetch every account, `todoist.concurrency` at a time.

    mirrors: the stored mirrors by user; a user without one gets a full sync.
    save_credentials: stores a user's renewed credentials before their first use.
    """

    async def save(user_id: str, credentials: Credentials) -> None:
        save_credentials(user_id, credentials)

    return asyncio.run(_fetch_all(todoist, list(accounts), mirrors, save))


async def _fetch_all(
    todoist: Todoist, accounts: list[Account], mirrors: Mapping[str, Mirror], save_credentials: SaveCredentials
) -> list[Fetched | Failed]:
    semaphore = asyncio.Semaphore(todoist.concurrency)
    async with todoist.session() as session:

        async def fetch_account(account: Account) -> Fetched | Failed:
            async with semaphore:
                return await fetch_one(session, account, mirrors.get(account.user_id), save_credentials)

        return await asyncio.gather(*map(fetch_account, accounts))


async def fetch_one(
    session: TodoistSession, account: Account, stored_mirror: Mirror | None, save_credentials: SaveCredentials
) -> Fetched | Failed:
    """Fetch one account: the changes since `stored_mirror`, or all data if it is None."""
    sync_token = account.sync_token if stored_mirror is not None else None
    try:
        answer = await _sync(session, account, sync_token, save_credentials)
    except TodoistError as error:
        log.warning("user %s: not fetched, %s: %s", account.user_id, type(error).__name__, error)
        return Failed(account, error)
    stored_tasks = stored_mirror.tasks if stored_mirror is not None else {}
    folded = fold(Mirror(account.directory, stored_tasks), answer.document)
    for item_id, field in folded.skipped:
        log.warning("user %s: item %s skipped, its '%s' cannot be read", account.user_id, item_id, field)
    new_token = answer.document.get("sync_token")
    if isinstance(new_token, str) and new_token and new_token.isprintable():
        sync_token = new_token
    return Fetched(
        account=account,
        mirror=folded.mirror,
        sync_state=SyncState(account.user_id, None if folded.needs_full else sync_token, folded.mirror.directory),
        n_full=answer.n_full,
        n_incremental=answer.n_incremental,
        n_skipped=len(folded.skipped),
    )


async def _sync(
    session: TodoistSession, account: Account, sync_token: str | None, save_credentials: SaveCredentials
) -> SyncResponse:
    """Sync with the account's access token, or with a renewed one if Todoist refuses it."""
    try:
        return await session.sync(account.credentials.access_token, sync_token)
    except TokenRefused:
        # Shielded from cancellation: a renewal invalidates the old refresh token, so its result must be stored.
        credentials = await asyncio.shield(_renew(session, account, save_credentials))
        return await session.sync(credentials.access_token, sync_token)


async def _renew(session: TodoistSession, account: Account, save_credentials: SaveCredentials) -> Credentials:
    credentials = await session.renew(account.credentials)
    await save_credentials(account.user_id, credentials)
    return credentials
