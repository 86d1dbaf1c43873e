"""The evidence for and against Todoist's events: the miss rate that audits leave possible, and what follows. Pure."""

from __future__ import annotations

from datetime import timedelta
from math import log

CONFIDENCE = 0.95
"""The probability with which the miss rate is below its bound."""

EVIDENCE_PERIOD = timedelta(days=28)
"""Audits and delays of this long count."""

LONGEST_EVIDENCE_PERIOD = timedelta(days=90)
"""Audits of this long count if those of the shorter period have few changes."""

ENOUGH_CHANGES = 500
"""Audited changes for which the shorter period suffices: with four of them missed, the bound is still below 2 %."""

LONGEST_OUTAGE = timedelta(minutes=45)
"""Todoist tries a delivery for this long: a longer outage of the endpoint loses events."""

SHORTEST_AUDIT_INTERVAL = timedelta(days=1)
LONGEST_AUDIT_INTERVAL = timedelta(days=7)

_IMPROBABLE = 1e-6  # the channel is looked at every minute, so a false alarm has to be much rarer than that

IMPROBABLE_SILENCE = -log(_IMPROBABLE)
"""The expected number of events from which on silence is improbable, if they are a Poisson process."""


def miss_rate_bound(n_changes: int, n_missed: int) -> float:
    """Return the upper end of the one-sided 95 % interval of the miss rate (Clopper and Pearson, 1934)."""
    if n_missed >= n_changes:
        return 1.0
    from scipy.special import betaincinv  # a second and 30 MB, which the service would pay for nothing

    return float(betaincinv(n_missed + 1, n_changes - n_missed, CONFIDENCE))


def audit_interval(bound: float, allowed: float) -> timedelta:
    """Return the time between two audits of a user: longer than a day if the bound is far below the allowed rate.

    bound: of the miss rate by the audits of the last week, so that new faults of the channel count soon.
    """
    if bound <= 0:
        return LONGEST_AUDIT_INTERVAL
    days = min(LONGEST_AUDIT_INTERVAL.days, max(SHORTEST_AUDIT_INTERVAL.days, int(allowed / bound)))
    return timedelta(days=days)
