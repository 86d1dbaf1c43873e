"""Progress lines of long work."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from contexts.progress import INTERVAL_S, ProgressLogger


class Stopwatch:
    """Seconds that pass only when a test adds them."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def progress_lines(n_total: int, steps: Sequence[tuple[float, int]]) -> list[list[str]]:
    """The lines written at each step; a step is the seconds that pass and the units that are done then."""
    clock, written = Stopwatch(), list[str]()
    progress = ProgressLogger("texts", n_total, written.append, clock)
    lines = []
    for seconds, n in steps:
        clock.seconds += seconds
        progress.add(n)
        lines.append(written[:])
        written.clear()
    return lines


def test_short_work_is_not_reported() -> None:
    """Work that ends within the first seconds writes no line."""
    assert progress_lines(1000, [(INTERVAL_S / 4, 100)] * 3) == [[], [], []]


def test_long_work_is_reported() -> None:
    """After some seconds a line gives the units done and in total, their rate and the time left."""
    assert progress_lines(12_000, [(INTERVAL_S / 2, 300), (INTERVAL_S / 2, 700)]) == [
        [],
        ["1,000 of 12,000 texts, 200 a second, about 55 s left"],
    ]


def test_a_line_every_few_seconds() -> None:
    """A line is written every few seconds at most, however often units are done, with the current numbers."""
    by_second = progress_lines(1000, [(1.0, 10)] * 12)
    assert [bool(lines) for lines in by_second] == [(second % INTERVAL_S == 0) for second in range(1, 13)]
    assert by_second[9] == ["100 of 1,000 texts, 10 a second, about 90 s left"]


def test_the_end_is_not_reported() -> None:
    """The last unit writes no line, however long the work took: the caller reports the end."""
    assert progress_lines(200, [(INTERVAL_S, 100), (INTERVAL_S, 100), (INTERVAL_S, 0)])[1:] == [[], []]


def test_no_work_is_not_reported() -> None:
    """Work without units writes no line."""
    assert progress_lines(0, [(INTERVAL_S, 0)]) == [[]]


def test_nothing_done_yet() -> None:
    """No line is written before the first unit is done, because the rate is not known."""
    assert progress_lines(1000, [(INTERVAL_S, 0)]) == [[]]


@pytest.mark.parametrize("n_done", [1, 62, 6_170, 61_725, 6_172_500])
def test_rates_are_readable(n_done: int) -> None:
    """A rate is exact to a percent, in digits and commas, however slow or fast: never with an exponent."""
    [[line]] = progress_lines(10**8, [(INTERVAL_S, n_done)])
    [rate] = re.findall(r" texts, ([\d,.]+) a second, ", line)
    assert float(rate.replace(",", "")) == pytest.approx(n_done / INTERVAL_S, rel=0.01)
