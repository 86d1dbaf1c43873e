"""New users: their context is assembled and their first candidates are made before their first request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from serving.background import run_together
from serving.batcher import Overloaded
from serving.metrics import Metrics
from serving.recommend import UnknownUser
from serving.store import Store

_MAX_ACCOUNTS = 500
"""Number of accounts that each call reads, the newest first. After a larger import, others wait for the pipeline."""

_MAX_AT_ONCE = 4
_MAX_TRIES = 3
_RETRY_AFTER = timedelta(minutes=5)


@dataclass(frozen=True)
class _Tries:
    """The preparations of an account that failed in this process, and the time of the next one."""

    n: int
    next_at: datetime


class NewUsers:
    """Finds accounts without a context, and has each prepared, the newest first.

    Several processes can do so at the same time: a preparation holds the lock of a request for the same user, and
    finds the work done.
    """

    def __init__(
        self,
        store: Store,
        prepare: Callable[[str], Awaitable[bool]],
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """prepare: makes a user's context and candidates; returns whether there is a context then."""
        self._store = store
        self._prepare = prepare
        self._metrics = metrics
        self._clock = clock
        self._tries: dict[int, _Tries] = {}  # by connection number

    async def prepare_due(self) -> None:
        """Prepare at most `_MAX_AT_ONCE` new users; a later call prepares others. Raises the errors of asyncpg."""
        accounts, now = await self._store.read_new_accounts(_MAX_ACCOUNTS), self._clock()
        numbers = set(accounts.values())
        self._tries = {number: tries for number, tries in self._tries.items() if number in numbers}
        due = [user_id for user_id, number in accounts.items() if self._is_due(number, now)]
        await run_together(self._try(user_id, accounts[user_id], now) for user_id in due[:_MAX_AT_ONCE])

    def _is_due(self, number: int, now: datetime) -> bool:
        tries = self._tries.get(number)
        return tries is None or (tries.n < _MAX_TRIES and tries.next_at <= now)

    async def _try(self, user_id: str, number: int, now: datetime) -> None:
        try:
            is_prepared = await self._prepare(user_id)
        except UnknownUser:  # removed meanwhile
            return
        except Overloaded:  # requests come first; the next call tries again
            return
        self._metrics.users_prepared.labels("prepared" if is_prepared else "failed").inc()
        if not is_prepared:
            tries = self._tries.get(number, _Tries(0, now))
            self._tries[number] = _Tries(tries.n + 1, now + _RETRY_AFTER)
