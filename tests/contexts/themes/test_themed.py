"""Tasks with their themes as arrays."""

from __future__ import annotations

import numpy as np
import pytest

from contexts.themes.arrays import gather
from contexts.themes.themed import centrality, number_themes


@pytest.mark.parametrize(
    ("labels", "themes"),
    [([0, 1, 0, 3, 1], [0, 1, 0, -1, 1]), ([0, 1, 2], [-1] * 3), ([0, 1, 1], [-1, 0, 0]), ([], [])],
)
def test_numbers(labels: list[int], themes: list[int]) -> None:
    """Themes are numbered in the order of their first tasks, and a task alone has none."""
    assert number_themes(np.array(labels, np.int64)).tolist() == themes


def test_centrality() -> None:
    """Centrality is a row's mean cosine to all rows of its theme, including itself; 0 without a theme."""
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    theme = np.random.default_rng(1).integers(-1, 3, 600)
    found = centrality(vectors, theme)
    for number in range(3):
        own = vectors[theme == number]
        np.testing.assert_allclose(found[theme == number], (own @ own.T).mean(axis=1), atol=1e-6)
    assert not found[theme == -1].any()


def test_gather() -> None:
    """The elements of wanted blocks follow each other in the wanted order."""
    elements, blocks = gather(np.array([2, 0, 3]), np.array([2, 1, 0, 2]))
    assert elements.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert blocks.tolist() == [0, 0, 0, 2, 2, 3, 3, 3]
