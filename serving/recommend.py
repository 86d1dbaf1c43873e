"""The request: from the stored context to a chosen tip."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np

from contexts.mirror import zone_or_none
from contexts.model import UserContext
from contexts.store import StoredContext
from serving.bandit import ThompsonPolicy
from serving.candidates import GENERIC_TIP, Tip, basis, by_rules, standing
from serving.features import N_STATIC, features_of, with_clock
from serving.flights import Flights, Locks
from serving.inline import Inline, NotAssembled
from serving.learn import Learner
from serving.llm import Author, Written
from serving.metrics import Metrics
from serving.store import CandidateSet, Decision, Known, Store

log = logging.getLogger(__name__)

Source = Literal["stored", "inline", "stale", "none"]
Spoken = Literal["called", "skipped", "fallback"]

ENOUGH = 2
"""So many candidates that still stand after a change spare the LLM a call."""

_TRY_AGAIN = timedelta(minutes=5)
"""Candidates made in place of an LLM that failed are used so long before it is asked again."""

_RESERVE = 0.5
"""Seconds of a request's budget kept for choosing and logging when everything else hangs."""


class UnknownUser(Exception):
    """There is no such user."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request for a tip gets. tip: a JSON object; age_seconds: of the signals, None without a context."""

    decision_id: UUID
    tip: str
    source: Source
    age_seconds: float | None
    llm: Spoken
    context_hash: str | None
    policy_version: str


@dataclass(frozen=True)
class Timing:
    """The rules of time. sla: a context's greatest age; revalidate_after: age from which it is refreshed behind the
    answer; budget: seconds that no request exceeds.
    """

    sla: timedelta
    revalidate_after: timedelta
    budget: float


@dataclass
class Recommender:
    """The path of a request, over its doors. clock, ids and seeds are asked once for each decision."""

    store: Store
    locks: Locks
    inline: Inline
    author: Author | None
    learner: Learner
    policy: ThompsonPolicy
    metrics: Metrics
    timing: Timing
    clock: Callable[[], datetime]
    new_id: Callable[[], UUID]
    new_seed: Callable[[], int]

    def __post_init__(self) -> None:
        self._requests: Flights[Answer] = Flights()
        self._refreshes: Flights[None] = Flights()

    async def tip(self, user_id: str) -> Answer:
        """A tip for a user, within the budget. UnknownUser; whatever the database raises when it does not answer."""
        known = await self._read(user_id)
        now = self.clock()
        if not known.is_fresh(now, self.timing.sla) or not _is_current(known.last, known.context_hash, now):
            return await self._requests.join(user_id, lambda: self._mended(known))
        if known.materialized_at and now - known.materialized_at > self.timing.revalidate_after:
            self._refreshes.start(user_id, lambda: self._refresh(user_id))
        return await self._decide(known, _last(known), "stored", "skipped", now)

    async def context(self, user_id: str) -> StoredContext | None:
        """The context that a request would use now, as it is stored; UnknownUser."""
        await self._read(user_id)
        return await self.store.context(user_id)

    async def close(self) -> None:
        """End what goes on behind the answers."""
        await self._requests.cancel()
        await self._refreshes.cancel()

    async def _mended(self, known: Known) -> Answer:
        """The way of a request that cannot just read: in time, or with what there is."""
        until = asyncio.get_running_loop().time() + self.timing.budget - _RESERVE
        try:
            async with asyncio.timeout_at(until), self.locks.hold(known.user_id):
                return await self._mend(known.user_id, until)
        except TimeoutError:
            log.warning("user %s: answered from what there was, the budget is spent", known.user_id)
        return await self._last_resort(known)

    async def _last_resort(self, known: Known) -> Answer:
        """An answer without waiting for anybody: the last candidates, or some by rules from the stored context."""
        now, stored = self.clock(), await self.store.context(known.user_id)
        source: Source = "stored" if known.is_fresh(now, self.timing.sla) else "stale" if stored else "none"
        if known.last is None and stored is not None:
            context = UserContext.model_validate_json(stored.context_json)
            made = await self._keep(_with(known, stored), context, (), now + _TRY_AGAIN, now)
            return await self._decide(known, made, source, "fallback", now)
        return await self._decide(known, known.last or _generic(now), source, "fallback", now)

    async def _mend(self, user_id: str, until: float) -> Answer:
        known = await self._read(user_id)  # again: somebody else may have mended it while the lock was waited for
        context, source = await self._context(known)
        now = self.clock()
        if context is None:
            return await self._decide(known, _generic(now), "none", "fallback", now)
        known = _with(known, context)
        candidates, llm = await self._candidates(known, context, now, until)
        return await self._decide(known, candidates, source, llm, now)

    async def _context(self, known: Known) -> tuple[StoredContext | None, Source]:
        """The stored context if it is fresh, else one assembled now, else the stale one."""
        if known.is_fresh(self.clock(), self.timing.sla):
            return await self.store.context(known.user_id), "stored"
        try:
            return await self.inline.assemble(known.user_id), "inline"
        except NotAssembled:
            stored = await self.store.context(known.user_id)
            return stored, "stale" if stored else "none"

    async def _candidates(
        self, known: Known, stored: StoredContext, now: datetime, until: float
    ) -> tuple[CandidateSet, Spoken]:
        """The last candidates if they were made for this context; those of them that stand, if they are enough; else
        new ones of the LLM; where that fails those that stand, and else those made by rules.
        """
        last = known.last
        if last is not None and _is_current(last, stored.context_hash, now):
            return last, "skipped"
        context = UserContext.model_validate_json(stored.context_json)
        stands = standing(_tips(last), await self.store.bases(last), context) if last else []
        if last is not None and len(stands) >= ENOUGH and now < last.expires_at:
            return await self._keep(known, context, stands, last.expires_at, now), "skipped"
        midnight, today = _midnight(known.timezone, now)
        if self.author is None:
            return await self._keep(known, context, (), midnight, now), "fallback"
        written = await self.author.write(context, today, within=until - asyncio.get_running_loop().time())
        if written.tips:
            made = await self._keep(known, context, written.tips, midnight, now, author="llm")
        else:
            made = await self._keep(known, context, stands, min(midnight, now + _TRY_AGAIN), now)
        await self._account_for(known.user_id, made, written, now)
        return made, "called" if written.tips else "fallback"

    async def _keep(
        self,
        known: Known,
        context: UserContext,
        spoken: Sequence[Tip],
        until: datetime,
        now: datetime,
        author: Literal["llm"] | None = None,
    ) -> CandidateSet:
        """Store candidates, so that the next request of this context scores them again.

        spoken: those of an LLM. Where it did not write them for this very context, what the rules make of it comes
        beside them, without a basis: at the next change rules make theirs anew.
        """
        ruled = () if author else _ruled(spoken, context)
        tips = (*spoken, *ruled)
        made = CandidateSet(
            set_id=self.new_id(),
            context_hash=known.context_hash or "",
            author=author or ("kept" if spoken else "rules"),
            expires_at=until,
            tips=[tip.model_dump_json() for tip in tips],
            kinds=[tip.kind for tip in tips],
            themes=[tip.theme or "" for tip in tips],
            features=features_of(tips, context).tobytes(),
        )
        bases = [*(basis(tip, context) for tip in spoken), *("" for _ in ruled)]
        await self.store.write_candidates(known.user_id, made, bases, now)
        return made

    async def _account_for(self, user_id: str, made: CandidateSet, written: Written, now: datetime) -> None:
        usage = written.usage
        if usage is None:
            return
        self.metrics.llm_calls.labels(usage.outcome).inc()
        self.metrics.llm_tokens.labels("input").inc(usage.input_tokens)
        self.metrics.llm_tokens.labels("output").inc(usage.output_tokens)
        self.metrics.llm_cost.inc(usage.cost_usd or 0.0)
        await self.store.write_llm_call(user_id, made.set_id if written.tips else None, usage, now)

    async def _decide(
        self, known: Known, candidates: CandidateSet, source: Source, llm: Spoken, now: datetime
    ) -> Answer:
        """Score the candidates, choose one, log the decision, answer."""
        static = np.frombuffer(candidates.features, np.float32).reshape(-1, N_STATIC)
        features = with_clock(static, now.astimezone(_zone(known.timezone)))
        seed, version = self.new_seed(), self.learner.version
        choice = self.policy.choose(self.learner.posterior, features, seed)
        if candidates.author not in ("llm", "kept"):
            llm = "fallback"
        decision = Decision(
            decision_id=self.new_id(),
            user_id=known.user_id,
            decided_at=now,
            tip_kind=candidates.kinds[choice.chosen],
            theme=candidates.themes[choice.chosen],
            context_hash=known.context_hash,
            candidate_set_id=candidates.set_id,
            source=source,
            llm=llm,
            materialized_at=known.materialized_at,
            policy_version=version,
            seed=seed,
            chosen=choice.chosen,
            propensities=choice.propensities.tolist(),
            features=features.tobytes(),
        )
        await self.store.decide(decision)
        age = (now - known.materialized_at).total_seconds() if known.materialized_at else None
        tip = candidates.tips[choice.chosen]
        return Answer(decision.decision_id, tip, source, age, llm, known.context_hash, version)

    async def _refresh(self, user_id: str) -> None:
        """Assemble a context that is soon stale anew, behind the answer."""
        async with self.locks.hold(f"refresh {user_id}"):
            known = await self._read(user_id)
            if known.materialized_at and self.clock() - known.materialized_at > self.timing.revalidate_after:
                await self.inline.assemble(user_id)

    async def _read(self, user_id: str) -> Known:
        known = await self.store.read(user_id)
        if known is None:
            raise UnknownUser
        return known


def _is_current(last: CandidateSet | None, context_hash: str | None, now: datetime) -> bool:
    """Whether the last candidates were made for this very context, and not for another day."""
    return last is not None and last.context_hash == context_hash and now < last.expires_at


def _last(known: Known) -> CandidateSet:
    assert known.last is not None
    return known.last


def _with(known: Known, context: StoredContext) -> Known:
    return Known(
        known.user_id,
        known.timezone,
        context.materialized_at,
        context.valid_until,
        context.context_hash,
        known.last,
    )


def _tips(candidates: CandidateSet | None) -> list[Tip]:
    return [Tip.model_validate_json(tip) for tip in candidates.tips] if candidates else []


def _ruled(spoken: Sequence[Tip], context: UserContext) -> tuple[Tip, ...]:
    """Candidates made by rules, of the kinds that the others leave out."""
    kinds = {tip.kind for tip in spoken}
    return tuple(tip for tip in by_rules(context) if tip.kind not in kinds)


def _generic(now: datetime) -> CandidateSet:
    """The tip for a user of whom nothing is known."""
    return CandidateSet(
        set_id=None,
        context_hash="",
        author="generic",
        expires_at=now,
        tips=[GENERIC_TIP.model_dump_json()],
        kinds=[GENERIC_TIP.kind],
        themes=[""],
        features=features_of([GENERIC_TIP], None).tobytes(),
    )


def _midnight(timezone: str, now: datetime) -> tuple[datetime, date]:
    """When the user's day ends, and which day it is: tips speak of 'today'."""
    zone = _zone(timezone)
    today = now.astimezone(zone).date()
    return datetime.combine(today + timedelta(days=1), time(), zone), today


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(zone_or_none(name) or "UTC")
