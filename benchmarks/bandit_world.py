"""A simulated product: reactions depend on a hidden taste and reach the policy with a delay."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tips.bandit import REWARDS, Choice, Posterior, ThompsonPolicy

Features = NDArray[np.float32]
Numbers = NDArray[np.float64]

_REACTIONS = {"dismissed": 0.12, "ignored": 0.58, "snoozed": 0.08, "accepted": 0.13, "done": 0.09}
"""The rate of each reaction to a tip of average merit, from worst to best."""

_REWARD_VALUES = np.array([REWARDS[reaction] for reaction in _REACTIONS])
_CUMULATIVE_RATES = np.cumsum(list(_REACTIONS.values()))[:-1]
_CUTS = np.log(_CUMULATIVE_RATES / (1 - _CUMULATIVE_RATES))


@dataclass(frozen=True)
class TipWorld:
    """Reactions by an ordered logit: the odds of at most the j-th reaction are exp(cut_j - taste . x).

    The expected reward is therefore a monotonic function of a linear one, but not linear itself. Source: McCullagh,
    "Regression models for ordinal data", 1980.

    taste: weights of all features but the first, which is constant, shape (d - 1,).
    """

    taste: Numbers
    n_candidates: int = 10

    @classmethod
    def drawn(cls, seed: int, *, n_features: int = 32, strength: float = 2.0, n_candidates: int = 10) -> TipWorld:
        """A world with a taste in a random direction.

        strength: standard deviation of the taste's contribution to the log odds.
        """
        direction = np.random.default_rng(seed).normal(size=n_features - 1)
        return cls(strength * direction / np.linalg.norm(direction), n_candidates)

    def candidates(self, rng: np.random.Generator) -> Features:
        """New candidates, shape (n_candidates, d): a constant, and independent standard normal features."""
        features = rng.standard_normal((self.n_candidates, len(self.taste) + 1), np.float32)
        features[:, 0] = 1.0
        return features

    def expected(self, features: Features) -> Numbers:
        """The mean reward of each candidate, shape (K,)."""
        cumulative = np.pad(self._cumulative(features), ((0, 0), (1, 1)), constant_values=(0, 1))
        return np.asarray(np.diff(cumulative, axis=1) @ _REWARD_VALUES, np.float64)

    def reward(self, features: Features, rng: np.random.Generator) -> float:
        """The reward of a random reaction to one candidate with features of shape (d,)."""
        return float(_REWARD_VALUES[int((rng.random() > self._cumulative(features[None])[0]).sum())])

    def _cumulative(self, features: Features) -> Numbers:
        """The probability of each reaction or a worse one, without the best reaction, shape (K, 4)."""
        merit = features[:, 1:] @ self.taste
        return np.asarray(1 / (1 + np.exp(merit[:, None] - _CUTS)), np.float64)


class KindWorld(TipWorld):
    """A world with few kinds of candidates and a taste for kinds by time of day.

    Its features vary little by themselves, so a policy has to explore; with independent features, a greedy policy
    learns just as well.
    """

    def candidates(self, rng: np.random.Generator) -> Features:
        """Candidates of five random kinds, shape (5, 32): kind, kind times clock, seven features of the text."""
        hour, is_weekend = rng.random() * 2 * np.pi, float(rng.random() < 2 / 7)
        kinds = np.eye(6)[rng.permutation(6)[:5]]
        clock = kinds[:, :, None] * np.array([np.sin(hour), np.cos(hour), is_weekend])
        text = 0.3 * rng.standard_normal((5, 7))
        return np.hstack([np.ones((5, 1)), kinds, clock.reshape(5, 18), text]).astype(np.float32)


class Player(Protocol):
    """A policy with its state."""

    def decide(self, features: Features, seed: int) -> Choice:
        """Choose one of the candidates, features of shape (K, d)."""
        ...

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """Learn from the reward of an earlier choice."""
        ...


class Thompson:
    """The policy of the service."""

    def __init__(self, n_features: int, policy: ThompsonPolicy) -> None:
        self._policy = policy
        self._posterior = Posterior.prior(n_features)

    def decide(self, features: Features, seed: int) -> Choice:
        """Choose by Thompson sampling."""
        return self._policy.choose(self._posterior, features, seed)

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """Update the posterior, including the values that the next decision needs."""
        self._posterior = self._posterior.updated(features[choice.chosen][None], np.array([reward]))
        _ = self._posterior.mean  # computed lazily, but part of the cost of an update


@dataclass(frozen=True)
class PlayResult:
    """The result of one play.

    share: share of the gap in mean reward between a random choice and the best one.
    decide_us, learn_us: mean CPU microseconds of a call.
    """

    share: float
    decide_us: float
    learn_us: float


def play(world: TipWorld, player: Player, seed: int, *, n_requests: int = 3000, delay: int = 20) -> PlayResult:
    """Play requests one after the other; the player gets each reward `delay` requests later."""
    rng = np.random.default_rng(seed)
    experiences: list[tuple[Features, Choice, float]] = []
    gaps = np.zeros(2)
    deciding, learning = _Stopwatch(), _Stopwatch()
    for number in range(n_requests):
        if number >= delay:
            with learning:
                player.learn(*experiences[number - delay])
        features = world.candidates(rng)
        with deciding:
            choice = player.decide(features, number)
        expected = world.expected(features)
        gaps += np.array([expected[choice.chosen], expected.max()]) - expected.mean()
        experiences.append((features, choice, world.reward(features[choice.chosen], rng)))
    return PlayResult(float(gaps[0] / gaps[1]), deciding.us / n_requests, learning.us / (n_requests - delay))


class _Stopwatch:
    """Sums the CPU time of this process inside its `with` blocks, in microseconds."""

    def __init__(self) -> None:
        self.us = 0.0

    def __enter__(self) -> None:
        self._started = time.process_time_ns()

    def __exit__(self, *_: object) -> None:
        self.us += (time.process_time_ns() - self._started) / 1000
