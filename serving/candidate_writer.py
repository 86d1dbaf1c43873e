"""Sets of candidates that the LLM writes in the background; a request may wait for one, for a limited time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from contexts.assembly.model import UserContext, without_tasks
from contexts.assembly.store import StoredContext
from serving.metrics import Metrics
from serving.row_formats import Unreadable, read_stored_context
from serving.single_flight import AdvisoryLocks, SingleFlight
from serving.store import CallPlace, Store, UserState
from tips.candidates import GeneratedTip
from tips.sets import CandidateSet, WrittenOrigin, next_midnight, written_set

if TYPE_CHECKING:
    from tips.generator import CandidateGenerator, LLMUsage

log = logging.getLogger(__name__)

RETRY_AFTER = timedelta(minutes=5)
"""Time between a failed call of the LLM and the next one for the same user."""

NOT_CALLED_RETRY_AFTER = timedelta(seconds=30)
"""Time until the next call if the LLM was not called: too many calls were under way, its circuit was open, or there
was no time left. That says nothing about the user's prompt; but not every request can look for new candidates."""

_STORING_S = 5.0
"""Seconds that a writing may take beside its call: for the lock, and to read and store rows."""

_PLACES: dict[WrittenOrigin, CallPlace] = {"waited": "request", "behind": "behind", "ahead": "ahead"}


@dataclass(frozen=True)
class Writing:
    """The outcome of a writing. is_called: whether the LLM was, or may have been, called.

    candidates: None if there are none.
    """

    candidates: CandidateSet | None
    is_called: bool


_NOT_CALLED = Writing(None, is_called=False)
_FAILED = Writing(None, is_called=True)

Writings = SingleFlight[Writing]
"""The writings under way, one for each account at most."""


@dataclass(frozen=True)
class CandidateWriter:
    """Has the LLM write sets of candidates, one at a time for each account in all processes, and stores them.

    A writing uses the newest stored context. Its set is stored only while the account is the current one; if the
    context changes meanwhile, the subject hashes tell which of its tips are still valid.

    timeout_s: upper bound for each call of the LLM.
    least_probability: that the user asks again on the same day, for a set that no request waits for.
    writings: bounds the number of writings.
    """

    store: Store
    locks: AdvisoryLocks
    generator: CandidateGenerator
    metrics: Metrics
    clock: Callable[[], datetime]
    new_id: Callable[[], UUID]
    timeout_s: float
    writings: Writings
    least_probability: float = 0.0

    def start(self, user: UserState, origin: WrittenOrigin) -> bool:
        """Begin a writing for the user's account unless one is under way; False if too many others are.

        origin: of the set; "behind" becomes "waited" if a request waits for it when it is stored.
        """
        is_started = self.writings.start(user.account_key, lambda: self._write(user, origin))
        if not is_started:
            self.metrics.llm_writings.labels("no_room").inc()
        return is_started

    async def retry_soon(self, user: UserState) -> None:
        """Let the next call for a user come soon, because the expected one did not take place."""
        now = self.clock()
        await self.store.renew_sooner(user, now + NOT_CALLED_RETRY_AFTER, latest=now + RETRY_AFTER)

    async def write_within(self, user: UserState, origin: WrittenOrigin, wait_s: float) -> Writing | None:
        """The outcome of a writing for the user's account; None after `wait_s`, and then the writing goes on."""
        if not self.start(user, origin):
            return _NOT_CALLED
        try:
            async with asyncio.timeout(wait_s):
                return await self.writings.join(user.account_key, _nothing)  # it is under way
        except TimeoutError:
            return None

    async def _write(self, user: UserState, origin: WrittenOrigin) -> Writing:
        """One writing; its errors are logged and counted."""
        limit_s, loop = self.timeout_s + _STORING_S, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit_s) as limit, self.locks.hold(f"write {user.account_key}"):
                limit.reschedule(loop.time() + limit_s)
                outcome, writing = await self._written(user, origin)
        except Exception as error:  # a message can hold the user's texts
            log.warning("user %s: no candidates written, %s", user.user_id, type(error).__name__)
            outcome, writing = "failed", _FAILED
        self.metrics.llm_writings.labels(outcome).inc()
        return writing

    async def _written(self, asked: UserState, origin: WrittenOrigin) -> tuple[str, Writing]:
        # Again, because the account may be another one, or another process may have written while this one waited.
        user = await self.store.read_user(asked.user_id)
        if user is None or user.account_key != asked.account_key:
            return "outdated", _NOT_CALLED
        last, before = user.last_candidates, asked.last_candidates
        written_as = last.written_as if last else None
        if written_as is not None and (before is None or written_as != before.written_as):
            return "written_elsewhere", Writing(last, is_called=True)
        if origin == "behind" and not await self._is_worth_its_price(user):
            return "improbable", _NOT_CALLED
        stored = await self.store.read_context(user)
        context = self._parsed(stored) if stored else None
        if stored is None or context is None:
            return "outdated", _NOT_CALLED
        context = without_tasks(context, user.ended_ids)
        now = self.clock()
        _, today = next_midnight(user.zone, now)
        generation = await self.generator.generate(context, today, timeout_s=self.timeout_s)
        if generation.usage is None:
            await self.retry_soon(user)
            return "not_called", _NOT_CALLED
        return await self._store(user.with_context(stored), context, generation.tips, generation.usage, now, origin)

    async def _is_worth_its_price(self, user: UserState) -> bool:
        """Whether a request waits for the set, or will probably find it; an account's first set is always written."""
        if self.writings.n_callers(user.account_key) or not await self.store.has_written_set(user):
            return True
        return await self.store.will_ask_again(user, self.clock(), self.least_probability)

    async def _store(
        self,
        user: UserState,
        context: UserContext,
        tips: Sequence[GeneratedTip],
        usage: LLMUsage,
        now: datetime,
        origin: WrittenOrigin,
    ) -> tuple[str, Writing]:
        """Store the tips of a call at `now`, and record the call."""
        if origin == "behind" and self.writings.n_callers(user.account_key):
            origin = "waited"
        candidates, outcome = None, "no_tips"
        if tips:
            candidates = written_set(
                tips,
                context,
                set_id=self.new_id(),
                context_hash=user.context_hash or "",
                origin=origin,
                zone=user.zone,
                now=now,
                made_at=self.clock(),  # the time after the LLM's answer: the newest set counts
            )
            is_stored = await self.store.write_candidates(user, candidates)
            candidates, outcome = (candidates, "stored") if is_stored else (None, "outdated")
        await self._record(user, candidates.set_id if candidates else None, usage, now, _PLACES[origin])
        return outcome, Writing(candidates, is_called=True)

    async def _record(
        self, user: UserState, set_id: UUID | None, usage: LLMUsage, called_at: datetime, place: CallPlace
    ) -> None:
        self.metrics.llm_calls.labels(usage.outcome).inc()
        self.metrics.llm_tokens.labels("input").inc(usage.input_tokens or 0)
        self.metrics.llm_tokens.labels("cached").inc(usage.cached_tokens or 0)
        self.metrics.llm_tokens.labels("output").inc(usage.output_tokens or 0)
        self.metrics.llm_cost.inc(usage.cost_usd or 0.0)
        await self.store.write_llm_call(user.user_id, set_id, usage, called_at, place)

    def _parsed(self, stored: StoredContext) -> UserContext | None:
        """The context in a row of the store; None if it cannot be read."""
        try:
            return read_stored_context(stored)
        except Unreadable as error:
            self.store.report(error)
            return None


async def _nothing() -> Writing:
    return _NOT_CALLED
