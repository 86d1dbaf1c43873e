"""The candidates of a request: earlier tips that are still valid, new ones of the LLM, or rule-based ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import partial
from uuid import UUID
from zoneinfo import ZoneInfo

from contexts.assembly.model import UserContext
from serving.metrics import Metrics
from serving.row_formats import Unreadable
from serving.store import CandidateOrigin, CandidateSet, LLMStatus, Store, UserState
from tips.candidates import GENERIC_TIP, Tip
from tips.features import features_of
from tips.generator import CandidateGenerator, Generation, LLMUsage
from tips.rules import rule_based_tips
from tips.served import is_served_tip, read_tip, with_tasks
from tips.validity import still_valid, subject_hash

MIN_VALID_TIPS = 2
"""With this many tips still valid after a change of the context, the LLM is not called."""

_LLM_RETRY_AFTER = timedelta(minutes=5)
"""Time between a failed call of the LLM and the next one for the same user."""

_NOT_CALLED_RETRY_AFTER = timedelta(seconds=30)
"""Time until the next call if the LLM was not called: too many calls were under way, its circuit was open, or there
was no time left. That says nothing about the user's prompt; but not every request can look for new candidates."""

_REUSE_PERIOD = timedelta(days=1)
"""Time after the user's next midnight during which tips of the LLM are reused if they are still valid."""


@dataclass(frozen=True)
class CandidateSource:
    """Finds or makes the candidates of a request; stores new sets and the usage of the LLM.

    generator: None if all candidates are rule-based.
    """

    store: Store
    generator: CandidateGenerator | None
    metrics: Metrics
    clock: Callable[[], datetime]
    new_id: Callable[[], UUID]

    async def find(
        self,
        user: UserState,
        context: UserContext,
        now: datetime,
        llm_deadline: float | None,
        before_llm: Callable[[], None],
    ) -> tuple[CandidateSet, LLMStatus]:
        """The candidates for a user's context, and the LLM's part in them: the first of these that applies.

        1. The last set, if it was made for this context, is not due for replacement, and can be served as it is.
        2. Before `renew_at` of the last set: its tips that are still valid, if there are at least `MIN_VALID_TIPS`.
        3. Rule-based tips alone, if there is no generator.
        4. New tips of the LLM, if it answers before `llm_deadline` with at least one without violations.
        5. The tips of the last set that are still valid, however few.

        In cases 2 and 5, rule-based tips of the other kinds are added.

        llm_deadline: event loop time by which the LLM must have answered; None: the LLM is not called.
        before_llm: is called before the LLM is; from then on the work is worth finishing, because it is paid for.
        """
        current = user.current_candidates(now)
        if current is not None and all(map(is_served_tip, current.tips)):
            return current, "skipped"
        midnight, today = _next_midnight(user.zone, now)
        last, valid = user.last_candidates, await self._still_valid(user.last_candidates, context, today)
        store_set = partial(self._store_set, user, context, expires_at=midnight)
        if last is not None and len(valid) >= MIN_VALID_TIPS and now < last.renew_at:
            tips = _with_rule_based(valid, context)
            return await store_set(tips, author="kept", renew_at=last.renew_at), "skipped"
        if self.generator is None:
            tips = _with_rule_based((), context)
            return await store_set(tips, author="rules", renew_at=midnight), "fallback"
        if llm_deadline is not None:
            before_llm()
        generation = await _generate(self.generator, context, today, llm_deadline)
        if generation.tips:
            hashes = [subject_hash(tip, context, today if tip.only_today else None) for tip in generation.tips]
            tips = list(zip(generation.tips, hashes, strict=True))
            candidates = await store_set(tips, author="llm", renew_at=midnight + _REUSE_PERIOD)
        else:
            tips = _with_rule_based(valid, context)
            origin: CandidateOrigin = "kept" if valid else "rules"
            renew_after = _LLM_RETRY_AFTER if generation.usage else _NOT_CALLED_RETRY_AFTER
            candidates = await store_set(tips, author=origin, renew_at=now + renew_after)
        if generation.usage is not None:
            await self._record(user, candidates.set_id if generation.tips else None, generation.usage, now)
        return candidates, "called" if generation.tips else "fallback"

    async def _still_valid(
        self, last: CandidateSet | None, context: UserContext, today: date
    ) -> list[tuple[Tip, str]]:
        if last is None:
            return []
        hashes = await self.store.read_subject_hashes(last)
        try:
            return still_valid(map(read_tip, last.tips), hashes, context, today)
        except ValueError as error:
            reason = f"no tips and their subject hashes ({type(error).__name__})"
            self.store.report(Unreadable("candidate_sets", last.set_id, reason))
            return []

    async def _store_set(
        self,
        user: UserState,
        context: UserContext,
        tips: Sequence[tuple[Tip, str]],
        *,
        author: CandidateOrigin,
        expires_at: datetime,
        renew_at: datetime,
    ) -> CandidateSet:
        """Store tips with their subject hashes as the user's newest candidates."""
        candidates = _candidate_set(
            [tip for tip, _ in tips],
            context,
            set_id=self.new_id(),
            context_hash=user.context_hash or "",
            author=author,
            expires_at=expires_at,
            renew_at=renew_at,
        )
        # The time after the LLM's answer, not of the request: the newest set counts.
        made_at = self.clock()
        await self.store.write_candidates(user, candidates, [stored_hash for _, stored_hash in tips], made_at)
        return candidates

    async def _record(self, user: UserState, set_id: UUID | None, usage: LLMUsage, now: datetime) -> None:
        self.metrics.llm_calls.labels(usage.outcome).inc()
        self.metrics.llm_tokens.labels("input").inc(usage.input_tokens or 0)
        self.metrics.llm_tokens.labels("output").inc(usage.output_tokens or 0)
        self.metrics.llm_cost.inc(usage.cost_usd or 0.0)
        await self.store.write_llm_call(user.user_id, set_id, usage, now)


def _with_rule_based(valid: Sequence[tuple[Tip, str]], context: UserContext) -> list[tuple[Tip, str]]:
    """Return the valid tips, and rule-based tips of the other kinds.

    Rule-based tips have no subject hash, so the next change of the context makes them again.
    """
    kinds = {tip.kind for tip, _ in valid}
    return [*valid, *((tip, "") for tip in rule_based_tips(context) if tip.kind not in kinds)]


def generic_candidates(now: datetime) -> CandidateSet:
    """The only candidate for a user without a context: the generic tip."""
    return _candidate_set(
        [GENERIC_TIP], None, set_id=None, context_hash="", author="generic", expires_at=now, renew_at=now
    )


def _candidate_set(
    tips: Sequence[Tip],
    context: UserContext | None,
    *,
    set_id: UUID | None,
    context_hash: str,
    author: CandidateOrigin,
    expires_at: datetime,
    renew_at: datetime,
) -> CandidateSet:
    return CandidateSet(
        set_id=set_id,
        context_hash=context_hash,
        author=author,
        expires_at=expires_at,
        renew_at=renew_at,
        tips=[with_tasks(tip, context).model_dump_json() for tip in tips],
        kinds=[tip.kind for tip in tips],
        themes=[tip.theme or "" for tip in tips],
        features=features_of(tips, context).tobytes(),
    )


async def _generate(
    generator: CandidateGenerator, context: UserContext, today: date, deadline: float | None
) -> Generation:
    """New tips of the LLM by a deadline in event loop time; none without a deadline."""
    if deadline is None:
        return Generation((), None)
    return await generator.generate(context, today, timeout_s=deadline - asyncio.get_running_loop().time())


def _next_midnight(zone: ZoneInfo, now: datetime) -> tuple[datetime, date]:
    """The end of the user's day, and its date: tips may speak of "today"."""
    today = now.astimezone(zone).date()
    return datetime.combine(today + timedelta(days=1), time(), zone), today
