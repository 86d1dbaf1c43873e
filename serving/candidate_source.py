"""The candidates of a request: earlier tips that are still valid, new ones of the LLM, or rule-based ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from contexts.assembly.model import UserContext, without_tasks
from serving.candidate_writer import NOT_CALLED_RETRY_AFTER, RETRY_AFTER, CandidateWriter
from serving.row_formats import Unreadable
from serving.store import LLMStatus, Store, UserState
from tips.served import is_served_tip, read_tip
from tips.sets import (
    MIN_VALID_TIPS,
    CandidateSet,
    HashedTip,
    WrittenOrigin,
    new_set,
    next_midnight,
    with_rule_based,
)
from tips.validity import still_valid


@dataclass(frozen=True)
class LLMWaits:
    """Seconds that a request waits for the LLM at most.

    first_s: if the LLM never wrote candidates for the user's account.
    """

    usual_s: float
    first_s: float


@dataclass(frozen=True)
class CandidateSource:
    """Finds or makes the candidates of a request, and has the LLM write new ones.

    writer: None if all candidates are rule-based.
    writes_ahead: whether the LLM writes for a new user before the first request.
    """

    store: Store
    writer: CandidateWriter | None
    waits: LLMWaits
    new_id: Callable[[], UUID]
    writes_ahead: bool = True

    async def find(
        self,
        user: UserState,
        context: UserContext,
        now: datetime,
        llm_deadline: float | None,
        before_wait: Callable[[], None],
        origin: WrittenOrigin = "behind",
    ) -> tuple[CandidateSet, LLMStatus]:
        """The candidates for a user's context, and the LLM's part in them: the first of these that applies.

        1. The last set, if it was made for this context, is not due for replacement, and can be served as it is.
        2. Before `renew_at` of the last set: its tips that are still valid, if there are at least `MIN_VALID_TIPS`.
        3. Rule-based tips alone, if there is no LLM; for a new user also if it writes nothing ahead of requests, and
           then the first request looks for others.
        4. New tips of the LLM, if it writes at least one without violations while the request waits, see `LLMWaits`.
        5. The tips of the last set that are still valid, however few. Unless the LLM failed, it goes on writing, and
           later requests find its tips; if no request waited, only if the user will probably ask again that day.

        In cases 2 and 5, rule-based tips of the other kinds are added. No tip is about a task that ended after the
        context was fetched.

        now: not later than the instant at which the user was read: a set that was stored since then stays the newest.
        llm_deadline: event loop time at which the request waits no longer; None: the LLM is not called.
        before_wait: is called before the request waits; from then on it is worth finishing, because it keeps the
        account from being asked about again too soon.
        origin: of the LLM's set; "behind" becomes "waited" if a request waits for it when it is stored.
        """
        context = without_tasks(context, user.ended_ids)
        current = user.current_candidates(now)
        if current is not None and all(map(is_served_tip, current.tips)):
            return current, "skipped"
        midnight, today = next_midnight(user.zone, now)
        last, valid = user.last_candidates, await self._still_valid(user.last_candidates, context, today)
        if last is not None and len(valid) >= MIN_VALID_TIPS and now < last.renew_at:
            return await self._store_valid(user, context, valid, now, last.renew_at), "skipped"
        if self.writer is None:
            return await self._store_valid(user, context, [], now, midnight), "fallback"
        if origin == "ahead" and not self.writes_ahead:
            return await self._store_valid(user, context, valid, now, now), "fallback"
        if llm_deadline is None:
            return await self._store_valid(user, context, valid, now, now + NOT_CALLED_RETRY_AFTER), "fallback"
        wait_s = await self._wait_s(user, llm_deadline)
        if wait_s <= 0:
            return await self._written_behind(self.writer, user, context, valid, now, origin)
        before_wait()
        writing = await self.writer.write_within(user, origin, wait_s)
        if writing is not None and writing.candidates is not None:
            return writing.candidates, "called"
        is_called = writing is None or writing.is_called
        renew_at = now + (RETRY_AFTER if is_called else NOT_CALLED_RETRY_AFTER)
        return await self._store_valid(user, context, valid, now, renew_at), "fallback"

    async def _written_behind(
        self,
        writer: CandidateWriter,
        user: UserState,
        context: UserContext,
        valid: Sequence[HashedTip],
        now: datetime,
        origin: WrittenOrigin,
    ) -> tuple[CandidateSet, LLMStatus]:
        """The valid tips with rule-based ones, until the LLM has written others behind the answer.

        If that fails, these last as long as after a failure in a request.
        """
        candidates = await self._store_valid(user, context, valid, now, now + RETRY_AFTER)
        if not writer.start(user, origin):
            await writer.retry_soon(user)
        return candidates, "skipped"

    async def _wait_s(self, user: UserState, llm_deadline: float) -> float:
        """Seconds that this request waits for the LLM."""
        wait_s, last = self.waits.usual_s, user.last_candidates
        if self.waits.first_s > wait_s and not (last is not None and last.is_by_llm):
            wait_s = wait_s if await self.store.has_written_set(user) else self.waits.first_s
        return min(wait_s, llm_deadline - asyncio.get_running_loop().time())

    async def _still_valid(self, last: CandidateSet | None, context: UserContext, today: date) -> list[HashedTip]:
        if last is None:
            return []
        hashes = await self.store.read_subject_hashes(last)
        try:
            return still_valid(map(read_tip, last.tips), hashes, context, today)
        except ValueError as error:
            reason = f"no tips and their subject hashes ({type(error).__name__})"
            self.store.report(Unreadable("candidate_sets", last.set_id, reason))
            return []

    async def _store_valid(
        self,
        user: UserState,
        context: UserContext,
        valid: Sequence[HashedTip],
        now: datetime,
        renew_at: datetime,
    ) -> CandidateSet:
        """Store valid tips of the last set, if there are any, with rule-based ones."""
        midnight, _ = next_midnight(user.zone, now)
        last = user.last_candidates
        candidates = new_set(
            with_rule_based(valid, context),
            context,
            set_id=self.new_id(),
            context_hash=user.context_hash or "",
            author="kept" if valid else "rules",
            origin="kept" if valid else "rules",
            made_at=now,
            expires_at=midnight,
            renew_at=renew_at,
            kept_from=last.written_as if last and valid else None,
        )
        await self.store.write_candidates(user, candidates)
        return candidates
