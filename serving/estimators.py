"""What another policy would have earned, from the log of the one that chose. Pure.

Each logged reward is weighted by how much more often the other policy, the target, would have made that choice; the
log must tell the probability of every choice, and give each that the target might make some probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.bandit import Posterior

Numbers = NDArray[np.float64]
Target = Sequence[Numbers]
"""For each logged decision the target's probabilities of its candidates, shape (K,)."""

LEVEL = 0.95

_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Logged:
    """A decision with its outcome. features: (K, d); propensities: (K,), of the policy that chose; chosen: from 0."""

    user_id: str
    features: NDArray[np.float32]
    propensities: NDArray[np.float32]
    chosen: int
    reward: float


@dataclass(frozen=True)
class Estimate:
    """A mean reward per decision, with its interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """What is known of a target policy.

    ipw: inverse propensity weighting: unbiased; as uncertain as the weights are uneven. Horvitz & Thompson, "A
    generalization of sampling without replacement from a finite universe", JASA 1952.
    snipw: the same over the sum of the weights: a little biased, steadier, and the scale's zero does not matter.
    Swaminathan & Joachims, "The self-normalized estimator for counterfactual learning", NeurIPS 2015.
    dr: what a model predicts for the target, corrected by its weighted errors on the logged choices: as unbiased as
    ipw, and the better the model the steadier. Dudik, Langford, Li, "Doubly robust policy evaluation and learning",
    ICML 2011.
    effective_sample_size: so many decisions of the target itself would tell as much: (sum of w)^2 / sum of w^2. Kish,
    "Survey sampling", 1965.
    largest_weight: before it was clipped; n_clipped: weights lowered to the bound: if any, all three are biased.
    """

    ipw: Estimate
    snipw: Estimate
    dr: Estimate
    n_decisions: int
    n_users: int
    effective_sample_size: float
    largest_weight: float
    n_clipped: int


def evaluate(
    log: Sequence[Logged],
    target: Target,
    *,
    seed: int,
    clip: float | None = None,
    n_resamples: int = 1000,
    n_folds: int = 5,
) -> Evaluation:
    """The target's mean reward by three estimators; clip: the highest weight allowed.

    Intervals come from a bootstrap that draws whole users, whose decisions are no independent ones; where users are
    too few or too much alike to bound a value they are infinite. The model of `dr` is a ridge regression on the
    features, for each fold of users learned from the others.
    ValueError when the log or the target cannot be used, with the decision at fault.
    """
    table = _Table(log, target)
    full = table.weights
    weights = full if clip is None else np.minimum(full, clip)
    expected, residual = table.modelled(folds(log, n_folds, seed))
    weighted, corrected, ones = weights * table.rewards, expected + weights * residual, np.ones(len(log))
    ratios = np.array([[weighted, ones], [weighted, weights], [corrected, ones]])
    per_user = _per_user(ratios.transpose(2, 0, 1), log)
    if len(per_user) < 2 or not weights.any():
        raise ValueError(
            f"{len(log)} decisions of {len(per_user)} users, {np.count_nonzero(weights)} of them as the target could"
            " decide: an estimate with an interval needs two users and one such decision"
        )
    ipw, snipw, dr = _estimates(per_user, seed, n_resamples)
    return Evaluation(
        ipw=ipw,
        snipw=snipw,
        dr=dr,
        n_decisions=len(log),
        n_users=len(per_user),
        effective_sample_size=float(weights.sum() ** 2 / (weights**2).sum()),
        largest_weight=float(full.max()),
        n_clipped=int((full > weights).sum()),
    )


def folds(log: Sequence[Logged], n_folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each decision, from 0: all of a user's are in one, and each fold has about as many users."""
    users, owner = np.unique([each.user_id for each in log], return_inverse=True)
    return np.random.default_rng(seed).permutation(len(users))[owner] % n_folds


def learned(log: Sequence[Logged], ridge: float = 1.0) -> Posterior:
    """What a linear policy would know after these decisions; ValueError when there are none."""
    if not log:
        raise ValueError("there is no decision to learn from: where users are halved there must be two")
    seen = np.array([each.features[each.chosen] for each in log], np.float64)
    rewards = np.array([each.reward for each in log], np.float64)
    return Posterior.prior(seen.shape[1], ridge).updated(seen, rewards)


class _Table:
    """The log as flat arrays: one row a candidate, of all decisions one after another."""

    def __init__(self, log: Sequence[Logged], target: Target) -> None:
        _check(log, target)
        sizes = np.array([len(each.features) for each in log])
        self.rewards = np.array([each.reward for each in log], np.float64)
        self._owner = np.repeat(np.arange(len(log)), sizes)
        self._chosen = sizes.cumsum() - sizes + np.array([each.chosen for each in log])
        self._features = np.concatenate([each.features for each in log]).astype(np.float64)
        self._propensities = np.concatenate([each.propensities for each in log]).astype(np.float64)
        self._target = np.concatenate(target).astype(np.float64)

    @property
    def weights(self) -> Numbers:
        """How much more often the target makes each logged choice, shape (n,)."""
        weights: Numbers = self._target[self._chosen] / self._propensities[self._chosen]
        return weights

    def modelled(self, fold: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
        """The model's expectation of the target for each decision, and its error on the logged choice, each (n,)."""
        predicted = self._predicted(fold)
        expected = np.zeros(len(self.rewards))
        np.add.at(expected, self._owner, self._target * predicted)
        return expected, self.rewards - predicted[self._chosen]

    def _predicted(self, fold: NDArray[np.int64]) -> Numbers:
        """The reward of each candidate as those users foretell who are not in its fold."""
        inputs = np.column_stack([np.ones(len(self._features)), self._features])
        seen, predicted = inputs[self._chosen], np.empty(len(inputs))
        for number in np.unique(fold):
            others, rows = fold != number, fold[self._owner] == number
            model = Posterior.prior(inputs.shape[1]).updated(seen[others], self.rewards[others])
            predicted[rows] = inputs[rows] @ model.mean
        return predicted


def _per_user(terms: Numbers, log: Sequence[Logged]) -> Numbers:
    """The sums over each user's decisions of terms (n, ...)."""
    users, owner = np.unique([each.user_id for each in log], return_inverse=True)
    sums = np.zeros((len(users), *terms.shape[1:]))
    np.add.at(sums, owner, terms)
    return sums


def _estimates(per_user: Numbers, seed: int, n_resamples: int) -> list[Estimate]:
    """Ratios of sums over users, given as (n_users, ratios, 2), with their intervals.

    The bootstrap is that of the studentised ratio: it sees that a sample without the rare heavy weights looks both
    lower and more certain than it is. Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapter 12.
    """
    rng, n_users = np.random.default_rng(seed), len(per_user)
    above, below = per_user[..., 0], per_user[..., 1]
    moments = np.stack([above, below, above**2, above * below, below**2], axis=-1)
    draws = (np.bincount(rng.integers(n_users, size=n_users), minlength=n_users) for _ in range(n_resamples))
    value, error = _ratios(moments.sum(axis=0))
    values, errors = _ratios(np.array([np.tensordot(counts, moments, 1) for counts in draws]))
    with np.errstate(divide="ignore", invalid="ignore"):  # users of one draw may be all alike, or without a weight
        apart = np.nan_to_num((values - value) / errors, posinf=np.inf, neginf=-np.inf)
    high, low = np.quantile(apart, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="nearest")
    bounds = zip(value, value - low * error, value - high * error, strict=True)
    return [Estimate(*map(float, each)) for each in bounds]


def _ratios(moments: Numbers) -> tuple[Numbers, Numbers]:
    """Ratios and their standard errors out of sums over users of a, b, a^2, ab, b^2, shape (..., 5)."""
    above, below, above2, product, below2 = np.moveaxis(moments, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = above / below
        return value, np.sqrt((above2 - 2 * value * product + value**2 * below2).clip(0)) / below


def _check(log: Sequence[Logged], target: Target) -> None:
    if not log or len(log) != len(target):
        raise ValueError(f"{len(log)} decisions and targets for {len(target)}: some, and one for each, are wanted")
    for number, (each, wanted) in enumerate(zip(log, target, strict=True)):
        if fault := _fault(each, wanted):
            raise ValueError(f"decision {number}, of user '{each.user_id}': {fault}")
    if len(lengths := {each.features.shape[1] for each in log}) > 1:
        raise ValueError(f"decisions with {sorted(lengths)} features: those of one length are wanted")


def _fault(each: Logged, wanted: Numbers) -> str:
    """What is wrong with a decision; nothing most of the time."""
    n = len(each.features)
    if each.features.ndim != 2 or each.propensities.shape != (n,) or wanted.shape != (n,):
        shapes = f"{each.features.shape}, {each.propensities.shape} and {wanted.shape}"
        return f"features, propensities and target are of shape {shapes}; (K, d), (K,) and (K,) are wanted"
    if not 0 <= each.chosen < n:
        return f"chosen={each.chosen}, of {n} candidates"
    if not (np.isfinite(each.features).all() and np.isfinite(each.reward)):
        return "its features or its reward are not finite"
    if not all(_are_probabilities(values) for values in (each.propensities, wanted)):
        return (
            f"propensities {each.propensities.tolist()} and target {wanted.tolist()} must be 0 or more and sum to 1"
        )
    if each.propensities[each.chosen] <= 0:
        return f"candidate {each.chosen} was chosen with a propensity of 0: then its weight is without bound"
    if never := np.flatnonzero((each.propensities <= 0) & (wanted > 0)).tolist():
        return f"the target may choose candidates {never}, which the logged policy never does: log one with a floor"
    return ""


def _are_probabilities(values: NDArray[np.floating]) -> bool:
    return bool((values >= 0).all() and abs(values.sum() - 1) < _TOLERANCE)
