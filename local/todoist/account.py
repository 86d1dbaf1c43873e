"""One user of the stand-in for Todoist: objects, sync tokens, rate limits and queued faults."""

import string
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from random import Random
from typing import Any, Literal

from local.faulty_http import RefusedError
from local.todoist.faults import Fault
from local.todoist.objects import Objects
from local.todoist.replies import invalid_argument
from local.todoist.requests import SyncRequest

LIMIT_WINDOW = timedelta(minutes=15)
TOKEN_CHARACTERS = string.ascii_letters + string.digits + "-_"


@dataclass(frozen=True)
class Limits:
    """Allowed calls per user within 15 minutes."""

    full: int
    incremental: int


class Account:
    """One user's account.

    Tokens and faults are drawn per user, independently of the order in which users call.

    revision_of_token: of the sync tokens that an earlier process issued; those of this process are different.
    """

    def __init__(
        self,
        user: str,
        seed: int,
        limits: Limits,
        objects: Objects,
        revision_of_token: Mapping[str, int] | None = None,
    ) -> None:
        self.objects = objects
        self.faults: deque[Fault] = deque()
        self._revision_of_token = dict(revision_of_token or {})
        self._limits = limits
        self._admitted: dict[bool, deque[datetime]] = {True: deque(), False: deque()}
        n_issued = len(self._revision_of_token) or ""
        self._token_rng = Random(f"{seed}/sync tokens/{user}{n_issued}")
        self._fault_rng = Random(f"{seed}/faults/{user}")

    def admit(self, full: bool, now: datetime) -> int:
        """Count a call and return 0, or return the seconds until the rate limit allows it."""
        calls = self._admitted[full]
        while calls and calls[0] <= now - LIMIT_WINDOW:
            calls.popleft()
        if len(calls) < (self._limits.full if full else self._limits.incremental):
            calls.append(now)
            return 0
        oldest = calls[0] if calls else now
        return ceil((oldest + LIMIT_WINDOW - now).total_seconds())

    def next_fault(self, rate: float, faults: Sequence[Fault]) -> Fault | None:
        """The next queued fault; if there is none, a random one of `faults` at a rate from 0 to 1."""
        if self.faults:
            return self.faults.popleft()
        return self._fault_rng.choice(faults) if self._fault_rng.random() < rate else None

    def answer(
        self,
        request: SyncRequest,
        now: datetime,
        *,
        unknown_sync_token: Literal["full", "refuse"],
        force_full: bool,
    ) -> Mapping[str, Any]:
        """The body of a /sync response.

        unknown_sync_token: "full" for a full answer, "refuse" for RefusedError (400).
        force_full: answer in full, whatever the sync token is.
        """
        since = self._revision_of_token.get(request.sync_token)
        if since is None and not request.is_full and unknown_sync_token == "refuse":
            raise RefusedError(invalid_argument("sync_token", "a sync token of this user, or *"))
        if since is None or since < self.objects.replaced_at or force_full:
            return self.full_answer(request.resource_types, now)
        return {
            "full_sync": False,
            **self._envelope(),
            **self.objects.changed_since(since, request.resource_types),
        }

    def full_answer(self, resource_types: Sequence[str], now: datetime) -> Mapping[str, Any]:
        """The body of a full /sync response: all active objects of these types."""
        at = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "full_sync": True,
            "full_sync_date_utc": at,
            **self._envelope(),
            **self.objects.active(resource_types),
        }

    def forget_sync_tokens(self) -> None:
        """Make all issued sync tokens unknown."""
        self._revision_of_token.clear()

    def _envelope(self) -> Mapping[str, Any]:
        token = "".join(self._token_rng.choices(TOKEN_CHARACTERS, k=60))
        self._revision_of_token[token] = self.objects.revision
        return {"sync_token": token, "temp_id_mapping": {}}
