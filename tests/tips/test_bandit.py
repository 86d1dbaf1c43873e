"""The posterior, the policy that chooses by it, and how well the two learn."""

from __future__ import annotations

import subprocess
import sys
from math import erf, sqrt
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.bandit_world import KindWorld, Thompson, TipWorld, play
from tips.bandit import REWARDS, Posterior, ThompsonPolicy

POLICY = ThompsonPolicy("test")
UNSURE = ThompsonPolicy("test", spread=1.0)


def drawn(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def taught(n: int = 40, n_features: int = 6) -> Posterior:
    """A posterior after n random rewards."""
    return Posterior.prior(n_features).updated(drawn(n, n_features, seed=1), drawn(n, seed=2))


class TestPosterior:
    def test_prior(self) -> None:
        """Before any reward every weight has mean 0, with the precision of the ridge."""
        prior = Posterior.prior(3, ridge=4.0)
        assert prior.mean.tolist() == [0, 0, 0]
        assert prior.covariance.tolist() == (np.eye(3) / 4).tolist()
        assert prior.n_updates == 0

    def test_mean(self) -> None:
        """The mean is the ridge regression of the rewards on the features."""
        features, rewards = drawn(40, 6, seed=1).astype(np.float64), drawn(40, seed=2)
        rows, values = np.vstack([features, np.eye(6)]), np.concatenate([rewards, np.zeros(6)])
        assert np.allclose(taught().mean, np.linalg.lstsq(rows, values)[0])

    def test_covariance(self) -> None:
        """The covariance is the inverse of the precision, and symmetric to the last bit."""
        posterior = taught()
        assert np.allclose(posterior.covariance @ posterior.precision, np.eye(6))
        assert (posterior.covariance == posterior.covariance.T).all()

    @settings(max_examples=40, deadline=None)
    @given(order=st.permutations(range(8)), cut=st.integers(0, 8))
    def test_any_order(self, order: list[int], cut: int) -> None:
        """Rewards one by one, in any order, or in two batches lead to the same posterior as all at once."""
        features, rewards = drawn(8, 3, seed=1), drawn(8, seed=2)
        prior = Posterior.prior(3)
        at_once, single = prior.updated(features, rewards), prior
        for each in order:
            single = single.updated(features[[each]], rewards[[each]])
        heaps = prior.updated(features[order[:cut]], rewards[order[:cut]]).updated(
            features[order[cut:]], rewards[order[cut:]]
        )
        for other in (single, heaps):
            assert other.n_updates == at_once.n_updates == 8
            assert np.allclose(other.precision, at_once.precision)
            assert np.allclose(other.weighted, at_once.weighted)

    def test_additive(self) -> None:
        """The natural parameters of two posteriors add up to those of one that saw all rewards."""
        first, second = (Posterior.prior(4).updated(drawn(9, 4, seed=n), drawn(9, seed=n)) for n in (1, 2))
        both = first.updated(drawn(9, 4, seed=2), drawn(9, seed=2))
        assert np.allclose(both.precision, first.precision + second.precision - np.eye(4))
        assert np.allclose(both.weighted, first.weighted + second.weighted)

    def test_immutable(self) -> None:
        """An update returns a new posterior; the old one, which a request may use, is unchanged."""
        posterior = taught()
        before = posterior.precision.tobytes(), posterior.weighted.tobytes()
        posterior.updated(drawn(1, 6), np.ones(1))
        posterior.corrected(drawn(6), 1.0)
        assert (posterior.precision.tobytes(), posterior.weighted.tobytes()) == before

    def test_corrected(self) -> None:
        """Correcting `ignored` to `accepted` leads to the same posterior as `accepted` in time."""
        features = drawn(1, 6)
        ignored = taught().updated(features, np.array([REWARDS["ignored"]]))
        accepted = taught().updated(features, np.array([REWARDS["accepted"]]))
        corrected = ignored.corrected(features[0], REWARDS["accepted"] - REWARDS["ignored"])
        assert np.allclose(corrected.weighted, accepted.weighted)
        assert (corrected.precision == accepted.precision).all()
        assert corrected.n_updates == ignored.n_updates + 1

    def test_stored(self) -> None:
        """A posterior survives a round trip through its two columns bit for bit, and can be updated."""
        posterior = taught()
        stored = Posterior.from_bytes(6, posterior.precision.tobytes(), posterior.weighted.tobytes(), 40)
        assert (stored.precision == posterior.precision).all()
        assert (stored.weighted == posterior.weighted).all()
        assert stored.updated(drawn(1, 6), np.ones(1)).n_updates == 41

    def test_wrong_length(self) -> None:
        """Columns for a different number of features are refused with both sizes."""
        with pytest.raises(ValueError, match=r"of 6 features has \(288, 48\) bytes, not \(288, 40\)"):
            Posterior.from_bytes(6, bytes(288), bytes(40), 0)

    @pytest.mark.parametrize(
        ("features", "rewards", "says"),
        [
            (drawn(2, 5), np.ones(2), r"features of shape \(2, 5\): expected \(n, 6\)"),
            (drawn(6), np.ones(1), r"features of shape \(6,\)"),
            (drawn(2, 6), np.ones(3), "2 rows of features but 3 rewards"),
            (drawn(2, 6), np.array([1, np.nan]), r"rewards\[1, 0\] is nan"),
            (np.full((2, 6), np.inf), np.ones(2), r"features\[0, 0\] is inf"),
        ],
    )
    def test_nonsense(self, features: NDArray[Any], rewards: NDArray[Any], says: str) -> None:
        """Values that would corrupt the sums are refused by name."""
        with pytest.raises(ValueError, match=says):
            taught().updated(features, rewards)

    def test_nonsense_corrections(self) -> None:
        """Corrections are checked too."""
        with pytest.raises(ValueError, match="by=nan"):
            taught().corrected(drawn(6), np.nan)
        with pytest.raises(ValueError, match=r"shape \(1, 5\)"):
            taught().corrected(drawn(5), 1.0)

    def test_no_ridge(self) -> None:
        """A prior needs a ridge above 0."""
        with pytest.raises(ValueError, match="ridge=0"):
            Posterior.prior(3, ridge=0)


class TestChoice:
    def test_same_seed(self) -> None:
        """The same seed gives the same choice; other seeds give other choices, with the same propensities."""
        choices = [POLICY.choose(taught(), drawn(10, 6), seed) for seed in (7, 7, *range(50))]
        assert choices[0].chosen == choices[1].chosen
        assert len({choice.chosen for choice in choices}) > 1
        assert len({choice.propensities.tobytes() for choice in choices}) == 1

    def test_many_at_once(self) -> None:
        """The propensities of many choices are those of each choice by itself."""
        features = drawn(7, 4, 6)
        together = UNSURE.propensities(taught(), features)
        alone = [UNSURE.choose(taught(), each, 0).propensities for each in features]
        assert together.astype(np.float32).tolist() == np.stack(alone).tolist()

    def test_different_numbers(self) -> None:
        """Requests with different numbers of candidates have, together, the choices of each by itself."""
        sizes, features = [4, 1, 2, 3], drawn(4, 4, 6)
        padded = features * (np.arange(4) < np.array(sizes)[:, None])[:, :, None].astype(np.float32)
        together = UNSURE.choose_each(taught(), padded, sizes, range(4))
        alone = [UNSURE.choose(taught(), features[n][: sizes[n]], n) for n in range(4)]
        assert [each.chosen for each in together] == [each.chosen for each in alone]
        assert [each.propensities.tolist() for each in together] == [each.propensities.tolist() for each in alone]

    def test_every_process(self) -> None:
        """Another process with the same posterior has the same propensities: nothing of the draws is random."""
        code = (
            "import numpy as np; from tips.bandit import Posterior, ThompsonPolicy;"
            "rows = np.arange(30, dtype=np.float32).reshape(1, 5, 6) % 7;"
            "posterior = Posterior.prior(6).updated(rows[0], np.arange(5));"
            "print(ThompsonPolicy('test').propensities(posterior, rows).tolist())"
        )
        outputs = {subprocess.check_output([sys.executable, "-c", code]) for _ in range(2)}
        assert len(outputs) == 1

    def test_propensities_hold(self) -> None:
        """Over many seeds each candidate is chosen as often as its propensities say, within sampling error."""
        posterior, features, n = taught(n=8), drawn(5, 6), 5000
        found = [UNSURE.choose(posterior, features, seed) for seed in range(n)]
        propensities = np.array([choice.propensities for choice in found], np.float64)
        counts = np.bincount([choice.chosen for choice in found], minlength=5)
        errors = np.sqrt((propensities * (1 - propensities)).sum(axis=0))
        assert (np.abs(counts - propensities.sum(axis=0)) < 3.5 * errors).all()
        assert propensities.mean(axis=0).max() < 0.8  # else there was nothing to get wrong

    def test_probability_of_best(self) -> None:
        """With two candidates the propensity is the normal probability that its score is the higher one."""
        posterior, features = taught(n=8), drawn(2, 6)
        apart = (features[0] - features[1]).astype(np.float64)
        z = apart @ posterior.mean / (UNSURE.spread * sqrt(apart @ posterior.covariance @ apart))
        expected = (1 - UNSURE.floor) * (1 + erf(z / sqrt(2))) / 2 + UNSURE.floor / 2
        [[found, _]] = ThompsonPolicy("test", spread=1.0, n_draws=40_000).propensities(posterior, features[None])
        assert 0.1 < expected < 0.9
        assert abs(found - expected) < 4 * 0.5 / sqrt(40_000)
        [[found, _]] = UNSURE.propensities(posterior, features[None])
        assert abs(found - expected) < 4 * 0.5 / sqrt(UNSURE.n_draws)

    @settings(max_examples=60, deadline=None)
    @given(
        n=st.integers(1, 12),
        seed=st.integers(0, 2**63 - 1),
        floor=st.floats(0.01, 1.0),
        scale=st.sampled_from([1e-20, 1.0, 1e20]),
    )
    def test_probabilities(self, n: int, seed: int, floor: float, scale: float) -> None:
        """Propensities sum to 1, none is below floor / K, and the choice is one of the candidates."""
        features = np.float32(scale) * drawn(n, 6, seed=n)
        choice = ThompsonPolicy("test", floor=floor).choose(taught(), features, seed)
        assert choice.propensities.dtype == np.float32
        assert choice.propensities.shape == (n,)
        assert abs(choice.propensities.sum(dtype=np.float64) - 1) < 1e-6
        assert choice.propensities.min() >= np.float32(floor / n)
        assert 0 <= choice.chosen < n

    def test_one_candidate(self) -> None:
        """A single candidate has probability 1."""
        choice = POLICY.choose(taught(), drawn(1, 6), 0)
        assert (choice.chosen, choice.propensities.tolist()) == (0, [1.0])

    @pytest.mark.parametrize("row", [np.zeros(6), np.ones(6)], ids=["of nothing", "of something"])
    def test_equals(self, row: NDArray[np.float64]) -> None:
        """Candidates of equal features are equally likely, regardless of their positions."""
        features = np.tile(row.astype(np.float32), (4, 1))
        found = ThompsonPolicy("test", n_draws=40_000).propensities(taught(), features[None])
        assert np.allclose(found, 0.25, atol=0.01)
        assert np.allclose(POLICY.propensities(taught(), features[None]), 0.25, atol=0.1)

    def test_certainty(self) -> None:
        """With known weights the best candidate is chosen, except for the floor."""
        weights = drawn(6, seed=5)
        seen = drawn(20_000, 6, seed=6)
        posterior = Posterior.prior(6).updated(seen, seen @ weights)
        features = drawn(10, 6, seed=7)
        choice = POLICY.choose(posterior, features, 0)
        assert choice.propensities.argmax() == (features @ weights).argmax()
        assert np.isclose(choice.propensities.max(), 0.95 + 0.005)

    @pytest.mark.parametrize(
        ("features", "says"),
        [
            (np.zeros((0, 6)), "no candidate to choose from: features has 0 rows"),
            (drawn(3, 5), r"features of shape \(3, 5\): expected \(n, 6\)"),
            (
                np.array([[0, 0, 0, 0, 0, 0], [0, 0, np.nan, 0, 0, 0]]),
                r"features\[1, 2\] is nan: expected a finite number",
            ),
        ],
    )
    def test_nonsense(self, features: NDArray[Any], says: str) -> None:
        """An empty list of candidates and features that cannot be scored are refused by name."""
        with pytest.raises(ValueError, match=says):
            POLICY.choose(taught(), features, 0)

    @pytest.mark.parametrize(
        "wrong", [{"spread": 0.0}, {"n_draws": 0}, {"n_draws": 3}, {"floor": 0.0}, {"floor": 1.1}]
    )
    def test_wrong_policy(self, wrong: dict[str, Any]) -> None:
        """A policy that could not be evaluated later, such as one without a floor, is refused."""
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            ThompsonPolicy("test", **wrong)


class Unrewarded(Thompson):
    """The policy without its rewards."""

    def learn(self, *_: object) -> None:
        pass


class TestLearning:
    @pytest.mark.parametrize("seed", range(3))
    def test_fresh_candidates(self, seed: int) -> None:
        """After 3,000 requests with rewards 20 requests late, the share of the oracle's gap is above .85."""
        assert play(TipWorld.drawn(seed), Thompson(32, POLICY), seed).share > 0.85

    def test_few_kinds(self) -> None:
        """With similar candidates and a taste that depends on kind and hour, the share is above .6."""
        assert play(KindWorld.drawn(0), Thompson(32, POLICY), 0).share > 0.6

    def test_nothing_to_learn(self) -> None:
        """A policy without rewards gains nothing."""
        assert abs(play(TipWorld.drawn(0), Unrewarded(32, POLICY), 0, n_requests=1000).share) < 0.1


def test_rewards(connection: psycopg.Connection[Any]) -> None:
    """Every reaction that Postgres accepts has a reward, in order from done to dismissed."""
    [(check,)] = connection.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'reactions_reaction_check'"
    )
    assert sorted(check.split("'")[1::2]) == sorted(REWARDS)
    assert list(REWARDS.values()) == sorted(REWARDS.values(), reverse=True)
