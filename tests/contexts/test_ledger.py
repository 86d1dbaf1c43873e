"""The log of what each run did and spared."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from contexts.ledger import Entry, Ledger

AT = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
ENTRY = Entry(
    run_id="run-1",
    step="fetch_signals",
    asset="todoist_tasks",
    started_at=AT,
    finished_at=AT + timedelta(seconds=7, microseconds=5),
    n_shards=16,
    n_shards_run=3,
    n_users=100,
    n_users_changed=5,
    n_rows=2**40,
    data_version="v1",
    changed=True,
    counts={"todoist_calls_full": 2, "items_skipped": 0},
)


@pytest.fixture
def ledger(connection: psycopg.Connection[Any]) -> Ledger:
    return Ledger(connection)


def test_round_trip(ledger: Ledger) -> None:
    """An entry comes back as it was written."""
    ledger.write(ENTRY)
    assert ledger.since(AT) == [ENTRY]


def test_retried_run(ledger: Ledger) -> None:
    """A run that is tried again replaces its own entry and nobody else's."""
    other = replace(ENTRY, run_id="run-0", started_at=AT - HOUR)
    ledger.write(other)
    ledger.write(ENTRY)
    again = replace(
        ENTRY,
        finished_at=AT + HOUR,
        n_shards_run=4,
        n_users=101,
        n_users_changed=6,
        n_rows=7,
        data_version="v2",
        changed=False,
        counts={},
    )
    ledger.write(again)
    assert ledger.since(AT - HOUR) == [other, again]


def test_assets_of_a_run(ledger: Ledger) -> None:
    """A run has an entry for each of its assets."""
    ledger.write(ENTRY)
    ledger.write(replace(ENTRY, asset="tip_reactions"))
    assert [entry.asset for entry in ledger.since(AT)] == ["tip_reactions", "todoist_tasks"]


def test_since(ledger: Ledger) -> None:
    """Entries come oldest first, from an instant on."""
    for hour in (2, 0, 1):
        ledger.write(replace(ENTRY, run_id=f"run-{hour}", started_at=AT + hour * HOUR))
    assert [entry.run_id for entry in ledger.since(AT + HOUR)] == ["run-1", "run-2"]
    assert ledger.since(AT + 3 * HOUR) == []


def test_latest_version(ledger: Ledger) -> None:
    """An asset's version is that of the run that ended last, none before the first."""
    assert ledger.latest_version("todoist_tasks") is None
    ledger.write(replace(ENTRY, run_id="new", data_version="new", finished_at=AT + 2 * HOUR))
    ledger.write(replace(ENTRY, run_id="old", data_version="old", finished_at=AT + HOUR))
    ledger.write(replace(ENTRY, run_id="other", asset="tip_reactions", finished_at=AT + 3 * HOUR))
    assert ledger.latest_version("todoist_tasks") == "new"
