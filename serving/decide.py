"""The decision: score the candidates, choose one, log the choice, answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import NamedTuple
from uuid import UUID

import numpy as np

from serving.learn import Learner
from serving.row_formats import Unreadable
from serving.store import ContextSource, Decision, KnownBy, LLMStatus, Store, UserState
from tips.bandit import Choice, ThompsonPolicy
from tips.features import N_STATIC, FeatureMatrix, with_clock
from tips.served import is_served_tip
from tips.sets import CandidateSet


class Answer(NamedTuple):
    """The answer to a request for a tip, and its decision as it is logged.

    tip: a JSON object. age_seconds: since the signals were known, None without a context. known_by: what tells.
    """

    decision: Decision
    tip: str
    age_seconds: float | None
    known_by: KnownBy


class Question(NamedTuple):
    """A user, and the candidates among which to choose.

    llm: the LLM's part in the candidates; "fallback" replaces it if no tip of the set is by an LLM.
    """

    user: UserState
    candidates: CandidateSet
    source: ContextSource
    llm: LLMStatus


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

    async def decide(self, question: Question, now: datetime) -> Answer:
        """Choose one of the candidates and log the decision; raises Unreadable if the chosen one cannot be served."""
        [answer] = self.choose([question], now)
        if isinstance(answer, Unreadable):
            raise answer
        await self.store.write_decision(answer.decision)
        return answer

    def choose(self, questions: Sequence[Question], now: datetime) -> list[Answer | Unreadable]:
        """The answers, to be logged before they are sent; Unreadable if the chosen tip cannot be served."""
        if not questions:
            return []
        features, sizes = _features(questions, now), [len(question.candidates.tips) for question in questions]
        seeds = [self.new_seed() for _ in questions]
        choices = self.policy.choose_each(self.learner.posterior, features, sizes, seeds)
        return list(map(self._answer, questions, choices, features, seeds, repeat(now)))

    def _answer(
        self, question: Question, choice: Choice, features: FeatureMatrix, seed: int, now: datetime
    ) -> Answer | Unreadable:
        user, candidates, source, llm = question
        if not is_served_tip(tip := candidates.tips[choice.chosen]):
            return Unreadable("candidate_sets", candidates.set_id, "a tip cannot be served as it is stored")
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
            policy_version=self.learner.version,
            seed=seed,
            chosen=choice.chosen,
            propensities=choice.propensities.tolist(),
            features=features[: len(candidates.tips)].tobytes(),
            origin=candidates.origin,
            set_age_s=max(0.0, (now - candidates.made_at).total_seconds()) if candidates.set_id else None,
        )
        age = user.age(now)
        return Answer(decision, tip, None if age is None else age.total_seconds(), user.known_by)


def _features(questions: Sequence[Question], now: datetime) -> FeatureMatrix:
    """The features of all candidates, shape (n, K, N_FEATURES); rows beyond a question's candidates are 0."""
    stored = [question.candidates.features for question in questions]
    n_bytes = max(map(len, stored))
    padded = b"".join([each.ljust(n_bytes, b"\0") for each in stored])
    static = np.frombuffer(padded, np.float32).reshape(len(questions), -1, N_STATIC)
    return with_clock(static, [now.astimezone(question.user.zone) for question in questions])
