"""The decision: score the candidates, choose one, log the choice, answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np

from serving.learn import Learner
from serving.row_formats import Unreadable
from serving.store import ContextSource, Decision, KnownBy, LLMStatus, Store, UserState
from tips.bandit import ThompsonPolicy
from tips.features import N_STATIC, with_clock
from tips.served import is_served_tip
from tips.sets import CandidateOrigin, CandidateSet


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request for a tip.

    tip: a JSON object. age_seconds: since the signals were known, None without a context. known_by: what tells.
    """

    decision_id: UUID
    tip: str
    source: ContextSource
    age_seconds: float | None
    known_by: KnownBy
    llm: LLMStatus
    origin: CandidateOrigin
    context_hash: str | None
    policy_version: str


@dataclass(frozen=True)
class Decider:
    """Chooses among candidates by the policy, and logs every choice before it is answered.

    new_id, new_seed: called once for each decision.
    """

    store: Store
    learner: Learner
    policy: ThompsonPolicy
    new_id: Callable[[], UUID]
    new_seed: Callable[[], int]

    async def decide(
        self, user: UserState, candidates: CandidateSet, source: ContextSource, llm: LLMStatus, now: datetime
    ) -> Answer:
        """Choose one of the candidates and log the decision; raises Unreadable if the chosen one cannot be served.

        llm: the LLM's part in the candidates; "fallback" replaces it if no tip of the set is by an LLM.
        """
        static = np.frombuffer(candidates.features, np.float32).reshape(-1, N_STATIC)
        features = with_clock(static, now.astimezone(user.zone))
        seed, version = self.new_seed(), self.learner.version
        choice = self.policy.choose(self.learner.posterior, features, seed)
        if not is_served_tip(tip := candidates.tips[choice.chosen]):
            raise Unreadable("candidate_sets", candidates.set_id, "a tip cannot be served as it is stored")
        decision = Decision(
            decision_id=self.new_id(),
            user_id=user.user_id,
            decided_at=now,
            tip_kind=candidates.kinds[choice.chosen],
            theme=candidates.themes[choice.chosen],
            context_hash=user.context_hash,
            candidate_set_id=candidates.set_id,
            source=source,
            llm=llm if candidates.is_by_llm else "fallback",
            materialized_at=user.materialized_at,
            policy_version=version,
            seed=seed,
            chosen=choice.chosen,
            propensities=choice.propensities.tolist(),
            features=features.tobytes(),
            origin=candidates.origin,
            set_age_s=max(0.0, (now - candidates.made_at).total_seconds()) if candidates.set_id else None,
        )
        await self.store.write_decision(decision)
        age = user.age(now)
        return Answer(
            decision_id=decision.decision_id,
            tip=tip,
            source=source,
            age_seconds=age.total_seconds() if age is not None else None,
            known_by=user.known_by,
            llm=decision.llm,
            origin=decision.origin,
            context_hash=user.context_hash,
            policy_version=version,
        )
