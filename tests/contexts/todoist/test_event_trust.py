"""The bound of the miss rate, and the time between audits."""

from __future__ import annotations

from datetime import timedelta

import pytest
from scipy.stats import binom

from contexts.todoist.event_trust import CONFIDENCE, audit_interval, miss_rate_bound


@pytest.mark.parametrize(("n_changes", "n_missed"), [(149, 0), (500, 3), (1000, 10), (10_000, 200)])
def test_the_bound(n_changes: int, n_missed: int) -> None:
    """At the bound, so few misses as were seen have a probability of 5 %."""
    bound = miss_rate_bound(n_changes, n_missed)
    assert binom.cdf(n_missed, n_changes, bound) == pytest.approx(1 - CONFIDENCE)


def test_no_evidence() -> None:
    """Without audited changes, or if all were missed, anything is possible."""
    assert miss_rate_bound(0, 0) == miss_rate_bound(7, 7) == 1.0


def test_how_many_clean_changes() -> None:
    """149 audited changes without a miss are the fewest that bound the miss rate by 2 %."""
    assert miss_rate_bound(148, 0) > 0.02 >= miss_rate_bound(149, 0)


@pytest.mark.parametrize(("bound", "days"), [(1.0, 1), (0.02, 1), (0.0099, 2), (0.004, 5), (0.001, 7), (0.0, 7)])
def test_the_interval(bound: float, days: int) -> None:
    """A user is audited every day at first, and up to every seven days as the evidence grows."""
    assert audit_interval(bound, 0.02) == timedelta(days=days)
