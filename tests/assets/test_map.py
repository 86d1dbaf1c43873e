"""The picture of a user's tasks."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from assets.map import MappedTask, draw, layout


def topics(n: int) -> list[MappedTask]:
    """Tasks of two themes, far apart, and one that is alone."""
    rng = np.random.default_rng(0)
    rows = np.eye(3)[[*(number % 2 for number in range(n - 1)), 2]] + 0.05 * rng.normal(size=(n, 3))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    themes = [*("ab"[number % 2] for number in range(n - 1)), None]
    return [MappedTask(f"task {at}", themes[at], "the same", rows) for at, rows in enumerate(vectors)]


def test_near_in_meaning_is_near_on_paper() -> None:
    """Tasks of one theme lie nearer to each other than to those of the other, and the same each time."""
    tasks = topics(31)
    points = layout([task.vector for task in tasks])
    own, other = (points[[task.theme_id == name for task in tasks]] for name in "ab")
    within = max(np.linalg.norm(each - each.mean(axis=0), axis=1).mean() for each in (own, other))
    assert np.linalg.norm(own.mean(axis=0) - other.mean(axis=0)) > 2 * within
    np.testing.assert_array_equal(points, layout([task.vector for task in tasks]))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 90])
def test_any_number_of_tasks(n: int, tmp_path: Path) -> None:
    """Every task has a dot among those of its theme, be they one or ninety, and themes of one name stay two."""
    tasks = topics(n)
    draw(tasks, "ann", tmp_path / "ann.svg")
    drawn = re.findall(r'<g id="theme-\d+">(.*?)</g>\s*</g>', (tmp_path / "ann.svg").read_text(), re.DOTALL)
    sizes = Counter(task.theme_id for task in tasks)
    assert sorted(each.count("<use") for each in drawn) == sorted(sizes.values())


@pytest.mark.filterwarnings("error:Glyph")
def test_signs_that_no_font_has(tmp_path: Path) -> None:
    """Emoji are left out, and a price in dollars is no formula."""
    vectors = np.eye(2, dtype=np.float32)
    tasks = [MappedTask("cake 🎂 $5 or $6", "h", "$10 🎹 cake", each) for each in vectors]
    draw(tasks, "ann", tmp_path / "ann.png")
    assert (tmp_path / "ann.png").stat().st_size > 1000
