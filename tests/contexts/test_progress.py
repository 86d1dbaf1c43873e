"""What is told of work that takes long."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from contexts.progress import EVERY, Progress


class Clock:
    """Stands still but for what is added."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def told(n_all: int, steps: Sequence[tuple[float, int]]) -> list[list[str]]:
    """What is said at each of some steps, given as seconds that pass and units that are then done."""
    clock, said = Clock(), list[str]()
    progress = Progress("texts", n_all, said.append, clock)
    found = []
    for seconds, n in steps:
        clock.seconds += seconds
        progress.add(n)
        found.append(said[:])
        said.clear()
    return found


def test_short_work_is_not_told() -> None:
    """What is done within the first seconds passes without a word."""
    assert told(1000, [(EVERY / 4, 100)] * 3) == [[], [], []]


def test_long_work_is_told() -> None:
    """After some seconds a line says how much is done, of how much, the pace until now and the time left."""
    assert told(12_000, [(EVERY / 2, 300), (EVERY / 2, 700)]) == [
        [],
        ["1,000 of 12,000 texts, 200 a second, about 55 s left"],
    ]


def test_a_line_every_few_seconds() -> None:
    """However often something is done, a line comes every few seconds only, and says what is true by then."""
    found = told(1000, [(1.0, 10)] * 12)
    assert [bool(lines) for lines in found] == [(second % EVERY == 0) for second in range(1, 13)]
    assert found[9] == ["100 of 1,000 texts, 10 a second, about 90 s left"]


def test_the_end_is_not_told() -> None:
    """Once all is done nothing is said, however long it took: whoever did it says so."""
    assert told(200, [(EVERY, 100), (EVERY, 100), (EVERY, 0)])[1:] == [[], []]


def test_no_work_is_not_told() -> None:
    """Of nothing to do nothing is said."""
    assert told(0, [(EVERY, 0)]) == [[]]


def test_nothing_done_yet() -> None:
    """Of work of which nothing is done yet nothing is said: its pace is not known."""
    assert told(1000, [(EVERY, 0)]) == [[]]


@pytest.mark.parametrize("n_done", [1, 62, 6_170, 61_725, 6_172_500])
def test_paces_are_numbers_to_read(n_done: int) -> None:
    """A pace is told within a percent, in digits and commas, however slow or fast: never with an exponent."""
    [[line]] = told(10**8, [(EVERY, n_done)])
    [pace] = re.findall(r" texts, ([\d,.]+) a second, ", line)
    assert float(pace.replace(",", "")) == pytest.approx(n_done / EVERY, rel=0.01)
