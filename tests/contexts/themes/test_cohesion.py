"""Groups of tasks that are no more similar than chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.themes.cohesion import dissolve_chance_groups, mean_pair_similarity

SPREAD = 0.1


def unit(rows: Any) -> Any:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def dissolved(labels: Any, vectors: Any, spread: float = SPREAD) -> Any:
    """Return one user's labels after chance groups were dissolved."""
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    return dissolve_chance_groups(first[group], vectors, spread)


def tasks_with_a_pair(cosine: float, n_others: int = 40) -> Any:
    """Return two tasks with a cosine, and others that are orthogonal to both and to each other."""
    vectors = np.eye(n_others + 2, dtype=np.float32)
    vectors[1, :2] = cosine, (1 - cosine**2) ** 0.5
    return vectors


@pytest.mark.parametrize(("cosine", "is_theme"), [(0.25, False), (0.35, True)])
def test_pairs(cosine: float, is_theme: bool) -> None:
    """Two tasks are a theme if their similarity is 2.75 standard deviations of random pairs."""
    labels = np.array([0, 0, *range(1, 41)])
    kept = dissolved(labels, tasks_with_a_pair(cosine))
    assert (kept[0] == kept[1]) is np.bool_(is_theme)
    assert len(set(kept[2:])) == 40


def test_larger_groups_need_less() -> None:
    """Five tasks are a theme with a similarity at which two tasks are none."""
    cosine = 0.15
    vectors = np.eye(45, dtype=np.float32)
    vectors[:5] = unit(np.eye(5, 45) + 0.5 * np.eye(1, 45, 44) * np.sqrt(cosine / (1 - cosine)) * 2)
    labels = np.array([*[0] * 5, *range(1, 41)])
    assert len(set(dissolved(labels, vectors)[:5])) == 1
    assert len(set(dissolved(np.array([0, 0, *range(1, 44)]), vectors)[:2])) == 2


def test_other_tasks() -> None:
    """Whether a group is a theme does not depend on the user's other tasks, so an edit elsewhere does not end it."""
    alone, together = tasks_with_a_pair(0.35, 0), np.vstack([tasks_with_a_pair(0.35, 40), np.ones((20, 42)) / 6.5])
    for vectors in (alone, together.astype(np.float32)):
        assert dissolved(np.array([0, 0, *range(2, len(vectors))]), vectors)[1] == 0


def test_without_a_spread_every_group_is_a_theme() -> None:
    """A model that was calibrated from few texts has no spread, and its groups stay."""
    labels = np.array([0, 0, 2])
    np.testing.assert_array_equal(dissolved(labels, tasks_with_a_pair(0.0, 1), 0.0), labels)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 30))
def test_mean_of_all_pairs(seed: int, n: int) -> None:
    """The mean similarity of a group, found by its sum, is that of its pairs, for rows of any length."""
    vectors = np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)
    expected = float((vectors @ vectors.T)[np.triu_indices(n, 1)].mean())
    squares = (vectors**2).sum(keepdims=True)[0].astype(np.float64)
    found = mean_pair_similarity(vectors.sum(axis=0)[None, :], squares, np.array([n]))
    assert found[0] == pytest.approx(expected, abs=5e-5)


def test_a_single_task() -> None:
    """The mean similarity of a single task is 1."""
    assert mean_pair_similarity(unit(np.ones((1, 4))), np.ones(1), np.array([1]))[0] == 1
