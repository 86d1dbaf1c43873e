"""Off-policy estimates, on logs whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.bandit_world import TipWorld
from serving.estimators import Evaluation, Logged, evaluate, folds, learned

WORLD = TipWorld.drawn(0, n_features=6, strength=1.5, n_candidates=4)
N_USERS = 40
N_LOGS = 150

Matrix = NDArray[np.float64]


def shares(scores: Matrix) -> Matrix:
    """Probabilities that rise with the scores, and a floor."""
    odds: Matrix = np.exp(scores)
    return np.asarray(0.9 * odds / odds.sum() + 0.1 / len(scores))


def wanted(features: NDArray[np.float32]) -> Matrix:
    """The policy to be evaluated, which knows something of the taste."""
    return shares(features[:, 1:] @ WORLD.taste)


def logs(seed: int, n_per_user: int = 10) -> list[Logged]:
    """Decisions of another policy, ten a user; some users are kinder than others."""
    rng = np.random.default_rng(seed)
    return [
        decision(f"user-{number}", kindness, rng)
        for number, kindness in enumerate(rng.normal(0, 0.1, N_USERS))
        for _ in range(n_per_user)
    ]


def decision(user: str, kindness: float, rng: np.random.Generator) -> Logged:
    features = WORLD.candidates(rng)
    propensities = shares(features[:, 1].astype(np.float64))
    chosen = int(rng.choice(len(features), p=propensities))
    reward = WORLD.reward(features[chosen], rng) + kindness
    return Logged(user, features, propensities.astype(np.float32), chosen, reward)


def told(each: Logged) -> Logged:
    """The same decision where the reward is a linear function of the features."""
    return replace(each, reward=float(each.features[each.chosen, 1:] @ WORLD.taste))


def target(log: Sequence[Logged]) -> list[Matrix]:
    return [wanted(each.features) for each in log]


def evaluated(log: Sequence[Logged], **options: Any) -> Evaluation:
    return evaluate(log, target(log), **{"seed": 0, "n_resamples": 400, **options})


def single(user: str, reward: float, chosen: int = 0, propensities: tuple[float, float] = (0.5, 0.5)) -> Logged:
    """A decision between two candidates."""
    return Logged(user, np.eye(2, dtype=np.float32), np.array(propensities, np.float32), chosen, reward)


@pytest.fixture(scope="module")
def truth() -> float:
    rng = np.random.default_rng(123)
    many = [WORLD.candidates(rng) for _ in range(20_000)]
    return float(np.mean([wanted(features) @ WORLD.expected(features) for features in many]))


@pytest.fixture(scope="module")
def repeated() -> list[Evaluation]:
    """The evaluations of many logs of one world."""
    return [evaluated(logs(seed)) for seed in range(N_LOGS)]


NAMES = ("ipw", "snipw", "dr")


class TestTruth:
    @pytest.mark.parametrize("name", NAMES)
    def test_unbiased(self, name: str, repeated: list[Evaluation], truth: float) -> None:
        """On average over logs an estimate is the truth, within sampling error."""
        values = [getattr(each, name).value for each in repeated]
        assert abs(np.mean(values) - truth) < 3 * np.std(values) / np.sqrt(N_LOGS)

    @pytest.mark.parametrize("name", NAMES)
    def test_coverage(self, name: str, repeated: list[Evaluation], truth: float) -> None:
        """About 95 of a hundred intervals hold the truth."""
        estimates = [getattr(each, name) for each in repeated]
        assert 0.88 <= np.mean([each.low <= truth <= each.high for each in estimates]) <= 0.99

    def test_logged_mean_is_another(self, truth: float) -> None:
        """The mean of the logged rewards is not the target's: what the estimates are for."""
        assert truth - np.mean([each.reward for seed in range(10) for each in logs(seed)]) > 0.05

    def test_steadier(self, repeated: list[Evaluation]) -> None:
        """Where most of a reward is chance, the self-normalised and the doubly robust estimate vary a little less."""
        ipw, snipw, dr = (np.std([getattr(each, name).value for each in repeated]) for name in NAMES)
        assert dr < ipw
        assert snipw < ipw

    def test_a_good_model(self) -> None:
        """Where the model tells the reward, the doubly robust estimate varies but a fraction as much."""
        found = [evaluated([told(each) for each in logs(seed)], n_resamples=10) for seed in range(30)]
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
        """A bound lowers the weights above it, and tells how many."""
        found = evaluate(self.LOG, self.TARGET, seed=0, clip=1)
        assert found.ipw.value == pytest.approx((1 * 1 + 1 * 0.5) / 3)
        assert found.snipw.value == pytest.approx((1 * 1 + 1 * 0.5) / 2.5)
        assert (found.largest_weight, found.n_clipped) == (3, 2)

    def test_doubly_robust(self) -> None:
        """The same as a loop over the formula, with a ridge regression on the users of the other folds."""
        log = logs(0)
        fold = folds(log, 5, seed=0)
        terms = []
        for each, number in zip(log, fold, strict=True):
            others = [other for other, at in zip(log, fold, strict=True) if at != number]
            rows = np.array([[1.0, *other.features[other.chosen]] for other in others])
            inner = rows.T @ rows + np.eye(7)
            weights = np.linalg.solve(inner, rows.T @ [other.reward for other in others])
            predicted = weights[0] + each.features @ weights[1:]
            probabilities = wanted(each.features)
            weight = probabilities[each.chosen] / each.propensities[each.chosen]
            terms.append(probabilities @ predicted + weight * (each.reward - predicted[each.chosen]))
        assert evaluated(log).dr.value == pytest.approx(np.mean(terms))

    def test_candidates_of_any_number(self) -> None:
        """Decisions may have had different numbers of candidates; one with a single candidate counts as it is."""
        alone = Logged("bob", np.eye(2, dtype=np.float32)[:1], np.ones(1, np.float32), 0, 1.0)
        found = evaluate([single("ann", 0.0), alone], [np.array([1.0, 0.0]), np.ones(1)], seed=0)
        assert found.ipw.value == pytest.approx((2 * 0 + 1 * 1) / 2)


class TestProperties:
    def test_logged_policy(self) -> None:
        """The policy that chose is worth the mean of its rewards, with every decision counting in full."""
        log = logs(0)
        found = evaluate(log, [each.propensities.astype(np.float64) for each in log], seed=0)
        mean = np.mean([each.reward for each in log])
        assert [found.ipw.value, found.snipw.value] == pytest.approx([mean, mean])
        assert found.dr.value == pytest.approx(mean, abs=0.02)
        assert found.effective_sample_size == pytest.approx(len(log))

    def test_shifted_rewards(self) -> None:
        """On another scale of rewards the self-normalised estimate moves along; the plain one loses all precision."""
        log = logs(0)
        shifted = [replace(each, reward=each.reward + 10) for each in log]
        before, after = evaluated(log), evaluated(shifted)
        assert after.snipw.value == pytest.approx(before.snipw.value + 10)
        assert after.snipw.high - after.snipw.low == pytest.approx(before.snipw.high - before.snipw.low)
        assert after.ipw.high - after.ipw.low > 5 * (before.ipw.high - before.ipw.low)

    def test_users_are_the_sample(self) -> None:
        """The same decisions five times over are no more evidence: users count, not rows."""
        log = logs(0)
        once, often = evaluated(log), evaluated(log * 5)
        for name in ("ipw", "snipw"):
            assert getattr(often, name).low == pytest.approx(getattr(once, name).low)
            assert getattr(often, name).high == pytest.approx(getattr(once, name).high)

    def test_more_users(self) -> None:
        """Of more users one is more certain."""
        few = evaluated(logs(0))
        log = [replace(each, user_id=f"{each.user_id}-{seed}") for seed in range(9) for each in logs(seed)]
        many = evaluated(log)
        assert many.dr.high - many.dr.low < 0.5 * (few.dr.high - few.dr.low)

    def test_seed(self) -> None:
        """The same seed gives the same figures; another one other intervals around the same weighted means."""
        log = logs(0)
        assert evaluated(log) == evaluated(log)
        assert evaluated(log, seed=1).ipw != evaluated(log).ipw
        assert evaluated(log, seed=1).ipw.value == evaluated(log).ipw.value

    def test_folds(self) -> None:
        """All of a user's decisions are in one fold, and the folds have as many users each."""
        log = logs(0)
        fold = folds(log, 5, seed=3)
        assert all(
            a == b for (a, one), (b, other) in pairwise(zip(fold, log, strict=True)) if one.user_id == other.user_id
        )
        assert np.bincount(fold).tolist() == [len(log) // 5] * 5

    def test_learned(self) -> None:
        """What a policy learns of a log is which features go with which rewards."""
        posterior = learned([single("ann", 1.0), single("bob", -1.0, chosen=1)])
        assert posterior.mean.tolist() == [0.5, -0.5]
        with pytest.raises(ValueError, match="no decision to learn from"):
            learned([])


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
        """A decision that would make an estimate wrong is refused by its place and user."""
        log = [single("ann", 1.0), replace(single("bob", 1.0), **wrong)]
        with pytest.raises(ValueError, match=f"decision 1, of user 'bob': .*{says}"):
            evaluate(log, [np.array([0.5, 0.5])] * 2, seed=0)

    def test_target(self) -> None:
        """A target must be probabilities as well."""
        with pytest.raises(ValueError, match=r"target \[0.5, 0.4\] must be 0 or more and sum to 1"):
            evaluate([single("ann", 1.0)], [np.array([0.5, 0.4])], seed=0)

    def test_no_decisions(self) -> None:
        """Of no decisions nothing can be said, nor of as many as there are no targets for."""
        for log in ([], [single("ann", 1.0)]):
            with pytest.raises(ValueError, match=f"{len(log)} decisions and targets for"):
                evaluate(log, [np.ones(1)] * 2, seed=0)

    def test_other_features(self) -> None:
        """Decisions by different features cannot be put together."""
        wide = replace(single("bob", 1.0), features=np.ones((2, 3), np.float32))
        with pytest.raises(ValueError, match=r"decisions with \[2, 3\] features"):
            evaluate([single("ann", 1.0), wide], [np.array([0.5, 0.5])] * 2, seed=0)

    def test_one_user(self) -> None:
        """One user is no sample of users."""
        with pytest.raises(ValueError, match="2 decisions of 1 users"):
            evaluate([single("ann", 1.0)] * 2, [np.array([0.5, 0.5])] * 2, seed=0)

    def test_nothing_in_common(self) -> None:
        """A target that would have made none of the logged choices cannot be told from them."""
        with pytest.raises(ValueError, match="0 of them as the target could decide"):
            evaluate([single("ann", 1.0), single("bob", 1.0)], [np.array([0.0, 1.0])] * 2, seed=0)
