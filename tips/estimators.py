"""Off-policy evaluation: the reward of another policy, estimated from the log of the deployed one. Pure.

Each logged reward is weighted by the ratio of the probabilities with which the other policy (the target) and the
logged policy make that choice. The log must hold the propensity of every candidate, above 0 for each that the target
may choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tips.bandit import FloatArray, Posterior

TargetProbabilities = Sequence[FloatArray]
"""For each logged decision the target's probabilities of its candidates, shape (K,)."""

CONFIDENCE_LEVEL = 0.95

_SUM_TOLERANCE = 1e-3
"""Largest accepted difference between 1 and the sum of a decision's probabilities."""

_BLOCK_DECISIONS = 2000
"""Decisions whose features are held as float64 at once."""


@dataclass(frozen=True, eq=False, slots=True)
class LoggedDecision:
    """A decision with its reward.

    features: of the candidates, shape (K, d).
    propensities: the logged policy's probabilities, shape (K,).
    chosen: index of the chosen candidate.
    """

    user_id: str
    features: NDArray[np.float32]
    propensities: NDArray[np.float32]
    chosen: int
    reward: float


@dataclass(frozen=True)
class Estimate:
    """A mean reward per decision, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """The estimated mean reward of a target policy.

    ipw: inverse propensity weighting: unbiased, with a variance that grows with uneven weights. Horvitz & Thompson,
        "A generalization of sampling without replacement from a finite universe", JASA 1952.
    snipw: ipw divided by the mean weight: slightly biased, less variance, equivariant to shifts of the reward.
        Swaminathan & Joachims, "The self-normalized estimator for counterfactual learning", NeurIPS 2015.
    dr: doubly robust: a model's prediction for the target, corrected by its weighted errors on the logged choices:
        unbiased like ipw, with less variance the better the model. Dudik, Langford, Li, "Doubly robust policy
        evaluation and learning", ICML 2011.
    effective_sample_size: number of the target's own decisions with the same information, (sum of w)^2 / sum of w^2.
        Kish, "Survey sampling", 1965.
    largest_weight: before clipping.
    n_clipped: number of weights lowered to the bound; if there are any, all three estimates are biased.
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
    log: Sequence[LoggedDecision],
    target: TargetProbabilities,
    *,
    seed: int,
    clip: float | None = None,
    n_resamples: int = 1000,
    n_folds: int = 5,
) -> Evaluation:
    """The target's mean reward by three estimators.

    Intervals come from a bootstrap over users, because the decisions of one user are not independent. They are
    infinite if the users are too few or too similar to bound a value. The model of `dr` is a ridge regression on the
    features, fitted for each fold of users on the other folds.
    Raises ValueError, with the faulty decision, if the log or the target cannot be used.

    clip: upper bound of the weights; None for no bound.
    """
    table = _Table(log, target)
    full = table.weights
    weights = full if clip is None else np.minimum(full, clip)
    expected, residual = table.modelled(user_folds(log, n_folds, seed))
    weighted, corrected, ones = weights * table.rewards, expected + weights * residual, np.ones(len(log))
    ratios = np.array([[weighted, ones], [weighted, weights], [corrected, ones]])
    per_user = _per_user(ratios.transpose(2, 0, 1), log)
    if len(per_user) < 2 or not weights.any():
        raise ValueError(
            f"{len(log)} decisions of {len(per_user)} users, {np.count_nonzero(weights)} of which the target could"
            " have made: an estimate with an interval needs two users and one such decision"
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


def user_folds(log: Sequence[LoggedDecision], n_folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each decision, from 0.

    All decisions of a user share a fold; the folds' numbers of users differ by at most one.
    """
    users, owner = np.unique([each.user_id for each in log], return_inverse=True)
    return np.random.default_rng(seed).permutation(len(users))[owner] % n_folds


def fitted_posterior(log: Sequence[LoggedDecision], ridge: float = 1.0) -> Posterior:
    """The posterior of a linear policy after these decisions; raises ValueError if there are none."""
    if not log:
        raise ValueError("no decision to learn from: halves of the users need at least two users")
    features = np.array([each.features[each.chosen] for each in log], np.float64)
    rewards = np.array([each.reward for each in log], np.float64)
    return Posterior.prior(features.shape[1], ridge).updated(features, rewards)


class _Table:
    """The log as flat arrays with one row for each candidate, in the order of the decisions.

    The features stay where they are, and are read in blocks: they are nearly all of a log's size.
    """

    def __init__(self, log: Sequence[LoggedDecision], target: TargetProbabilities) -> None:
        _check(log, target)
        self._log = log
        self._sizes = np.array([len(each.features) for each in log])
        self._starts = self._sizes.cumsum() - self._sizes
        self._chosen = self._starts + np.array([each.chosen for each in log])
        self._propensities = np.concatenate([each.propensities for each in log]).astype(np.float64)
        self._target = np.concatenate(target).astype(np.float64)
        self.rewards = np.array([each.reward for each in log], np.float64)

    @property
    def weights(self) -> FloatArray:
        """The ratio of target probability to propensity of each logged choice, shape (n,)."""
        weights: FloatArray = self._target[self._chosen] / self._propensities[self._chosen]
        return weights

    def modelled(self, fold: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """The model's expected reward of the target, and its error on the logged choice, each of shape (n,)."""
        models, predicted = self._models(fold), np.empty(len(self._target))
        for start in range(0, len(self._log), _BLOCK_DECISIONS):
            block = slice(start, start + _BLOCK_DECISIONS)
            rows = _with_constant(np.concatenate([each.features for each in self._log[block]]))
            model_of_row = models[np.repeat(fold[block], self._sizes[block])]
            first = self._starts[start]
            predicted[first : first + len(rows)] = np.einsum("ij,ij->i", rows, model_of_row)
        expected = np.add.reduceat(self._target * predicted, self._starts)
        return expected, self.rewards - predicted[self._chosen]

    def _models(self, fold: NDArray[np.int64]) -> FloatArray:
        """The weights of the model of each fold, learned from the choices of the other folds."""
        chosen = _with_constant(np.array([each.features[each.chosen] for each in self._log]))
        models = np.zeros((fold.max() + 1, chosen.shape[1]))
        for number in np.unique(fold):
            others = fold != number
            models[number] = Posterior.prior(chosen.shape[1]).updated(chosen[others], self.rewards[others]).mean
        return models


def _with_constant(features: NDArray[np.float32]) -> FloatArray:
    """Features as float64 behind a constant one, shape (n, 1 + d)."""
    rows = np.ones((len(features), 1 + features.shape[1]))
    rows[:, 1:] = features
    return rows


def _per_user(terms: FloatArray, log: Sequence[LoggedDecision]) -> FloatArray:
    """Sums of terms, shape (n, ...), over the decisions of each user."""
    users, owner = np.unique([each.user_id for each in log], return_inverse=True)
    columns = terms.reshape(len(terms), -1).T
    sums = [np.bincount(owner, weights=column, minlength=len(users)) for column in columns]
    per_user: FloatArray = np.stack(sums, axis=-1, dtype=np.float64).reshape(len(users), *terms.shape[1:])
    return per_user


def _estimates(per_user: FloatArray, seed: int, n_resamples: int) -> list[Estimate]:
    """Ratios of sums over users, with their intervals. per_user: shape (n_users, n_ratios, 2).

    The bootstrap is that of the studentised ratio, because a sample without the rare heavy weights looks both lower
    and more certain than it is. Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapter 12.
    """
    rng, n_users = np.random.default_rng(seed), len(per_user)
    above, below = per_user[..., 0], per_user[..., 1]
    moments = np.stack([above, below, above**2, above * below, below**2], axis=-1)
    draws = (np.bincount(rng.integers(n_users, size=n_users), minlength=n_users) for _ in range(n_resamples))
    value, error = _ratios(moments.sum(axis=0))
    values, errors = _ratios(np.array([np.tensordot(counts, moments, 1) for counts in draws]))
    with np.errstate(divide="ignore", invalid="ignore"):  # all users of a draw may be equal, or have no weight
        deviations = np.nan_to_num((values - value) / errors, posinf=np.inf, neginf=-np.inf)
    high, low = np.quantile(
        deviations, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2], axis=0, method="nearest"
    )
    bounds = zip(value, value - low * error, value - high * error, strict=True)
    return [Estimate(*map(float, each)) for each in bounds]


def _ratios(moments: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ratios a / b and their standard errors, from sums over users of a, b, a^2, ab, b^2, shape (..., 5)."""
    above, below, above2, product, below2 = np.moveaxis(moments, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = above / below
        return value, np.sqrt((above2 - 2 * value * product + value**2 * below2).clip(0)) / below


def _check(log: Sequence[LoggedDecision], target: TargetProbabilities) -> None:
    if not log or len(log) != len(target):
        raise ValueError(
            f"{len(log)} decisions and {len(target)} targets: expected at least one decision, and a target for each"
        )
    if not _are_usable(log, target):
        for number, (decision, probabilities) in enumerate(zip(log, target, strict=True)):
            if fault := _fault(decision, probabilities):
                raise ValueError(f"decision {number}, of user '{decision.user_id}': {fault}")
    if len(lengths := {decision.features.shape[1] for decision in log}) > 1:
        raise ValueError(f"decisions with {sorted(lengths)} features: expected the same number in all")


def _are_usable(log: Sequence[LoggedDecision], target: TargetProbabilities) -> bool:
    """Whether no decision has a fault: all checks of `_fault` at once."""
    sizes = np.array([len(each.features) for each in log])
    pairs = zip(log, target, strict=True)
    shapes = [(each.features.ndim, each.propensities.shape, values.shape) for each, values in pairs]
    chosen = np.array([each.chosen for each in log])
    if shapes != [(2, (size,), (size,)) for size in sizes.tolist()] or not ((chosen >= 0) & (chosen < sizes)).all():
        return False
    starts = sizes.cumsum() - sizes
    propensities, wanted = np.concatenate([each.propensities for each in log]), np.concatenate(target)
    sums = np.array([np.add.reduceat(values, starts, dtype=np.float64) for values in (propensities, wanted)])
    return bool(
        (propensities >= 0).all()
        and (wanted >= 0).all()
        and (np.abs(sums - 1) < _SUM_TOLERANCE).all()
        and (propensities[starts + chosen] > 0).all()
        and not ((propensities <= 0) & (wanted > 0)).any()
        and np.isfinite([each.reward for each in log]).all()
        and all(np.isfinite(each.features).all() for each in log)
    )


def _fault(decision: LoggedDecision, target: FloatArray) -> str:
    """The reason why a decision cannot be used; empty if it can."""
    n, propensities = len(decision.features), decision.propensities
    if decision.features.ndim != 2 or propensities.shape != (n,) or target.shape != (n,):
        shapes = f"{decision.features.shape}, {propensities.shape} and {target.shape}"
        return f"features, propensities and target are of shape {shapes}; expected (K, d), (K,) and (K,)"
    if not 0 <= decision.chosen < n:
        return f"chosen={decision.chosen}, of {n} candidates"
    if not (np.isfinite(decision.features).all() and np.isfinite(decision.reward)):
        return "its features or its reward are not finite"
    if not all(_are_probabilities(values) for values in (propensities, target)):
        return f"propensities {propensities.tolist()} and target {target.tolist()} must be 0 or more and sum to 1"
    if propensities[decision.chosen] <= 0:
        return f"candidate {decision.chosen} was chosen with a propensity of 0, so its weight is infinite"
    if never := np.flatnonzero((propensities <= 0) & (target > 0)).tolist():
        return f"the target may choose candidates {never}, which the logged policy never does: log one with a floor"
    return ""


def _are_probabilities(values: NDArray[np.floating]) -> bool:
    return bool((values >= 0).all() and abs(values.sum() - 1) < _SUM_TOLERANCE)
