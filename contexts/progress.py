"""How far long work is, told every few seconds: how much is done, how fast, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY = 5.0
"""Seconds between two lines."""


class Progress:
    """Counts units of one piece of work and says so to `say`; nothing is said of what is done within `EVERY`."""

    def __init__(
        self, what: str, n_all: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """what: the units in the plural, such as `texts`. clock: seconds."""
        self._what = what
        self._n_all = n_all
        self._n_done = 0
        self._say = say
        self._clock = clock
        self._began = self._told = clock()

    def add(self, n: int) -> None:
        """So many more are done."""
        self._n_done += n
        now = self._clock()
        if now - self._told < EVERY or not 0 < self._n_done < self._n_all:
            return
        self._told = now
        pace = self._n_done / (now - self._began)
        told = f"{pace:,.0f}" if pace >= 100 else f"{pace:.3g}"
        left = (self._n_all - self._n_done) / pace
        self._say(f"{self._n_done:,} of {self._n_all:,} {self._what}, {told} a second, about {left:,.0f} s left")
