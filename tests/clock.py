"""A clock for tests."""

from __future__ import annotations

from datetime import datetime, timedelta


class Clock:
    """A clock that only tests move, except for `tick` at each reading.

    tick: zero for a clock that stands still; a microsecond if no two readings may be equal.
    """

    def __init__(self, at: datetime, tick: timedelta = timedelta(0)) -> None:
        self.at = at
        self._tick = tick

    def __call__(self) -> datetime:
        self.at += self._tick
        return self.at

    def forward(self, **by: float) -> None:
        """Move the clock by a `timedelta` given in keywords."""
        self.at += timedelta(**by)
