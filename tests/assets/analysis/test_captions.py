"""Places of captions on the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.analysis.captions import Captions, crosses, overlaps

RADIUS = 6.0
AREA = np.array([0.0, 0.0, 1000.0, 700.0])


def boxes(*rows: Any) -> Any:
    return np.array(rows, float)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 80))
def test_captions_are_readable(seed: int, n: int) -> None:
    """Captions lie inside the area, cover neither points nor each other, and no line crosses the words of any."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(20, [980, 680], (n, 2))
    captions = Captions(AREA, gap=7.0)
    captions.keep_free(points, RADIUS)
    for point in points:
        captions.place(point, rng.uniform([20, 10], [250, 20]))
    words = captions.words
    dots = np.hstack([points - RADIUS, points + RADIUS])
    assert (words[:, :2] >= AREA[:2]).all()
    assert (words[:, 2:] <= AREA[2:]).all()
    assert not overlaps(words, dots).any()
    assert not np.triu(overlaps(words, words), 1).any()
    inner = words + np.array([0.5, 0.5, -0.5, -0.5])  # a line ends at the edge of its own caption
    assert not crosses(captions.lines, inner).any()


def test_nearest_place() -> None:
    """A caption stands to the right of its point, and on another side if something is there."""
    captions = Captions(AREA, gap=7.0)
    first = captions.place(np.array([500.0, 300.0]), np.array([100.0, 10.0]))
    second = captions.place(np.array([500.0, 300.0]), np.array([100.0, 10.0]))
    assert first is not None
    assert second is not None
    assert (first[0][0], first[0][1], first[1]) == (557.0, 300.0, False)
    assert not np.array_equal(first[0], second[0])


def test_no_place() -> None:
    """A caption that fits nowhere is not placed."""
    assert Captions(AREA, gap=7.0).place(np.array([500.0, 300.0]), np.array([2000.0, 10.0])) is None


@pytest.mark.parametrize(
    ("line", "is_crossing"),
    [
        ((0, 5, 20, 5), True),
        ((0, 0, 20, 10), True),
        ((0, 5, 9, 5), False),
        ((0, 20, 20, 20), False),
        ((12, 0, 12, 30), True),
        ((30, 5, 21, 5), False),
        ((12, 5, 14, 6), True),
    ],
)
def test_crossing(line: Any, is_crossing: bool) -> None:
    """A line crosses a box if a part of the line is inside."""
    assert crosses(boxes(line), boxes((10, 0, 20, 10)))[0, 0] == is_crossing
