"""Bring many users' mirrors up to date: one `/sync` call each, whatever goes wrong with some of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from contexts.accounts import Account, Progress
from contexts.mirror import Mirror, fold
from contexts.todoist import Credentials, SyncAnswer, Todoist, TodoistError, TodoistSession, TokenRefused

log = logging.getLogger(__name__)

Renewed = Callable[[str, Credentials], Awaitable[None]]
"""Stores a user's renewed credentials before they are used."""


@dataclass(frozen=True)
class Fetched:
    """One user's mirror after a good fetch. n_skipped: items that could not be read."""

    account: Account
    mirror: Mirror
    progress: Progress
    n_full: int
    n_incremental: int
    n_skipped: int


@dataclass(frozen=True)
class Failed:
    """A user whose fetch failed: what is stored stays as it is."""

    account: Account
    error: TodoistError


def fetch(
    todoist: Todoist,
    accounts: Iterable[Account],
    tasks: Mapping[str, Mirror],
    renewed: Callable[[str, Credentials], None],
) -> list[Fetched | Failed]:
    """Fetch every account, some at a time. tasks: the mirrors stored so far; a user without one is asked in full."""

    async def store(user_id: str, credentials: Credentials) -> None:
        renewed(user_id, credentials)

    return asyncio.run(_fetch_all(todoist, list(accounts), tasks, store))


async def _fetch_all(
    todoist: Todoist, accounts: list[Account], tasks: Mapping[str, Mirror], renewed: Renewed
) -> list[Fetched | Failed]:
    gate = asyncio.Semaphore(todoist.concurrency)
    async with todoist.session() as session:

        async def one(account: Account) -> Fetched | Failed:
            async with gate:
                return await fetch_one(session, account, tasks.get(account.user_id), renewed)

        return await asyncio.gather(*map(one, accounts))


async def fetch_one(
    session: TodoistSession, account: Account, stored: Mirror | None, renewed: Renewed
) -> Fetched | Failed:
    """Fetch one account: what changed since the mirror `stored`, or everything without one."""
    known = account if stored is not None else replace(account, sync_token=None)
    try:
        answer = await _sync(session, known, renewed)
    except TodoistError as error:
        log.warning("user %s: not fetched, %s: %s", account.user_id, type(error).__name__, error)
        return Failed(account, error)
    folded = fold(Mirror(known.directory, stored.tasks if stored else {}), answer.document)
    for item_id, why in folded.skipped:
        log.warning("user %s: item %s skipped, its '%s' cannot be read", account.user_id, item_id, why)
    given = answer.document.get("sync_token")
    token = given if isinstance(given, str) and given and given.isprintable() else known.sync_token
    return Fetched(
        account=account,
        mirror=folded.mirror,
        progress=Progress(account.user_id, None if folded.needs_full else token, folded.mirror.directory),
        n_full=answer.n_full,
        n_incremental=answer.n_incremental,
        n_skipped=len(folded.skipped),
    )


async def _sync(session: TodoistSession, account: Account, renewed: Renewed) -> SyncAnswer:
    try:
        return await session.sync(account.credentials.access_token, account.sync_token)
    except TokenRefused:
        fresh = await asyncio.shield(_renew(session, account, renewed))
        return await session.sync(fresh.access_token, account.sync_token)


async def _renew(session: TodoistSession, account: Account, renewed: Renewed) -> Credentials:
    """New credentials, stored. Goes on when nobody waits for it any more: the old refresh token is used up by it."""
    fresh = await session.renew(account.credentials)
    await renewed(account.user_id, fresh)
    return fresh
