"""The choice of a candidate: linear Thompson sampling over features that all candidates share. Pure.

Candidates are new texts every time, so nothing can be learned about a single one. The posterior learns how the
features move the reward. Thompson, "On the likelihood that one unknown probability exceeds another", 1933; for linear
rewards Agrawal & Goyal, "Thompson sampling for contextual bandits with linear payoffs", ICML 2013. The weights are
drawn once for each posterior, not for each choice, as in Lu & Van Roy, "Ensemble sampling", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

REWARDS: Mapping[str, float] = {"done": 1.0, "accepted": 0.75, "snoozed": 0.25, "ignored": 0.0, "dismissed": -0.5}
"""The reward of each reaction: a finished task is the goal of a tip, and a tip that annoys is worse than none."""

FloatArray = NDArray[np.float64]

_64_BITS = 2**64 - 1

_TIE_BREAK = 1e-5
"""Standard deviation of the noise of a score, which breaks ties between candidates with equal features at random."""

_DRAWS_SEED = 1933
"""The seed of all draws."""

_SYMMETRY_TOLERANCE = 1e-9
"""Largest accepted relative difference between a precision and its transpose."""

_MIN_PIVOT = 1e-7
"""Smallest accepted ratio of two pivots of a precision: with a smaller one its inverse has no correct digit."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """A normal distribution of the weights of d features, as natural parameters: sums, so updates commute.

    The mean of the weights is A^-1 b, their covariance is A^-1 times the variance of a reward's noise.

    precision: A = ridge * I + sum of x x', float64 of shape (d, d).
    weighted: b = sum of reward * x, float64 of shape (d,).
    n_updates: number of updates and corrections; identifies a state of a policy's posterior.
    """

    precision: FloatArray
    weighted: FloatArray
    n_updates: int

    @classmethod
    def prior(cls, n_features: int, ridge: float = 1.0) -> Posterior:
        """The posterior before any reward: each weight has mean 0 and precision `ridge`."""
        if not ridge > 0:
            raise ValueError(f"ridge={ridge}: expected a number above 0")
        return cls(ridge * np.eye(n_features), np.zeros(n_features), 0)

    @classmethod
    def from_bytes(cls, n_features: int, precision: bytes, weighted: bytes, n_updates: int) -> Posterior:
        """A posterior from `precision.tobytes()` and `weighted.tobytes()`; raises ValueError if it has a fault."""
        expected = (8 * n_features**2, 8 * n_features)
        if (n_bytes := (len(precision), len(weighted))) != expected:
            raise ValueError(f"a posterior of {n_features} features has {expected} bytes, not {n_bytes}")
        square = np.frombuffer(precision).reshape(n_features, n_features)
        posterior = cls(square, np.frombuffer(weighted), n_updates)
        if fault := posterior.fault:
            raise ValueError(fault)
        return posterior

    @property
    def n_features(self) -> int:
        """The number of features d."""
        return len(self.weighted)

    @cached_property
    def mean(self) -> FloatArray:
        """The expected weights A^-1 b, shape (d,)."""
        return self.covariance @ self.weighted

    @cached_property
    def covariance(self) -> FloatArray:
        """A^-1, symmetric, shape (d, d)."""
        inverse = np.linalg.inv(self.precision)
        return (inverse + inverse.T) / 2

    @property
    def fault(self) -> str:
        """The reason why nothing can be drawn from this distribution; empty if it can."""
        if self.n_updates < 0:
            return f"n_updates={self.n_updates}: expected a number from 0"
        if not (np.isfinite(self.precision).all() and np.isfinite(self.weighted).all()):
            return "its numbers are not all finite"
        if not np.allclose(self.precision, self.precision.T, rtol=_SYMMETRY_TOLERANCE):
            return "its precision is not symmetric"
        return "" if _is_positive_definite(self.precision) else "its precision is not positive definite"

    def updated(self, features: NDArray[Any], rewards: NDArray[Any]) -> Posterior:
        """The posterior after the rewards, shape (n,), of shown candidates with features of shape (n, d)."""
        x = _checked(features, self.n_features)
        y = _checked(np.reshape(rewards, (-1, 1)), 1, "rewards")[:, 0]
        if len(x) != len(y):
            raise ValueError(f"{len(x)} rows of features but {len(y)} rewards: expected one reward for each row")
        return Posterior(self.precision + x.T @ x, self.weighted + y @ x, self.n_updates + len(x))

    def corrected(self, features: NDArray[Any], by: float) -> Posterior:
        """The posterior after `by` is added to a reward that was counted before, such as that of a late reaction."""
        [row] = _checked(np.reshape(features, (1, -1)), self.n_features)
        if not np.isfinite(by):
            raise ValueError(f"by={by}: expected a finite difference of rewards")
        return Posterior(self.precision, self.weighted + by * row, self.n_updates + 1)


@dataclass(frozen=True, eq=False)
class Choice:
    """A policy's choice. chosen: index of the candidate; propensities: the probability of each, float32 (K,)."""

    chosen: int
    propensities: NDArray[np.float32]


@dataclass(frozen=True)
class ThompsonPolicy:
    """Shows each candidate with the probability that it is the best one under the posterior.

    spread: standard deviation of a reward's noise, by which the posterior is scaled. In the worlds of
        `benchmarks.bandit` all values up to 0.2 close the gap to the oracle equally well, within .015, and higher
        values are worse. The default explores most among them: its result on the worst seed is the best where
        candidates are similar, and its log tells more about other policies.
    n_draws: number of draws of the weights, an even one: with each draw there is the one opposite to the mean.
    floor: share of uniformly random choices. No probability is below floor / K, and no weight of an off-policy
        estimate above K / floor.
    """

    name: str
    spread: float = 0.2
    n_draws: int = 256
    floor: float = 0.05

    def __post_init__(self) -> None:
        if not (self.spread > 0 and self.n_draws > 0 and self.n_draws % 2 == 0 and 0 < self.floor <= 1):
            raise ValueError(
                f"{self}: expected spread above 0, an even n_draws above 0, and floor above 0 and at most 1"
            )

    def choose(self, posterior: Posterior, features: NDArray[np.float32], seed: int) -> Choice:
        """Choose one of K candidates with features of shape (K, d). seed: an integer from 0 that fixes the choice."""
        [choice] = self.choose_each(posterior, features[None], [len(features)], [seed])
        return choice

    def choose_each(
        self, posterior: Posterior, features: NDArray[np.float32], n_candidates: Sequence[int], seeds: Sequence[int]
    ) -> list[Choice]:
        """The choices of n requests, with features of shape (n, K, d).

        The propensities are those of `propensities`; the seed only decides which candidate is chosen by them.

        n_candidates: of each request, K for most; the rows beyond its number are padding. seeds: of each request.
        """
        if not min(n_candidates):
            raise ValueError("no candidate to choose from: features has 0 rows")
        propensities = self.propensities(posterior, features, np.array(n_candidates))
        chances = np.array([[_uniform(seed)] for seed in seeds])
        chosen = (propensities.cumsum(axis=1) <= chances).sum(axis=1).tolist()
        rows = zip(chosen, n_candidates, propensities.astype(np.float32), strict=True)
        return [Choice(min(index, n - 1), row[:n]) for index, n, row in rows]

    def propensities(
        self, posterior: Posterior, features: NDArray[np.float32], n_candidates: NDArray[np.int64] | None = None
    ) -> FloatArray:
        """The probability of each candidate in n choices, with features of shape (n, K, d); shape (n, K).

        It is the share of the drawn weights by which the candidate scores best, and a part of the floor. Candidates
        with the same best score share the draw.

        n_candidates: of each choice, shape (n,), if some have fewer than K: the probabilities of the others are 0.
        """
        n_rows, n_features = features.shape[1:]
        weights = _drawn_weights(posterior, self.spread, self.n_draws)
        _check(features.reshape(-1, n_features), posterior.n_features)
        scores = features @ weights  # a product for each choice: for a large one BLAS wakes threads, which cost more
        scores += _tie_breaks(n_rows, self.n_draws)
        counts = np.full(len(features), n_rows) if n_candidates is None else n_candidates
        is_candidate = np.arange(n_rows) < counts[:, None]
        scores[~is_candidate] = -np.inf
        # Maxima along the draws are vectorized, the positions of maxima are not.
        n_wins = np.count_nonzero(scores == scores.max(axis=1, keepdims=True), axis=2)
        shares = n_wins / n_wins.sum(axis=1, keepdims=True)
        return np.asarray(is_candidate * ((1 - self.floor) * shares + self.floor / counts[:, None]))


@lru_cache(maxsize=4)
def _drawn_weights(posterior: Posterior, spread: float, n_draws: int) -> NDArray[np.float32]:
    """Draws of the weights from a posterior, shape (d, n_draws): the same ones in every process."""
    half = _generator().standard_normal((posterior.n_features, n_draws // 2))
    deviations = spread * np.linalg.cholesky(posterior.covariance) @ np.hstack([half, -half])
    return (posterior.mean[:, None] + deviations).astype(np.float32)


@lru_cache(maxsize=64)
def _tie_breaks(n_candidates: int, n_draws: int) -> NDArray[np.float32]:
    """The noise of the scores, shape (K, n_draws)."""
    return np.float32(_TIE_BREAK) * _generator().standard_normal((n_candidates, n_draws), np.float32)


def _generator() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(_DRAWS_SEED))


def _uniform(seed: int) -> float:
    """A number from [0, 1) that is different for neighbouring seeds: the finalizer of splitmix64.

    Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. A generator of numpy costs ten
    times as much to create.
    """
    bits = (seed + 0x9E3779B97F4A7C15) & _64_BITS
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & _64_BITS
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & _64_BITS
    return ((bits ^ (bits >> 31)) >> 11) / 2**53


def _is_positive_definite(square: FloatArray) -> bool:
    """Whether a symmetric matrix has a Cholesky factor, and an inverse that floats can hold."""
    try:
        pivots = np.linalg.cholesky(square).diagonal()
    except np.linalg.LinAlgError:
        return False
    return bool(pivots.min() > _MIN_PIVOT * max(1.0, pivots.max()))


def _checked(values: NDArray[Any], n_columns: int, name: str = "features") -> FloatArray:
    """The values as float64; raises ValueError unless they are finite and of shape (n, n_columns)."""
    _check(values, n_columns, name)
    return values.astype(np.float64)


def _check(values: NDArray[Any], n_columns: int, name: str = "features") -> None:
    if values.ndim != 2 or values.shape[1] != n_columns:
        raise ValueError(f"{name} of shape {values.shape}: expected (n, {n_columns})")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"{name}[{row}, {column}] is {values[row, column]}: expected a finite number")
