"""The path of a request for a tip: from the stored context to a logged decision."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from contexts.assembly.model import UserContext
from contexts.assembly.store import StoredContext
from serving.candidate_source import CandidateSource
from serving.decide import Answer, Decider, Question
from serving.inline import InlineAssembler, NotAssembled
from serving.ready_tips import ReadyTips
from serving.row_formats import Unreadable, read_stored_context
from serving.single_flight import AdvisoryLocks, SingleFlight
from serving.slots import Slots
from serving.store import ContextSource, LLMStatus, Store, UserState
from tips.sets import CandidateSet, WrittenOrigin, generic_set

log = logging.getLogger(__name__)

_RESERVE_S = 0.5
"""Seconds for choosing and logging. They are reserved twice: the slow path is given up this long before the budget
ends, and a request ends its wait for the LLM this long before the slow path is given up."""

_MAX_PREPARATIONS = 64
"""Number of users on the slow path at once."""

_SLOT_WAITING_SHARE = 1 / 4
"""Share of the budget for which a request may wait for a place on the slow path."""

_MAX_CONTEXT_READS = 8
"""Number of contexts that are read at once for `GET context`."""

_CONTEXT_WAITING_SHARE = 1 / 8
"""Share of the budget for which a `GET context` may wait until its context is read."""

_MAX_REFRESHES = 8
"""Number of contexts that are refreshed in the background at once; others are refreshed after a later request."""

_NO_CONTEXT = "this user has no context yet: the next nightly run or a request for a tip assembles one"

_UNREADABLE_CONTEXT = "this user's context cannot be read: a request for a tip assembles it again"


class UnknownUser(Exception):
    """There is no such user."""


class NoContext(Exception):
    """The user has no context that may be used; the message says why."""


@dataclass(frozen=True)
class Timing:
    """The time limits of a request.

    sla: greatest age of a fresh context.
    revalidate_after: age from which a context is refreshed in the background after the answer.
    max_age: greatest age of a stale context that is still used if Todoist does not answer.
    budget_s: greatest number of seconds until a request is answered.
    """

    sla: timedelta
    revalidate_after: timedelta
    max_age: timedelta
    budget_s: float


@dataclass(frozen=True)
class Prepared:
    """All that a decision needs; requests for one user share it, and each makes a decision of its own."""

    user: UserState
    candidates: CandidateSet
    source: ContextSource
    llm: LLMStatus


class ReadContext(NamedTuple):
    """A row of `context_store` and the context in it."""

    stored: StoredContext
    parsed: UserContext


@dataclass
class Recommender:
    """Answers requests for tips: from stored data if it is current, else after recovering what is missing."""

    store: Store
    ready_tips: ReadyTips
    locks: AdvisoryLocks
    inline: InlineAssembler
    candidate_source: CandidateSource
    decider: Decider
    timing: Timing
    clock: Callable[[], datetime]

    def __post_init__(self) -> None:
        self._preparations: SingleFlight[Prepared] = SingleFlight()
        self._slots = Slots(_MAX_PREPARATIONS, self.timing.budget_s * _SLOT_WAITING_SHARE)
        self._context_slots = Slots(_MAX_CONTEXT_READS, self.timing.budget_s * _CONTEXT_WAITING_SHARE)
        self._refreshes: SingleFlight[None] = SingleFlight(max_started=_MAX_REFRESHES)

    async def tip(self, user_id: str) -> Answer:
        """A tip for a user, within the budget.

        Raises UnknownUser, Overloaded, TimeoutError, and the errors of asyncpg if the database does not answer. If
        the caller is cancelled, no decision is logged, or it is marked as undelivered.
        """
        started_at = asyncio.get_running_loop().time()
        user, answer = await self.ready_tips.find(user_id)
        if user is None:
            raise UnknownUser
        if answer is None:
            async with asyncio.timeout_at(started_at + self.timing.budget_s):
                return await self._recovered_tip(user, started_at + self.timing.budget_s - _RESERVE_S)
        if self._is_due_for_refresh(user, answer.decision.decided_at):
            self._refreshes.start(user.account_key, lambda: self._refresh(user_id, user.account_key))
        return answer

    async def _recovered_tip(self, user: UserState, deadline: float) -> Answer:
        """A tip for a user without a fresh context or without valid candidates. deadline: event loop time."""
        self.store.check_load()
        if user.connection_number is None:
            return await self._generic_answer(user, self.clock())
        user_id, flight = user.user_id, user.account_key
        prepared = await self._preparations.join(flight, lambda: self._slow_path(user_id, flight, deadline))
        # The account may have been replaced or disconnected while the LLM was writing.
        latest = await self._read(user_id)
        if latest.connection_number != prepared.user.connection_number:
            return await self._generic_answer(latest, self.clock())
        question = Question(prepared.user, prepared.candidates, prepared.source, prepared.llm)
        return await self.decider.decide(question, self.clock())

    async def prepare(self, user_id: str) -> bool:
        """Assemble the context of a user who has none, and have candidates made.

        Returns whether the user has a context then.
        Raises UnknownUser, Overloaded, and the errors of asyncpg if the database does not answer.
        """
        user = await self._read(user_id)
        if user.connection_number is None or user.materialized_at is not None:
            return user.materialized_at is not None
        deadline, flight = asyncio.get_running_loop().time() + self.timing.budget_s - _RESERVE_S, user.account_key
        prepared = await self._preparations.join(flight, lambda: self._slow_path(user_id, flight, deadline, "ahead"))
        return prepared.source != "none"

    async def context(self, user_id: str) -> tuple[StoredContext, UserState]:
        """The user's stored context, and the user with it; raises UnknownUser, NoContext or Overloaded."""
        user = await self._read(user_id)
        if reason := self._unusable(user, self.clock()):
            raise NoContext(reason)
        async with self._context_slots.occupied():
            stored = await self.store.read_context(user)
        if stored is None:
            raise NoContext(_NO_CONTEXT)
        if self._readable(stored) is None:
            raise NoContext(_UNREADABLE_CONTEXT)
        return stored, user.with_context(stored)

    async def close(self) -> None:
        """Cancel all preparations and refreshes that are still running."""
        await self._preparations.cancel()
        await self._refreshes.cancel()

    async def _slow_path(
        self, user_id: str, flight: str, deadline: float, origin: WrittenOrigin = "behind"
    ) -> Prepared:
        """Assemble a stale context and find candidates; after the deadline, use the stored ones instead.

        flight: the key of this preparation, and of its lock. deadline: event loop time.
        origin: of a set that the LLM writes while no request waits for it.
        """
        try:
            async with asyncio.timeout_at(deadline), self._slots.occupied(), self.locks.hold(flight):
                return await self._recover(user_id, flight, deadline - _RESERVE_S, origin)
        except TimeoutError:
            log.warning("user %s: the budget is spent, answering from stored data", user_id)
        return await self._recover(user_id, flight, None, origin)

    async def _recover(
        self, user_id: str, flight: str, llm_deadline: float | None, origin: WrittenOrigin
    ) -> Prepared:
        """Assemble a stale context, and find candidates.

        flight: the key of this preparation. llm_deadline: event loop time at which waiting for the LLM ends; None:
        neither Todoist nor the LLM is called. origin: as in `_slow_path`.
        """
        # Read again, because another process may have done the work while this one waited for the lock.
        now, user = self.clock(), await self._read(user_id)
        context, is_assembled = None, False
        if llm_deadline is None or user.is_fresh(now, self.timing.sla):
            context = await self._context(user)
        if llm_deadline is not None and context is None:
            is_assembled = await self._assemble(user_id)
            now, user = self.clock(), await self._read(user_id)
            context = await self._context(user)
        if context is None or self._unusable(user, now):
            return Prepared(user.without_context(), generic_set(now), "none", "fallback")
        user = user.with_context(context.stored)
        is_fresh = user.is_fresh(now, self.timing.sla)
        candidates, llm = await self.candidate_source.find(
            user, context.parsed, now, llm_deadline, lambda: self._preparations.keep(flight), origin
        )
        source: ContextSource = "inline" if is_assembled else "stored" if is_fresh else "stale"
        return Prepared(user, candidates, source, llm)

    async def _context(self, user: UserState) -> ReadContext | None:
        """The user's stored context; None if there is none, or if it cannot be read."""
        stored = await self.store.read_context(user)
        return None if stored is None else self._readable(stored)

    def _readable(self, stored: StoredContext) -> ReadContext | None:
        try:
            return ReadContext(stored, read_stored_context(stored))
        except Unreadable as error:
            self.store.report(error)
            return None

    async def _assemble(self, user_id: str) -> bool:
        try:
            await self.inline.assemble(user_id)
        except NotAssembled:
            return False
        return True

    async def _refresh(self, user_id: str, flight: str) -> None:
        """Assemble a context that will soon be stale, in the background; errors are only logged."""
        try:
            async with asyncio.timeout(self.timing.budget_s), self.locks.hold(f"refresh {flight}"):
                user = await self._read(user_id)
                if self._is_due_for_refresh(user, self.clock()):
                    await self.inline.assemble(user_id)
        except Exception as error:
            log.warning("user %s: context not refreshed, %s", user_id, type(error).__name__)

    async def _generic_answer(self, user: UserState, now: datetime) -> Answer:
        """Answer with the generic tip, without any text of the user."""
        question = Question(user.without_context(), generic_set(now), "none", "fallback")
        return await self.decider.decide(question, now)

    def _unusable(self, user: UserState, now: datetime) -> str | None:
        """The reason why a user's stored context is not used, not even as a stale one; None if it may be used."""
        age = user.age(now)
        if user.connection_number is None:
            return "this user is inactive or not connected to Todoist, so the stored context is not used"
        if age is None:
            return _NO_CONTEXT
        if user.is_fresh(now, self.timing.sla):
            return None
        if age > self.timing.max_age:
            return "this user's context is older than MAX_CONTEXT_AGE: a request for a tip assembles a new one"
        if self.inline.is_refused(user):
            return "Todoist refuses this user's token, so the stale context is not used until the user reconnects"
        return None

    def _is_due_for_refresh(self, user: UserState, now: datetime) -> bool:
        age = user.age(now)
        return age is not None and age > self.timing.revalidate_after

    async def _read(self, user_id: str) -> UserState:
        user = await self.store.read_user(user_id)
        if user is None:
            raise UnknownUser
        return user
