"""Clusters of one user's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from contexts.themes.centering import Centering
from contexts.themes.cluster import (
    MAX_CLUSTER_SHARE,
    MIN_CENTRED_TEXTS,
    MIN_TASKS_TO_DISSOLVE,
    THRESHOLD_QUANTILE,
    Calibration,
    Clusterer,
    calibrate,
    keep_ids,
    members,
)


def unit(*rows: Sequence[float]) -> Any:
    table = np.array(rows, np.float32)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def random_units(n: int, dim: int = 8, seed: int = 0) -> Any:
    return unit(*np.random.default_rng(seed).normal(size=(n, dim)))


def clusters_of(labels: Sequence[Any]) -> set[frozenset[int]]:
    """Return the positions of each cluster, regardless of its number."""
    return {frozenset(at for at, each in enumerate(labels) if each == label) for label in labels}


class TestLabels:
    def test_directions(self) -> None:
        """Vectors of similar directions form clusters."""
        labels = Clusterer("m", Calibration(0.8)).labels(unit([1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0]))
        assert clusters_of(labels) == {frozenset({0, 1}), frozenset({2, 3}), frozenset({4})}

    @pytest.mark.parametrize("n", [0, 1])
    def test_too_few(self, n: int) -> None:
        """No task has no cluster, and one task is alone in its cluster."""
        assert Clusterer("m", Calibration(0.5)).labels(random_units(3)[:n]).tolist() == [0] * n

    def test_threshold(self) -> None:
        """The lowest threshold merges all tasks, and the highest only equal ones."""
        vectors = np.concatenate([random_units(6), random_units(2)])
        assert len(set(Clusterer("m", Calibration(-1.0)).labels(vectors))) == 1
        assert clusters_of(Clusterer("m", Calibration(1.0)).labels(vectors)) == {
            frozenset({0, 6}),
            frozenset({1, 7}),
            *(frozenset({n}) for n in range(2, 6)),
        }

    @pytest.mark.parametrize(("threshold", "n_clusters"), [(0.72, 1), (0.78, 2)])
    def test_cut(self, threshold: float, n_clusters: int) -> None:
        """Two tasks are in one cluster if their cosine, here 0.75, is above the threshold."""
        pair = unit([1, 0], [0.75, (1 - 0.75**2) ** 0.5])
        assert len(set(Clusterer("m", Calibration(threshold)).labels(pair))) == n_clusters

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 1000), n=st.integers(2, 30))
    def test_order_of_rows(self, seed: int, n: int) -> None:
        """Clusters do not depend on the order of tasks."""
        vectors = random_units(n, seed=seed)
        order = np.random.default_rng(seed).permutation(n)
        shuffled = clusters_of(Clusterer("m", Calibration(0.3)).labels(vectors[order]))
        assert {frozenset(int(order[at]) for at in group) for group in shuffled} == clusters_of(
            Clusterer("m", Calibration(0.3)).labels(vectors)
        )

    def test_dominant_cluster(self) -> None:
        """A cluster of more than two thirds of at least nine tasks is dissolved, and other clusters stay."""
        alike, apart = np.tile(unit([1, 0, 0]), (7, 1)), np.tile(unit([0, 1, 0]), (2, 1))
        labels = Clusterer("m", Calibration(0.5)).labels(np.concatenate([alike, apart]))
        assert clusters_of(labels) == {frozenset({7, 8}), *(frozenset({n}) for n in range(7))}
        assert len(set(Clusterer("m", Calibration(0.5)).labels(alike).tolist())) == 1
        assert (
            len(set(Clusterer("m", Calibration(0.5)).labels(np.concatenate([alike[:6], apart, apart[:1]])).tolist()))
            == 2
        )

    @pytest.mark.parametrize("max_tasks", [6, 7, 40, 131])
    def test_more_than_pairwise(self, max_tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user with more tasks than are compared pairwise has the same clusters, including small ones."""
        rng = np.random.default_rng(0)
        topics = np.repeat(np.arange(6), [60, 40, 20, 8, 3, 1])
        vectors = unit(*(np.eye(6)[topics] + 0.05 * rng.normal(size=(len(topics), 6))))[rng.permutation(132)]
        whole = clusters_of(Clusterer("m", Calibration(0.6)).labels(vectors))
        monkeypatch.setattr("contexts.themes.cluster.MAX_PAIRWISE_TASKS", max_tasks)
        assert clusters_of(Clusterer("m", Calibration(0.6)).labels(vectors)) == whole
        assert sorted(map(len, whole)) == [1, 3, 8, 20, 40, 60]

    def test_chance(self) -> None:
        """With a spread, two tasks are a cluster only if they are more similar than chance."""
        vectors = np.concatenate([unit([1, 0.75, 0, 0], [0.75, 1, 0, 0]), np.eye(4, 4)[2:], -np.eye(4, 4)])
        for spread, n_clusters in ((0.1, 7), (0.6, 8)):
            assert len(set(Clusterer("m", Calibration(0.9, spread)).labels(vectors.astype(np.float32)))) == n_clusters

    @settings(max_examples=50, deadline=None)
    @given(seed=st.integers(0, 1000), n=st.integers(2, 40), threshold=st.floats(-0.2, 0.9))
    def test_same_cut_as_scipy(self, seed: int, n: int, threshold: float) -> None:
        """The clusters are those of scipy's `fcluster` on the same tree."""
        vectors = random_units(n, seed=seed)
        distances = np.round(1 - (vectors @ vectors.T)[np.triu_indices(n, 1)].astype(np.float64), 5).clip(0)
        expected = fcluster(linkage(distances, "average"), 1 - threshold, "distance")
        if n < MIN_TASKS_TO_DISSOLVE or np.bincount(expected).max() <= MAX_CLUSTER_SHARE * n:
            assert clusters_of(Clusterer("m", Calibration(threshold)).labels(vectors)) == clusters_of(expected)

    def test_version(self) -> None:
        """Versions differ by model, threshold, spread and means."""
        means = Centering(np.ones((1, 2), np.float32)), Centering(np.zeros((1, 2), np.float32)), Centering.none()
        calibrations = [Calibration(0.4, 0.1, each) for each in (*means, means[0])]
        calibrations += [Calibration(0.4, 0.2), Calibration(0.4), Calibration(0.41), Calibration(0.4)]
        versions = {Clusterer(model, calibration).version for model in "mn" for calibration in calibrations}
        assert len(versions) == 2 * 6


class TestCalibrate:
    def test_range(self) -> None:
        """The threshold is a quantile of the cosines of pairs of centred vectors, and the result is deterministic."""
        vectors = random_units(400, dim=16) + 0.3
        calibration = calibrate(vectors, ["en"] * 400)
        centred = calibration.centering.apply(vectors)
        cosines = (centred @ centred.T)[np.triu_indices(400, 1)]
        assert np.mean(cosines < calibration.threshold) == pytest.approx(THRESHOLD_QUANTILE, abs=0.01)
        assert calibration.spread == pytest.approx(cosines.std(), abs=0.01)
        assert calibrate(vectors, ["en"] * 400).version == calibration.version

    @pytest.mark.parametrize("n", [2, 3, 5, 50])
    def test_no_text_is_its_own_neighbour(self, n: int) -> None:
        """Texts are not compared with themselves: the threshold of orthogonal vectors is 0."""
        assert calibrate(np.eye(n, dtype=np.float32), ["en"] * n).threshold == 0.0

    @pytest.mark.parametrize("n", [0, 1])
    def test_nothing_to_compare(self, n: int) -> None:
        """The threshold of fewer than two texts is 0.5."""
        assert calibrate(np.eye(2, dtype=np.float32)[:n], ["en"] * n).threshold == 0.5

    @pytest.mark.parametrize(("n", "is_centred"), [(MIN_CENTRED_TEXTS - 1, False), (MIN_CENTRED_TEXTS, True)])
    def test_few_texts(self, n: int, is_centred: bool) -> None:
        """A mean and a spread are calibrated only from enough texts."""
        calibration = calibrate(random_units(n), ["en"] * n)
        assert bool(calibration.spread) is bool(len(calibration.centering.means)) is is_centred


tasks = st.lists(st.integers(0, 5), min_size=1, max_size=12)


class TestKeepIds:
    def test_new_clusters(self) -> None:
        """The id of a new cluster is a hash of its members; a task alone is unclustered."""
        ids = keep_ids([1, 1, 2, 3, 3], list("abcde"), {})
        assert ids[0] == ids[1] is not None
        assert ids[2] is None
        assert ids[3] == ids[4] not in (None, ids[0])
        assert keep_ids([7, 9, 7], ["a", "x", "b"], {})[0] == ids[0]

    def test_grown_cluster(self) -> None:
        """A cluster that grows keeps its id."""
        assert keep_ids([1, 1, 1], ["a", "b", "new"], {"a": "old", "b": "old"}) == ["old"] * 3

    def test_split(self) -> None:
        """The larger part of a split cluster keeps the id, and the other part gets a new one."""
        ids = keep_ids([1, 1, 2, 2, 2], list("abcde"), dict.fromkeys("abcde", "old"))
        assert ids[2:] == ["old"] * 3
        assert ids[0] == ids[1] not in (None, "old")

    def test_merger(self) -> None:
        """Merged clusters take the id of the largest one."""
        previous_ids = {"a": "small", "b": "small", "c": "large", "d": "large", "e": "large"}
        assert keep_ids([1] * 5, list("abcde"), previous_ids) == ["large"] * 5

    def test_single_task(self) -> None:
        """A task alone is unclustered, even if it was in a cluster before."""
        assert keep_ids([1], ["a"], {"a": "old"}) == [None]

    def test_second_choice(self) -> None:
        """A cluster takes its second choice of ids if a different cluster has its first choice."""
        previous_ids = {"a": "x", "b": "x", "c": "x", "d": "x", "e": "x", "f": "y"}
        assert keep_ids([1, 1, 1, 2, 2, 2], list("abcdef"), previous_ids) == ["x"] * 3 + ["y"] * 3

    @settings(max_examples=150, deadline=None)
    @given(labels=tasks, previous_ids=st.dictionaries(st.integers(0, 11).map(str), st.sampled_from("xyz")))
    def test_unique_ids(self, labels: list[int], previous_ids: dict[str, str]) -> None:
        """Clusters and ids correspond one to one, and the ids of unchanged clusters are stable."""
        task_ids = [str(n) for n in range(len(labels))]
        ids = keep_ids(labels, task_ids, previous_ids)
        assert [each is None for each in ids] == [labels.count(label) == 1 for label in labels]
        named = [(label, each) for label, each in zip(labels, ids, strict=True) if each]
        assert len({label for label, _ in named}) == len({each for _, each in named}) == len(set(named))
        kept = {task_id: each for task_id, each in zip(task_ids, ids, strict=True) if each}
        assert keep_ids(labels, task_ids, kept) == ids

    @settings(max_examples=100, deadline=None)
    @given(labels=tasks)
    def test_cluster_numbers(self, labels: list[int]) -> None:
        """Ids do not depend on the cluster numbers."""
        task_ids = [str(n) for n in range(len(labels))]
        previous_ids = dict.fromkeys(task_ids[: len(labels) // 2], "old")
        assert clusters_of(keep_ids([9 - label for label in labels], task_ids, previous_ids)) == (
            clusters_of(keep_ids(labels, task_ids, previous_ids))
        )


class TestMembers:
    def test_order(self) -> None:
        """Clusters of two or more are returned in order of their first position, without single tasks."""
        clusters = [rows.tolist() for rows in members(np.array([7, 3, 7, 1, 3, 7]))]
        assert clusters == [[0, 2, 5], [1, 4]]

    @pytest.mark.parametrize("labels", [[], [1], [1, 2, 3]])
    def test_none(self, labels: list[int]) -> None:
        """Single tasks only are no cluster."""
        assert list(members(np.array(labels, np.int64))) == []
