"""One user of the stand-in for Todoist: objects, sync tokens, limits and the faults to come."""

import string
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from random import Random
from typing import Any, Literal

from local.todoist.faults import Fault
from local.todoist.objects import Objects
from local.todoist.replies import invalid_argument
from local.todoist.requests import SyncRequest
from local.wire import RefusedError

WINDOW = timedelta(minutes=15)
TOKEN_CHARACTERS = string.ascii_letters + string.digits + "-_"


@dataclass(frozen=True)
class Limits:
    """Calls per user in any 15 minutes."""

    full: int
    incremental: int


class Account:
    """Tokens and faults are drawn per user: in what order different users call changes nothing."""

    def __init__(self, user: str, seed: int, limits: Limits) -> None:
        self.objects = Objects()
        self.faults: deque[Fault] = deque()
        self._sync_tokens: dict[str, int] = {}
        self._limits = limits
        self._admitted: dict[bool, deque[datetime]] = {True: deque(), False: deque()}
        self._tokens = Random(f"{seed}/sync tokens/{user}")
        self._chance = Random(f"{seed}/faults/{user}")

    def admit(self, full: bool, now: datetime) -> int:
        """Count a call and return 0, or return the seconds after which there is room for it."""
        calls = self._admitted[full]
        while calls and calls[0] <= now - WINDOW:
            calls.popleft()
        if len(calls) < (self._limits.full if full else self._limits.incremental):
            calls.append(now)
            return 0
        oldest = calls[0] if calls else now
        return ceil((oldest + WINDOW - now).total_seconds())

    def next_fault(self, rate: float, faults: Sequence[Fault]) -> Fault | None:
        """The next queued fault; without one, any of `faults` in a share `rate` of the calls."""
        if self.faults:
            return self.faults.popleft()
        return self._chance.choice(faults) if self._chance.random() < rate else None

    def answer(
        self,
        request: SyncRequest,
        now: datetime,
        *,
        dead_token: Literal["full", "refuse"],
        unasked_full: bool,
    ) -> Mapping[str, Any]:
        """The body of an answer; a sync token that is not this user's may raise RefusedError (400)."""
        since = self._sync_tokens.get(request.sync_token)
        if since is None and not request.full and dead_token == "refuse":
            raise RefusedError(invalid_argument("sync_token", "a sync token of this user, or *"))
        if since is None or since < self.objects.replaced_at or unasked_full:
            return self.full_answer(request.resource_types, now)
        return {
            "full_sync": False,
            **self._envelope(),
            **self.objects.changed_since(since, request.resource_types),
        }

    def full_answer(self, resource_types: Sequence[str], now: datetime) -> Mapping[str, Any]:
        at = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "full_sync": True,
            "full_sync_date_utc": at,
            **self._envelope(),
            **self.objects.active(resource_types),
        }

    def forget_sync_tokens(self) -> None:
        self._sync_tokens.clear()

    def _envelope(self) -> Mapping[str, Any]:
        token = "".join(self._tokens.choices(TOKEN_CHARACTERS, k=60))
        self._sync_tokens[token] = self.objects.revision
        return {"sync_token": token, "temp_id_mapping": {}}
