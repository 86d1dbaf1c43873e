"""The map of a user's tasks."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from assets.analysis.map import MappedTask, draw_task_map, layout


def two_themes(n: int) -> list[MappedTask]:
    """`n` tasks: two themes, far apart, and one unclustered task."""
    rng = np.random.default_rng(0)
    rows = np.eye(3)[[*(number % 2 for number in range(n - 1)), 2]] + 0.05 * rng.normal(size=(n, 3))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    themes = [*("ab"[number % 2] for number in range(n - 1)), None]
    return [MappedTask(f"task {at}", themes[at], "the same", rows) for at, rows in enumerate(vectors)]


def test_similar_tasks_are_close_together() -> None:
    """Tasks of one theme are closer to each other than to the other theme, and the layout is deterministic."""
    tasks = two_themes(31)
    points = layout([task.vector for task in tasks])
    first, second = (points[[task.theme_id == name for task in tasks]] for name in "ab")
    within = max(np.linalg.norm(group - group.mean(axis=0), axis=1).mean() for group in (first, second))
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > 2 * within
    np.testing.assert_array_equal(points, layout([task.vector for task in tasks]))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 90])
def test_any_number_of_tasks(n: int, tmp_path: Path) -> None:
    """Every task has a dot in its theme, for 1 to 90 tasks, and two themes of the same name stay separate."""
    tasks = two_themes(n)
    draw_task_map(tasks, "ann", tmp_path / "ann.svg")
    groups = re.findall(r'<g id="theme-\d+">(.*?)</g>\s*</g>', (tmp_path / "ann.svg").read_text(), re.DOTALL)
    sizes = Counter(task.theme_id for task in tasks)
    assert sorted(group.count("<use") for group in groups) == sorted(sizes.values())


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize(
    "text",
    [
        *("牛乳を買う", "우유 사기", "شراء الحليب", "купить молоко", "αγορά γάλα", "买牛奶", "לקנות חלב"),
        *("दूध खरीदना", "ซื้อนมและขนมปัง", "দুধ কেনা", "பால் வாங்க", "mua sữa"),
    ],
)
def test_scripts(text: str, tmp_path: Path) -> None:
    """The fonts have the letters of East Asian, Arabic, Hebrew, Cyrillic, Greek, Thai and Indian texts."""
    vectors = np.eye(2, dtype=np.float32)
    draw_task_map([MappedTask(text, "h", text, vector) for vector in vectors], text, tmp_path / "ann.png")
    assert (tmp_path / "ann.png").stat().st_size > 1000


@pytest.mark.filterwarnings("error:Glyph")
def test_emoji_and_dollar_signs(tmp_path: Path) -> None:
    """Emoji are left out, and a price in dollars is not read as a formula."""
    vectors = np.eye(2, dtype=np.float32)
    tasks = [MappedTask("cake 🎂 $5 or $6", "h", "$10 🎹 cake", vector) for vector in vectors]
    draw_task_map(tasks, "ann", tmp_path / "ann.png")
    assert (tmp_path / "ann.png").stat().st_size > 1000
