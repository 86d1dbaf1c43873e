"""The verdict on the refused tokens of a run."""

from __future__ import annotations

import pytest

from contexts.todoist.refusals import MostRefused, RefusalVerdict


@pytest.mark.parametrize(
    ("n_fetched", "n_failed", "n_refused", "is_outage"),
    [
        (0, 5, 5, True),
        (2, 3, 3, True),
        (0, 4, 4, False),
        (1, 3, 3, False),
        (3, 2, 2, False),
        (3, 3, 3, False),
        (1000, 999, 999, False),
        (999, 1000, 1000, True),
        (0, 10, 5, True),
        (0, 10, 0, False),
        (2, 8, 3, True),
        (5, 0, 0, False),
        (0, 0, 0, False),
    ],
)
def test_outage(n_fetched: int, n_failed: int, n_refused: int, is_outage: bool) -> None:
    """Refusals are an outage if at least five accounts were looked at, and more were refused than fetched.

    Accounts that Todoist neither served nor refused speak for neither: 503 and refusals can come in turn.
    """
    assert RefusalVerdict(n_fetched, n_failed, n_refused).is_outage is is_outage


def test_sum() -> None:
    """The counts of all assets are summed; those without the counts of a fetch do not matter."""
    counts = [{"users_fetched": 1, "users_failed": 6, "users_refused": 5, "n_rows": 9}, {"rows_written": 3}, {}]
    assert RefusalVerdict.of(iter(counts)) == RefusalVerdict(1, 6, 5)


def test_message() -> None:
    """The error names the numbers, the consequence and the remedy."""
    with pytest.raises(MostRefused) as raised:
        RefusalVerdict(2, 7, 6).raise_if_outage()
    for part in (
        "of 6 of 9 accounts",
        "2 could be fetched",
        "no account was disconnected",
        "accounts deactivate USER",
    ):
        assert part in str(raised.value)


def test_no_outage() -> None:
    """Refusals of single accounts are no error."""
    RefusalVerdict(7, 2, 2).raise_if_outage()
