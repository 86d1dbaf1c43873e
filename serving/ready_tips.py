"""Tips for users for whom nothing is missing: many requests share one read, one choice and one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from serving.batcher import Batcher
from serving.decide import Answer, Decider, Question
from serving.row_formats import Unreadable
from serving.store import STATEMENT_WAITING_SHARE, Decision, Store, UserState, is_about_values

_MAX_TIPS = 16
"""Requests that share a read, a choice and a write: more of them would not fit into the processor's caches."""

_MAX_CALLS = 2
"""While one call waits for Postgres, another one chooses."""


class Ready(NamedTuple):
    """The state of a user, None for an unknown one, and the answer, None if something for it is missing."""

    user: UserState | None
    answer: Answer | None


@dataclass(slots=True)
class _Request:
    """A request in a call. decision_id: of a decision that may have been logged for it; None if there is none."""

    user_id: str
    decision_id: UUID | None = None


class ReadyTips:
    """Answers requests from what is stored, if context and candidates are current."""

    def __init__(
        self, store: Store, decider: Decider, clock: Callable[[], datetime], *, sla: timedelta, budget_s: float
    ) -> None:
        """sla: greatest age of a context that is used. budget_s: seconds that no request exceeds."""
        self._store = store
        self._decider = decider
        self._clock = clock
        self._sla = sla
        self._calls: Batcher[_Request, Ready] = Batcher(
            self._answer_all,
            max_items=_MAX_TIPS,
            max_calls=_MAX_CALLS,
            max_wait_s=budget_s * STATEMENT_WAITING_SHARE,
            limit_s=budget_s,
            is_at_fault=is_about_values,
            on_abandoned=self._abandoned,
        )

    @property
    def n_waiting(self) -> int:
        """The number of requests that wait for a call."""
        return self._calls.n_waiting

    async def find(self, user_id: str) -> Ready:
        """The user, and the answer if it needs nothing but what is stored; its decision is logged.

        Raises Overloaded, TimeoutError after the budget, and the errors of asyncpg. If the caller is cancelled, no
        decision is logged, or it is marked as undelivered.
        """
        return await self._calls.submit(_Request(user_id))

    async def close(self, timeout_s: float) -> None:
        """Wait for the calls that are running, for at most `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._calls.close()

    async def _answer_all(self, requests: Sequence[_Request]) -> list[Ready]:
        found: list[Ready] = []

        def decide(users: Sequence[UserState | None]) -> list[Decision]:
            found[:] = self._choose(users)
            for request, (_, answer) in zip(requests, found, strict=True):
                request.decision_id = answer.decision.decision_id if answer else None
            return [answer.decision for _, answer in found if answer]

        await self._store.read_and_log([request.user_id for request in requests], decide)
        return found

    def _choose(self, users: Sequence[UserState | None]) -> list[Ready]:
        """Choose for the users whose context and candidates are current."""
        now = self._clock()
        questions = [self._question(user, now) for user in users]
        answers = iter(self._decider.choose([each for each in questions if each], now))
        found = []
        for user, question in zip(users, questions, strict=True):
            answer = next(answers) if question else None
            found.append(Ready(user, None if isinstance(answer, Unreadable) else answer))
        return found

    def _question(self, user: UserState | None, now: datetime) -> Question | None:
        if user is None or user.connection_number is None or not user.is_fresh(now, self._sla):
            return None
        candidates = user.current_candidates(now)
        return None if candidates is None else Question(user, candidates, "stored", "skipped")

    def _abandoned(self, request: _Request) -> None:
        if request.decision_id is not None:
            self._store.deliveries.undelivered(request.decision_id)
