"""Grouping one user's tasks by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from contexts.cluster import ENOUGH, EVERYTHING, Clusterer, calibrate, centrality, keep_ids, members


def unit(*rows: Sequence[float]) -> Any:
    table = np.array(rows, np.float32)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def random_units(n: int, dim: int = 8, seed: int = 0) -> Any:
    return unit(*np.random.default_rng(seed).normal(size=(n, dim)))


def groups(labels: Sequence[Any]) -> set[frozenset[int]]:
    """Which positions stand together, whatever their group is called."""
    return {frozenset(at for at, each in enumerate(labels) if each == label) for label in labels}


class TestLabels:
    def test_alike_stand_together(self) -> None:
        """Vectors of one direction form a group, those of another direction a second one."""
        labels = Clusterer("m", 0.8).labels(unit([1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0]))
        assert groups(labels) == {frozenset({0, 1}), frozenset({2, 3}), frozenset({4})}

    @pytest.mark.parametrize("n", [0, 1])
    def test_too_few(self, n: int) -> None:
        """No task gives no group, and one task stands alone."""
        assert Clusterer("m", 0.5).labels(random_units(3)[:n]).tolist() == [1] * n

    def test_threshold(self) -> None:
        """A lower threshold joins more: at the lowest all is one, at the highest only equals are together."""
        vectors = np.concatenate([random_units(6), random_units(2)])
        assert len(set(Clusterer("m", -1.0).labels(vectors))) == 1
        assert groups(Clusterer("m", 1.0).labels(vectors)) == {
            frozenset({0, 6}),
            frozenset({1, 7}),
            *(frozenset({n}) for n in range(2, 6)),
        }

    @pytest.mark.parametrize(("threshold", "n_groups"), [(0.72, 1), (0.78, 2)])
    def test_where_it_cuts(self, threshold: float, n_groups: int) -> None:
        """Two tasks are together when their cosine, here 0.75, is above the threshold."""
        pair = unit([1, 0], [0.75, (1 - 0.75**2) ** 0.5])
        assert len(set(Clusterer("m", threshold).labels(pair))) == n_groups

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 1000), n=st.integers(2, 30))
    def test_order_of_rows(self, seed: int, n: int) -> None:
        """In whatever order the tasks stand, the same ones are together."""
        vectors = random_units(n, seed=seed)
        order = np.random.default_rng(seed).permutation(n)
        shuffled = groups(Clusterer("m", 0.3).labels(vectors[order]))
        assert {frozenset(int(order[at]) for at in group) for group in shuffled} == groups(
            Clusterer("m", 0.3).labels(vectors)
        )

    def test_everything_is_no_theme(self) -> None:
        """A group with more than two thirds of nine tasks or more is dissolved, and the other groups stay."""
        alike, apart = np.tile(unit([1, 0, 0]), (7, 1)), np.tile(unit([0, 1, 0]), (2, 1))
        labels = Clusterer("m", 0.5).labels(np.concatenate([alike, apart]))
        assert groups(labels) == {frozenset({7, 8}), *(frozenset({n}) for n in range(7))}
        assert len(set(Clusterer("m", 0.5).labels(alike).tolist())) == 1
        assert len(set(Clusterer("m", 0.5).labels(np.concatenate([alike[:6], apart, apart[:1]])).tolist())) == 2

    @pytest.mark.parametrize("at_once", [6, 7, 40, 131])
    def test_more_than_at_once(self, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a user with more tasks than are compared at once the same groups are found, small ones too."""
        rng = np.random.default_rng(0)
        topics = np.repeat(np.arange(6), [60, 40, 20, 8, 3, 1])
        vectors = unit(*(np.eye(6)[topics] + 0.05 * rng.normal(size=(len(topics), 6))))[rng.permutation(132)]
        whole = groups(Clusterer("m", 0.6).labels(vectors))
        monkeypatch.setattr("contexts.cluster.AT_ONCE", at_once)
        assert groups(Clusterer("m", 0.6).labels(vectors)) == whole
        assert sorted(map(len, whole)) == [1, 3, 8, 20, 40, 60]

    @settings(max_examples=50, deadline=None)
    @given(seed=st.integers(0, 1000), n=st.integers(2, 40), threshold=st.floats(-0.2, 0.9))
    def test_as_scipy_cuts(self, seed: int, n: int, threshold: float) -> None:
        """The groups are those of scipy's own cut of the same tree."""
        vectors = random_units(n, seed=seed)
        distances = np.round(1 - (vectors @ vectors.T)[np.triu_indices(n, 1)].astype(np.float64), 5).clip(0)
        expected = fcluster(linkage(distances, "average"), 1 - threshold, "distance")
        if n < ENOUGH or np.bincount(expected).max() <= EVERYTHING * n:
            assert groups(Clusterer("m", threshold).labels(vectors)) == groups(expected)

    def test_version(self) -> None:
        """Another model or threshold is another version, the same ones are the same."""
        versions = {Clusterer(model, threshold).version for model in "mn" for threshold in (0.4, 0.41, 0.4)}
        assert len(versions) == 4


class TestCalibrate:
    def test_range(self) -> None:
        """Three in four pairs of texts are less alike than the threshold, which comes out the same each time."""
        vectors = random_units(200, dim=16)
        threshold = calibrate(vectors)
        cosines = (vectors @ vectors.T)[np.triu_indices(200, 1)]
        assert np.mean(cosines < threshold) == pytest.approx(0.75, abs=0.01)
        assert calibrate(vectors) == threshold

    @pytest.mark.parametrize("n", [2, 3, 5, 50])
    def test_no_text_is_its_own_neighbour(self, n: int) -> None:
        """A text is not compared with itself: texts that have nothing in common give a threshold of 0."""
        assert calibrate(np.eye(n, dtype=np.float32)) == 0.0

    @pytest.mark.parametrize("n", [0, 1])
    def test_nothing_to_compare(self, n: int) -> None:
        """Fewer than two texts give a threshold in the middle."""
        assert calibrate(np.eye(2, dtype=np.float32)[:n]) == 0.5


tasks = st.lists(st.integers(0, 5), min_size=1, max_size=12)


class TestKeepIds:
    def test_new_groups(self) -> None:
        """A new group is called by a hash of its members, a task alone has no group."""
        ids = keep_ids([1, 1, 2, 3, 3], list("abcde"), {})
        assert ids[0] == ids[1] is not None
        assert ids[2] is None
        assert ids[3] == ids[4] not in (None, ids[0])
        assert keep_ids([7, 9, 7], ["a", "x", "b"], {})[0] == ids[0]

    def test_grown_group(self) -> None:
        """A group that grows keeps its id, and the newcomer takes it."""
        assert keep_ids([1, 1, 1], ["a", "b", "new"], {"a": "old", "b": "old"}) == ["old"] * 3

    def test_split(self) -> None:
        """When a group falls apart, the larger part keeps the id and the other gets a new one."""
        ids = keep_ids([1, 1, 2, 2, 2], list("abcde"), dict.fromkeys("abcde", "old"))
        assert ids[2:] == ["old"] * 3
        assert ids[0] == ids[1] not in (None, "old")

    def test_merger(self) -> None:
        """When groups become one, it is called like the one of which it has most."""
        former = {"a": "small", "b": "small", "c": "large", "d": "large", "e": "large"}
        assert keep_ids([1] * 5, list("abcde"), former) == ["large"] * 5

    def test_left_alone(self) -> None:
        """A task that is left alone is unclustered, whatever group it was in."""
        assert keep_ids([1], ["a"], {"a": "old"}) == [None]

    def test_second_choice(self) -> None:
        """A group whose favourite id went to another takes the next that it has a share of."""
        former = {"a": "x", "b": "x", "c": "x", "d": "x", "e": "x", "f": "y"}
        assert keep_ids([1, 1, 1, 2, 2, 2], list("abcdef"), former) == ["x"] * 3 + ["y"] * 3

    @settings(max_examples=150, deadline=None)
    @given(labels=tasks, former=st.dictionaries(st.integers(0, 11).map(str), st.sampled_from("xyz")))
    def test_one_id_each(self, labels: list[int], former: dict[str, str]) -> None:
        """Groups and ids match one to one, and naming the same groups again changes no name."""
        task_ids = [str(n) for n in range(len(labels))]
        ids = keep_ids(labels, task_ids, former)
        assert [each is None for each in ids] == [labels.count(label) == 1 for label in labels]
        named = [(label, each) for label, each in zip(labels, ids, strict=True) if each]
        assert len({label for label, _ in named}) == len({each for _, each in named}) == len(set(named))
        kept = {task_id: each for task_id, each in zip(task_ids, ids, strict=True) if each}
        assert keep_ids(labels, task_ids, kept) == ids

    @settings(max_examples=100, deadline=None)
    @given(labels=tasks)
    def test_numbers_mean_nothing(self, labels: list[int]) -> None:
        """What numbers the linkage gave to the groups has no part in their ids."""
        task_ids = [str(n) for n in range(len(labels))]
        former = dict.fromkeys(task_ids[: len(labels) // 2], "old")
        assert groups(keep_ids([9 - label for label in labels], task_ids, former)) == (
            groups(keep_ids(labels, task_ids, former))
        )


class TestMembers:
    def test_groups_of_two_or_more(self) -> None:
        """The positions of each group in order, the group that begins first first; whoever is alone is in none."""
        found = [each.tolist() for each in members(np.array([7, 3, 7, 1, 3, 7]))]
        assert found == [[0, 2, 5], [1, 4]]

    @pytest.mark.parametrize("labels", [[], [1], [1, 2, 3]])
    def test_none(self, labels: list[int]) -> None:
        """Where all are alone there is no group."""
        assert list(members(np.array(labels, np.int64))) == []

    def test_centrality(self) -> None:
        """Each row's mean cosine to all of them, itself included."""
        vectors = random_units(6)
        np.testing.assert_allclose(centrality(vectors), (vectors @ vectors.T).mean(axis=1), atol=1e-6)
