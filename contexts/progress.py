"""Progress of long work as a line every few seconds: units done, their rate and the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL_S = 5.0
"""The minimum time between two lines, in seconds."""


class ProgressLogger:
    """Counts the units of one piece of work. Work that takes less than `INTERVAL_S` is not reported."""

    def __init__(
        self, units: str, n_total: int, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock.

        units: the noun of the units in the plural, such as `texts`. write: prints or logs a line. clock: seconds.
        """
        self._units = units
        self._n_total = n_total
        self._n_done = 0
        self._write = write
        self._clock = clock
        self._started = self._reported = clock()

    def add(self, n: int) -> None:
        """Count `n` more units as done."""
        self._n_done += n
        now = self._clock()
        if now - self._reported < INTERVAL_S or not 0 < self._n_done < self._n_total:
            return
        self._reported = now
        rate = self._n_done / (now - self._started)
        rounded = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        remaining = (self._n_total - self._n_done) / rate
        self._write(
            f"{self._n_done:,} of {self._n_total:,} {self._units}, {rounded} a second, about {remaining:,.0f} s left"
        )
