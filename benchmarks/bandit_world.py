"""A simulated product: what users make of a tip depends on a hidden taste, and what they made of it is told late."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.bandit import REWARDS, Choice, Posterior, ThompsonPolicy

Features = NDArray[np.float32]
Numbers = NDArray[np.float64]

_REACTIONS = {"dismissed": 0.12, "ignored": 0.58, "snoozed": 0.08, "accepted": 0.13, "done": 0.09}
"""From worst to best, how often each follows a tip of no special merit."""

_VALUES = np.array([REWARDS[reaction] for reaction in _REACTIONS])
_AT_MOST = np.cumsum(list(_REACTIONS.values()))[:-1]
_CUTS = np.log(_AT_MOST / (1 - _AT_MOST))


@dataclass(frozen=True)
class TipWorld:
    """Reactions by an ordered logit: the odds of at most the j-th reaction are exp(cut_j - taste . x).

    McCullagh, "Regression models for ordinal data", 1980. So a reward is no linear function of the features, only a
    rising one of a linear one. taste: of all features but the first, which is constant, shape (d - 1,).
    """

    taste: Numbers
    n_candidates: int = 10

    @classmethod
    def drawn(cls, seed: int, *, n_features: int = 32, strength: float = 2.0, n_candidates: int = 10) -> TipWorld:
        """A taste in a random direction. strength: standard deviation of its share in the log odds."""
        direction = np.random.default_rng(seed).normal(size=n_features - 1)
        return cls(strength * direction / np.linalg.norm(direction), n_candidates)

    def candidates(self, rng: np.random.Generator) -> Features:
        """Fresh candidates, shape (n_candidates, d): a constant, the rest independent and standard normal."""
        features = rng.standard_normal((self.n_candidates, len(self.taste) + 1), np.float32)
        features[:, 0] = 1.0
        return features

    def expected(self, features: Features) -> Numbers:
        """The mean reward of each candidate, shape (K,)."""
        at_most = np.pad(self._at_most(features), ((0, 0), (1, 1)), constant_values=(0, 1))
        return np.asarray(np.diff(at_most, axis=1) @ _VALUES, np.float64)

    def reward(self, features: Features, rng: np.random.Generator) -> float:
        """What a user's reaction to one candidate, features (d,), was worth."""
        return float(_VALUES[int((rng.random() > self._at_most(features[None])[0]).sum())])

    def _at_most(self, features: Features) -> Numbers:
        """Probability of at most each reaction but the best, shape (K, 4)."""
        merit = features[:, 1:] @ self.taste
        return np.asarray(1 / (1 + np.exp(merit[:, None] - _CUTS)), np.float64)


class KindWorld(TipWorld):
    """The same with candidates of few kinds and a taste for kinds by time of day: less varies by itself.

    Then a policy has to explore; where each candidate is another draw of all features, the greedy one learns as well.
    """

    def candidates(self, rng: np.random.Generator) -> Features:
        """One candidate of five of six kinds, shape (5, 32): kind, kind times clock, seven features of the text."""
        hour, is_weekend = rng.random() * 2 * np.pi, float(rng.random() < 2 / 7)
        kinds = np.eye(6)[rng.permutation(6)[:5]]
        clock = kinds[:, :, None] * np.array([np.sin(hour), np.cos(hour), is_weekend])
        text = 0.3 * rng.standard_normal((5, 7))
        return np.hstack([np.ones((5, 1)), kinds, clock.reshape(5, 18), text]).astype(np.float32)


class Player(Protocol):
    """Whoever chooses candidates and is told what came of it."""

    def decide(self, features: Features, seed: int) -> Choice: ...

    def learn(self, features: Features, choice: Choice, reward: float) -> None: ...


class Thompson:
    """The policy of the service."""

    def __init__(self, n_features: int, policy: ThompsonPolicy) -> None:
        self._policy = policy
        self._posterior = Posterior.prior(n_features)

    def decide(self, features: Features, seed: int) -> Choice:
        return self._policy.choose(self._posterior, features, seed)

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """Also computes what the next decision needs of the posterior: that is part of an update's cost."""
        self._posterior = self._posterior.updated(features[choice.chosen][None], np.array([reward]))
        _ = self._posterior.mean


@dataclass(frozen=True)
class Played:
    """share: of the gap in mean reward between a blind choice and the best one; CPU microseconds of a call."""

    share: float
    decide_us: float
    learn_us: float


def play(world: TipWorld, player: Player, seed: int, *, n_requests: int = 3000, delay: int = 20) -> Played:
    """Requests one after another; each reward is told `delay` requests later."""
    rng = np.random.default_rng(seed)
    told: list[tuple[Features, Choice, float]] = []
    gaps = np.zeros(2)
    deciding, learning = _Watch(), _Watch()
    for number in range(n_requests):
        if number >= delay:
            with learning:
                player.learn(*told[number - delay])
        features = world.candidates(rng)
        with deciding:
            choice = player.decide(features, number)
        expected = world.expected(features)
        gaps += np.array([expected[choice.chosen], expected.max()]) - expected.mean()
        told.append((features, choice, world.reward(features[choice.chosen], rng)))
    return Played(float(gaps[0] / gaps[1]), deciding.us / n_requests, learning.us / (n_requests - delay))


class _Watch:
    """Sums the CPU time of this process inside its `with` blocks, in microseconds."""

    def __init__(self) -> None:
        self.us = 0.0

    def __enter__(self) -> None:
        self._began = time.process_time_ns()

    def __exit__(self, *_: object) -> None:
        self.us += (time.process_time_ns() - self._began) / 1000
