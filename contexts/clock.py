"""Instants that lie ahead of the clock: they are from before a clock was set back. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
"""Returns the present instant, aware."""

CLOCK_DIFFERENCE = timedelta(minutes=5)
"""The clocks of the service's and the pipeline's machines differ by less."""

_FAR_FUTURE = datetime.max.replace(tzinfo=UTC)


def latest_instant(clock: Clock | None) -> datetime:
    """Return the latest instant that can be stored, unless the clock was set back since; without a clock, any can."""
    return clock() + CLOCK_DIFFERENCE if clock else _FAR_FUTURE
