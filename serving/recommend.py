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

_SHOWN = set(Tip.model_fields)

_LASTS = timedelta(days=1)
"""Candidates that do not speak of a day may be used so long after the midnight of the day on which they were made."""

_RESERVE = 0.5
"""Seconds of a request's budget kept for choosing and logging: once when the LLM hangs, again when all else does."""


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
    """The path of a request, over its doors. Ids and seeds are asked once for each decision."""

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
        until = asyncio.get_running_loop().time() + self.timing.budget - _RESERVE
        known = await self._read(user_id)
        now = self.clock()
        if not known.is_fresh(now, self.timing.sla) or not _is_current(known.last, known.context_hash, now):
            return await self._requests.join(user_id, lambda: self._mended(user_id, until))
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

    async def _mended(self, user_id: str, until: float) -> Answer:
        """The way of a request that cannot just read: in time, or with what there is."""
        try:
            async with asyncio.timeout_at(until), self.locks.hold(user_id):
                return await self._mend(user_id, until - _RESERVE)
        except TimeoutError:
            log.warning("user %s: answered from what there was, the budget is spent", user_id)
        return await self._mend(user_id, None)

    async def _mend(self, user_id: str, until: float | None) -> Answer:
        """Make what is missing, and answer. until: when the LLM has to be done; None: wait for nobody."""
        known = await self._read(user_id)  # again: somebody else may have mended it while the lock was waited for
        is_assembled = False
        if until is not None and not known.is_fresh(self.clock(), self.timing.sla):
            is_assembled = await self._assemble(user_id)
            known = await self._read(user_id)
        stored, now = await self.store.context(user_id), self.clock()
        if stored is None:
            return await self._decide(known, _generic(now), "none", "fallback", now)
        known = _with(known, stored)
        is_fresh = known.is_fresh(now, self.timing.sla)
        candidates, llm = await self._candidates(known, stored, now, until)
        source: Source = "inline" if is_assembled else "stored" if is_fresh else "stale"
        return await self._decide(known, candidates, source, llm, now)

    async def _assemble(self, user_id: str) -> bool:
        try:
            await self.inline.assemble(user_id)
        except NotAssembled:
            return False
        return True

    async def _candidates(
        self, known: Known, stored: StoredContext, now: datetime, until: float | None
    ) -> tuple[CandidateSet, Spoken]:
        """The last candidates if they were made for this context; those of them that stand, if they are enough; else
        new ones of the LLM; where that fails those that stand, and else those made by rules.
        """
        last = known.last
        if last is not None and _is_current(last, stored.context_hash, now):
            return last, "skipped"
        context = UserContext.model_validate_json(stored.context_json)
        midnight, today = _midnight(known.timezone, now)
        stands = standing(_tips(last), await self.store.bases(last), context, today) if last else []
        if last is not None and len(stands) >= ENOUGH and now < last.renew_at:
            return await self._keep(known, context, stands, (midnight, last.renew_at)), "skipped"
        if self.author is None:
            return await self._keep(known, context, (), (midnight, midnight)), "fallback"
        again = now + _TRY_AGAIN
        if until is None:
            return await self._keep(known, context, stands, (midnight, again)), "fallback"
        written = await self.author.write(context, today, within=until - asyncio.get_running_loop().time())
        if written.tips:
            spoken = [(tip, basis(tip, context, today if tip.only_today else None)) for tip in written.tips]
            made = await self._keep(known, context, spoken, (midnight, midnight + _LASTS), author="llm")
        else:
            made = await self._keep(known, context, stands, (midnight, again))
        await self._account_for(known.user_id, made, written, now)
        return made, "called" if written.tips else "fallback"

    async def _keep(
        self,
        known: Known,
        context: UserContext,
        spoken: Sequence[tuple[Tip, str]],
        times: tuple[datetime, datetime],
        author: Literal["llm"] | None = None,
    ) -> CandidateSet:
        """Store candidates, so that the next request of this context scores them again.

        times: expires_at and renew_at. spoken: those of an LLM with their bases. Where it did not write them for this
        very context, what the rules make of it comes beside them, without a basis: at the next change rules make
        theirs anew. They are dated by when they are here, not by when the LLM was asked: the last ones count.
        """
        ruled = () if author else _ruled([tip for tip, _ in spoken], context)
        tips = [*(tip for tip, _ in spoken), *ruled]
        made = CandidateSet(
            set_id=self.new_id(),
            context_hash=known.context_hash or "",
            author=author or ("kept" if spoken else "rules"),
            expires_at=times[0],
            renew_at=times[1],
            tips=[tip.model_dump_json(include=_SHOWN) for tip in tips],
            kinds=[tip.kind for tip in tips],
            themes=[tip.theme or "" for tip in tips],
            features=features_of(tips, context).tobytes(),
        )
        bases = [*(was for _, was in spoken), *("" for _ in ruled)]
        await self.store.write_candidates(known.user_id, made, bases, self.clock())
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
        """Assemble a context that is soon stale anew, behind the answer; what goes wrong is only logged."""
        try:
            await self._refreshed(user_id)
        except Exception as error:
            log.warning("user %s: not refreshed, %s", user_id, type(error).__name__)

    async def _refreshed(self, user_id: str) -> None:
        async with asyncio.timeout(self.timing.budget), self.locks.hold(f"refresh {user_id}"):
            known = await self._read(user_id)
            if known.materialized_at and self.clock() - known.materialized_at > self.timing.revalidate_after:
                await self.inline.assemble(user_id)

    async def _read(self, user_id: str) -> Known:
        known = await self.store.read(user_id)
        if known is None:
            raise UnknownUser
        return known


def _is_current(last: CandidateSet | None, context_hash: str | None, now: datetime) -> bool:
    """Whether the last candidates were made for this very context, on this day, and by whom they should be."""
    return last is not None and last.context_hash == context_hash and now < min(last.expires_at, last.renew_at)


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
        renew_at=now,
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
