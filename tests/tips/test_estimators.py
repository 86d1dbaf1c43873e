"""Off-policy estimates on logs with a known truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.bandit_world import TipWorld
from tips.bandit import FloatArray
from tips.estimators import Evaluation, LoggedDecision, evaluate, fitted_posterior, user_folds

WORLD = TipWorld.drawn(0, n_features=6, strength=1.5, n_candidates=4)
N_USERS = 40
N_LOGS = 150


def shares(scores: FloatArray) -> FloatArray:
    """Probabilities that rise with the scores, with a floor."""
    odds: FloatArray = np.exp(scores)
    return np.asarray(0.9 * odds / odds.sum() + 0.1 / len(scores))


def target_policy(features: NDArray[np.float32]) -> FloatArray:
    """The target policy's probabilities; it knows a part of the taste."""
    return shares(features[:, 1:] @ WORLD.taste)


def logs(seed: int, n_per_user: int = 10) -> list[LoggedDecision]:
    """Decisions of another policy, ten for each user; the mean reward differs between users."""
    rng = np.random.default_rng(seed)
    return [
        decision(f"user-{number}", kindness, rng)
        for number, kindness in enumerate(rng.normal(0, 0.1, N_USERS))
        for _ in range(n_per_user)
    ]


def decision(user: str, kindness: float, rng: np.random.Generator) -> LoggedDecision:
    features = WORLD.candidates(rng)
    propensities = shares(features[:, 1].astype(np.float64))
    chosen = int(rng.choice(len(features), p=propensities))
    reward = WORLD.reward(features[chosen], rng) + kindness
    return LoggedDecision(user, features, propensities.astype(np.float32), chosen, reward)


def with_linear_reward(each: LoggedDecision) -> LoggedDecision:
    """The same decision with a reward that is a linear function of the features."""
    return replace(each, reward=float(each.features[each.chosen, 1:] @ WORLD.taste))


def target(log: Sequence[LoggedDecision]) -> list[FloatArray]:
    return [target_policy(each.features) for each in log]


def evaluated(log: Sequence[LoggedDecision], **options: Any) -> Evaluation:
    return evaluate(log, target(log), **{"seed": 0, "n_resamples": 400, **options})


def single(
    user: str, reward: float, chosen: int = 0, propensities: tuple[float, float] = (0.5, 0.5)
) -> LoggedDecision:
    """A decision between two candidates."""
    return LoggedDecision(user, np.eye(2, dtype=np.float32), np.array(propensities, np.float32), chosen, reward)


@pytest.fixture(scope="module")
def truth() -> float:
    rng = np.random.default_rng(123)
    many = [WORLD.candidates(rng) for _ in range(20_000)]
    return float(np.mean([target_policy(features) @ WORLD.expected(features) for features in many]))


@pytest.fixture(scope="module")
def repeated() -> list[Evaluation]:
    """The evaluations of many logs from one world."""
    return [evaluated(logs(seed)) for seed in range(N_LOGS)]


NAMES = ("ipw", "snipw", "dr")


class TestTruth:
    @pytest.mark.parametrize("name", NAMES)
    def test_unbiased(self, name: str, repeated: list[Evaluation], truth: float) -> None:
        """The mean of an estimate over many logs is the truth, within sampling error."""
        values = [getattr(each, name).value for each in repeated]
        assert abs(np.mean(values) - truth) < 3 * np.std(values) / np.sqrt(N_LOGS)

    @pytest.mark.parametrize("name", NAMES)
    def test_coverage(self, name: str, repeated: list[Evaluation], truth: float) -> None:
        """About 95 of a hundred intervals contain the truth."""
        estimates = [getattr(each, name) for each in repeated]
        assert 0.88 <= np.mean([each.low <= truth <= each.high for each in estimates]) <= 0.99

    def test_logged_mean_differs(self, truth: float) -> None:
        """The mean of the logged rewards differs from the target's, so the estimates are needed."""
        assert truth - np.mean([each.reward for seed in range(10) for each in logs(seed)]) > 0.05

    def test_less_variance(self, repeated: list[Evaluation]) -> None:
        """With noisy rewards the self-normalised and the doubly robust estimate vary less than plain weighting."""
        ipw, snipw, dr = (np.std([getattr(each, name).value for each in repeated]) for name in NAMES)
        assert dr < ipw
        assert snipw < ipw

    def test_good_model(self) -> None:
        """With a model that fits the reward, the doubly robust estimate varies less than half as much."""
        found = [evaluated([with_linear_reward(each) for each in logs(seed)], n_resamples=10) for seed in range(30)]
        ipw, dr = (np.std([getattr(each, name).value for each in found]) for name in ("ipw", "dr"))
        assert dr < 0.5 * ipw


class TestByHand:
    LOG = (single("ann", 1.0), single("ann", 0.0, chosen=1), single("bob", 0.5, propensities=(0.25, 0.75)))
    TARGET = (np.array([0.75, 0.25]),) * 3  # weights 1.5, 0.5, 3

    def test_values(self) -> None:
        """Three decisions, worked out on paper."""
        found = evaluate(self.LOG, self.TARGET, seed=0)
        assert found.ipw.value == pytest.approx((1.5 * 1 + 3 * 0.5) / 3)
        assert found.snipw.value == pytest.approx((1.5 * 1 + 3 * 0.5) / 5)
        assert found.effective_sample_size == pytest.approx(25 / (1.5**2 + 0.5**2 + 3**2))
        assert (found.n_decisions, found.n_users, found.largest_weight, found.n_clipped) == (3, 2, 3, 0)

    def test_clipped(self) -> None:
        """A bound lowers the weights above it, and their number is reported."""
        found = evaluate(self.LOG, self.TARGET, seed=0, clip=1)
        assert found.ipw.value == pytest.approx((1 * 1 + 1 * 0.5) / 3)
        assert found.snipw.value == pytest.approx((1 * 1 + 1 * 0.5) / 2.5)
        assert (found.largest_weight, found.n_clipped) == (3, 2)

    def test_doubly_robust(self) -> None:
        """The estimate equals a loop over the formula, with a ridge regression on the users of the other folds."""
        log = logs(0)
        fold = user_folds(log, 5, seed=0)
        terms = []
        for each, number in zip(log, fold, strict=True):
            others = [other for other, at in zip(log, fold, strict=True) if at != number]
            rows = np.array([[1.0, *other.features[other.chosen]] for other in others])
            inner = rows.T @ rows + np.eye(7)
            weights = np.linalg.solve(inner, rows.T @ [other.reward for other in others])
            predicted = weights[0] + each.features @ weights[1:]
            probabilities = target_policy(each.features)
            weight = probabilities[each.chosen] / each.propensities[each.chosen]
            terms.append(probabilities @ predicted + weight * (each.reward - predicted[each.chosen]))
        assert evaluated(log).dr.value == pytest.approx(np.mean(terms))

    def test_any_number_of_candidates(self) -> None:
        """Decisions may have different numbers of candidates, even a single one."""
        alone = LoggedDecision("bob", np.eye(2, dtype=np.float32)[:1], np.ones(1, np.float32), 0, 1.0)
        found = evaluate([single("ann", 0.0), alone], [np.array([1.0, 0.0]), np.ones(1)], seed=0)
        assert found.ipw.value == pytest.approx((2 * 0 + 1 * 1) / 2)


class TestProperties:
    def test_logged_policy(self) -> None:
        """The logged policy is worth the mean of its rewards, with the full effective sample size."""
        log = logs(0)
        found = evaluate(log, [each.propensities.astype(np.float64) for each in log], seed=0)
        mean = np.mean([each.reward for each in log])
        assert [found.ipw.value, found.snipw.value] == pytest.approx([mean, mean])
        assert found.dr.value == pytest.approx(mean, abs=0.02)
        assert found.effective_sample_size == pytest.approx(len(log))

    def test_shifted_rewards(self) -> None:
        """Shifting the rewards shifts the self-normalised estimate; plain weighting loses its precision."""
        log = logs(0)
        shifted = [replace(each, reward=each.reward + 10) for each in log]
        before, after = evaluated(log), evaluated(shifted)
        assert after.snipw.value == pytest.approx(before.snipw.value + 10)
        assert after.snipw.high - after.snipw.low == pytest.approx(before.snipw.high - before.snipw.low)
        assert after.ipw.high - after.ipw.low > 5 * (before.ipw.high - before.ipw.low)

    def test_sample_of_users(self) -> None:
        """Repeating the same decisions five times does not narrow the intervals: users count, not rows."""
        log = logs(0)
        once, often = evaluated(log), evaluated(log * 5)
        for name in ("ipw", "snipw"):
            assert getattr(often, name).low == pytest.approx(getattr(once, name).low)
            assert getattr(often, name).high == pytest.approx(getattr(once, name).high)

    def test_more_users(self) -> None:
        """More users give narrower intervals."""
        few = evaluated(logs(0))
        log = [replace(each, user_id=f"{each.user_id}-{seed}") for seed in range(9) for each in logs(seed)]
        many = evaluated(log)
        assert many.dr.high - many.dr.low < 0.5 * (few.dr.high - few.dr.low)

    def test_seed(self) -> None:
        """The same seed gives the same figures; a different one gives other intervals around the same means."""
        log = logs(0)
        assert evaluated(log) == evaluated(log)
        assert evaluated(log, seed=1).ipw != evaluated(log).ipw
        assert evaluated(log, seed=1).ipw.value == evaluated(log).ipw.value

    def test_folds(self) -> None:
        """All decisions of a user are in one fold, and the numbers of users of two folds differ by at most one."""
        log = logs(0)
        fold = user_folds(log, 5, seed=3)
        assert all(
            a == b for (a, one), (b, other) in pairwise(zip(fold, log, strict=True)) if one.user_id == other.user_id
        )
        assert np.bincount(fold).tolist() == [len(log) // 5] * 5

    def test_learned(self) -> None:
        """The fitted posterior knows which features go with which rewards."""
        posterior = fitted_posterior([single("ann", 1.0), single("bob", -1.0, chosen=1)])
        assert posterior.mean.tolist() == [0.5, -0.5]
        with pytest.raises(ValueError, match="no decision to learn from"):
            fitted_posterior([])


class TestRefusals:
    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"propensities": np.array([0, 1], np.float32)}, "candidate 0 was chosen with a propensity of 0"),
            ({"propensities": np.array([1, 0], np.float32)}, r"may choose candidates \[1\], which .* never does"),
            ({"propensities": np.array([0.5, 0.6], np.float32)}, "sum to 1"),
            ({"propensities": np.array([1.5, -0.5], np.float32)}, "must be 0 or more"),
            ({"propensities": np.array([0.5, np.nan], np.float32)}, "must be 0 or more"),
            ({"propensities": np.ones(1, np.float32)}, r"of shape \(2, 2\), \(1,\) and \(2,\)"),
            ({"chosen": 2}, "chosen=2, of 2 candidates"),
            ({"chosen": -1}, "chosen=-1"),
            ({"reward": np.nan}, "not finite"),
            ({"features": np.full((2, 2), np.inf, np.float32)}, "not finite"),
        ],
    )
    def test_decisions(self, wrong: dict[str, Any], says: str) -> None:
        """A decision that would falsify an estimate is refused with its position and user."""
        log = [single("ann", 1.0), replace(single("bob", 1.0), **wrong)]
        with pytest.raises(ValueError, match=f"decision 1, of user 'bob': .*{says}"):
            evaluate(log, [np.array([0.5, 0.5])] * 2, seed=0)

    def test_target(self) -> None:
        """A target must consist of probabilities."""
        with pytest.raises(ValueError, match=r"target \[0.5, 0.4\] must be 0 or more and sum to 1"):
            evaluate([single("ann", 1.0)], [np.array([0.5, 0.4])], seed=0)

    def test_no_decisions(self) -> None:
        """An empty log, and a log without a target for each decision, are refused."""
        for log in ([], [single("ann", 1.0)]):
            with pytest.raises(
                ValueError, match=f"{len(log)} decisions and 2 targets: expected at least one decision"
            ):
                evaluate(log, [np.ones(1)] * 2, seed=0)

    def test_other_features(self) -> None:
        """Decisions with different numbers of features are refused."""
        wide = replace(single("bob", 1.0), features=np.ones((2, 3), np.float32))
        with pytest.raises(ValueError, match=r"decisions with \[2, 3\] features"):
            evaluate([single("ann", 1.0), wide], [np.array([0.5, 0.5])] * 2, seed=0)

    def test_one_user(self) -> None:
        """One user is not a sample of users."""
        with pytest.raises(ValueError, match="2 decisions of 1 users"):
            evaluate([single("ann", 1.0)] * 2, [np.array([0.5, 0.5])] * 2, seed=0)

    def test_no_common_choice(self) -> None:
        """A target that would have made none of the logged choices cannot be evaluated."""
        with pytest.raises(ValueError, match="0 of which the target could have made"):
            evaluate([single("ann", 1.0), single("bob", 1.0)], [np.array([0.0, 1.0])] * 2, seed=0)
