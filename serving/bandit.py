"""Which candidate to show: linear Thompson sampling over features that all candidates share. Pure.

Candidates are new texts every time, so nothing is learned of one by itself; what is learned is how the features move
the reward. Thompson, "On the likelihood that one unknown probability exceeds another", 1933; for linear rewards
Agrawal & Goyal, "Thompson sampling for contextual bandits with linear payoffs", ICML 2013.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

REWARDS: Mapping[str, float] = {"done": 1.0, "accepted": 0.75, "snoozed": 0.25, "ignored": 0.0, "dismissed": -0.5}
"""What each reaction to a tip is worth: a task done is what tips are for, a tip that annoys is worse than none."""

Matrix = NDArray[np.float64]

_JITTER = 1e-9
"""Share of a score's variance that is its own: candidates of equal features stay distinct, so chance parts them."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is known of the weights of d features, as natural parameters: sums, so updates come in any order.

    precision: A = ridge * I + sum of x x', float64 of shape (d, d); weighted: b = sum of reward * x, (d,).
    The weights are about A^-1 b, with covariance A^-1 times the variance of a reward's noise.
    n_updates: how often it was moved, by rewards and by corrections; tells one posterior of a policy from another.
    """

    precision: Matrix
    weighted: Matrix
    n_updates: int

    @classmethod
    def prior(cls, n_features: int, ridge: float = 1.0) -> Posterior:
        """What is known before any reward: each weight is 0, with a precision of `ridge`."""
        if not ridge > 0:
            raise ValueError(f"ridge={ridge}: a number above 0 is wanted")
        return cls(ridge * np.eye(n_features), np.zeros(n_features), 0)

    @classmethod
    def stored(cls, n_features: int, precision: bytes, weighted: bytes, n_updates: int) -> Posterior:
        """A posterior out of `precision.tobytes()` and `weighted.tobytes()`."""
        wanted = (8 * n_features**2, 8 * n_features)
        if (found := (len(precision), len(weighted))) != wanted:
            raise ValueError(f"a posterior of {n_features} features has {wanted} bytes, not {found}")
        square = np.frombuffer(precision).reshape(n_features, n_features)
        return cls(square, np.frombuffer(weighted), n_updates)

    @property
    def n_features(self) -> int:
        return len(self.weighted)

    @cached_property
    def mean(self) -> Matrix:
        """The expected weights A^-1 b, shape (d,)."""
        return self.covariance @ self.weighted

    @cached_property
    def covariance(self) -> Matrix:
        """A^-1, symmetric, shape (d, d)."""
        inverse = np.linalg.inv(self.precision)
        return (inverse + inverse.T) / 2

    def updated(self, features: NDArray[Any], rewards: NDArray[Any]) -> Posterior:
        """With the rewards (n,) of candidates that were shown, whose features are (n, d)."""
        seen = _checked(features, self.n_features)
        earned = _checked(np.reshape(rewards, (-1, 1)), 1, "rewards")[:, 0]
        if len(seen) != len(earned):
            raise ValueError(f"{len(seen)} rows of features but {len(earned)} rewards: one reward a row is wanted")
        return Posterior(self.precision + seen.T @ seen, self.weighted + earned @ seen, self.n_updates + len(seen))

    def corrected(self, features: NDArray[Any], by: float) -> Posterior:
        """With one reward, counted already, higher by so much: a tip held for ignored was accepted after all."""
        [row] = _checked(np.reshape(features, (1, -1)), self.n_features)
        if not np.isfinite(by):
            raise ValueError(f"by={by}: a finite difference of rewards is wanted")
        return Posterior(self.precision, self.weighted + by * row, self.n_updates + 1)


@dataclass(frozen=True, eq=False)
class Choice:
    """chosen: the candidate's position, from 0; propensities: the probability of each, shape (K,), float32."""

    chosen: int
    propensities: NDArray[np.float32]


@dataclass(frozen=True)
class ThompsonPolicy:
    """Each candidate is shown as often as it would be the best one, were the weights drawn from the posterior.

    spread: standard deviation of a reward's noise, by which the posterior is scaled. In the worlds of
    `benchmarks.bandit` all values up to 0.2 come within .015 of each other in the share of the oracle's gap, and
    higher ones lose. The default is the one of them that explores most: it fares best on the worst seed where
    candidates are much alike, and its log tells more of other policies.
    n_draws: by which the probabilities are found; floor: the share of choices made blindly, so that no candidate's
    probability is below floor / K and no weight of an off-policy estimate above K / floor.
    """

    name: str
    spread: float = 0.2
    n_draws: int = 200
    floor: float = 0.05

    def __post_init__(self) -> None:
        if not (self.spread > 0 and self.n_draws > 0 and 0 < self.floor <= 1):
            raise ValueError(f"{self}: a spread above 0, some draws and a floor above 0 and up to 1 are wanted")

    def choose(self, posterior: Posterior, features: NDArray[np.float32], seed: int) -> Choice:
        """One of K candidates of features (K, d); the same one for the same seed, a whole number from 0.

        The propensities are those of the draws that the seed gives, and the choice is made from them by a number that
        no draw depends on: on average over seeds they are the policy's probabilities, and for one seed the choice's.
        """
        candidates = _checked(features, posterior.n_features)
        if not len(candidates):
            raise ValueError("there is no candidate to choose from: features has 0 rows")
        rng = np.random.Generator(np.random.PCG64(seed))
        shares = self._shares(posterior, candidates, rng)
        propensities = (1 - self.floor) * shares + self.floor / len(candidates)
        chosen = np.searchsorted(propensities.cumsum(), rng.random(), side="right")
        return Choice(min(int(chosen), len(candidates) - 1), propensities.astype(np.float32))

    def _shares(self, posterior: Posterior, candidates: Matrix, rng: np.random.Generator) -> Matrix:
        """How often each candidate scores best. Scores are drawn, not weights: K of them for each draw, not d."""
        covariance = candidates @ posterior.covariance @ candidates.T
        covariance.flat[:: len(covariance) + 1] += _JITTER * covariance.diagonal() + _JITTER**2
        noise = rng.standard_normal((self.n_draws, len(candidates))) @ np.linalg.cholesky(covariance).T
        best = (candidates @ posterior.mean + self.spread * noise).argmax(axis=1)
        return np.bincount(best, minlength=len(candidates)) / self.n_draws


def _checked(values: NDArray[Any], n_columns: int, name: str = "features") -> Matrix:
    """The values as float64, shape (n, n_columns); ValueError when they have another shape or are not all finite."""
    if values.ndim != 2 or values.shape[1] != n_columns:
        raise ValueError(f"{name} of shape {values.shape}: (n, {n_columns}) is wanted")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"{name}[{row}, {column}] is {values[row, column]}: a finite number is wanted")
    return values.astype(np.float64)
