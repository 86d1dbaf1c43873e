"""The week by rules of believing events: the truth beside the answers, and the evidence of the weeks before."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from benchmarks.week.changes import Change
from benchmarks.week.event_channel import TrustChange, trusted_share
from benchmarks.week.evidence import store_evidence
from benchmarks.week.truth import CheckedAnswer, Truth, age_percentiles, share_of
from benchmarks.week.workload import MONDAY, WARM_UP, Workload, generate_workload
from contexts.todoist.accounts import Accounts
from contexts.todoist.credentials import CredentialCipher, Credentials, new_key
from contexts.todoist.event_store import Channel, EventStore

HOUR = timedelta(hours=1)
ANY_DELAY = timedelta(minutes=45)


def changed(hours: float, task_id: str, **fields: Any) -> Change:
    return Change(MONDAY + hours * HOUR, "ann", {"items": [{"id": task_id, "checked": False, **fields}]})


def missed(truth: Truth, fetched_at: datetime | None, **stored: datetime) -> list[float]:
    """The ages in hours of the changes that ann's context misses ten hours after Monday's beginning."""
    ages = truth.missed("ann", MONDAY + 10 * HOUR, fetched_at, stored)
    return [age / HOUR for age in ages]


class TestTruth:
    TRUTH = Truth(
        [changed(1, "a"), changed(4, "a"), changed(5, "b"), changed(6, "c", checked=True), changed(11, "a")]
    )

    def test_a_fetch_shows_everything_before(self) -> None:
        """A context shows the changes until its fetch, and changes after the answer count for nothing."""
        assert missed(self.TRUTH, MONDAY + 4.5 * HOUR, c=MONDAY) == [4, 5]
        assert missed(self.TRUTH, MONDAY + 10 * HOUR, c=MONDAY) == []

    def test_folded_events(self) -> None:
        """A change is shown if the stored task is as new; the newest form of a task shows its older changes."""
        new = {"a": MONDAY + 4 * HOUR, "b": MONDAY + 5 * HOUR}
        assert missed(self.TRUTH, MONDAY, **new) == []
        assert missed(self.TRUTH, MONDAY, a=MONDAY + HOUR, b=MONDAY + 5 * HOUR) == [6]

    def test_ended_and_new_tasks(self) -> None:
        """A completion is missed while the task is stored as open, and a new task while it is not stored."""
        assert missed(self.TRUTH, MONDAY, a=MONDAY + 4 * HOUR, c=MONDAY) == [4, 5]

    def test_no_context(self) -> None:
        """An answer without a context misses every change of an open task."""
        assert missed(self.TRUTH, None) == [5, 6, 9]


class TestShares:
    def test_interval(self) -> None:
        """The interval holds the share, and is wider if all hits are answers of one user."""
        answers = [CheckedAnswer(MONDAY, f"user{n % 20}", "fetch", []) for n in range(400)]
        of_one_user = share_of(answers, [answer.user_id == "user1" for answer in answers])
        of_everybody = share_of(answers, [n < 20 for n in range(400)])
        assert of_one_user.value == of_everybody.value == 0.05
        assert of_one_user.low < 0.05 < of_one_user.high
        assert of_one_user.high - of_one_user.low > of_everybody.high - of_everybody.low

    def test_nothing_is_not_never(self) -> None:
        """Without a hit among 149 answers, the share can still be 2 %."""
        answers = [CheckedAnswer(MONDAY, "ann", "fetch", [])] * 149
        assert share_of(answers, [False] * 149).high == pytest.approx(0.02, abs=1e-3)

    def test_old_changes(self) -> None:
        """An answer misses an old change if the oldest one is older than six hours."""
        assert CheckedAnswer(MONDAY, "ann", "fetch", [HOUR, 7 * HOUR]).misses_old
        assert not CheckedAnswer(MONDAY, "ann", "fetch", [HOUR, 6 * HOUR]).misses_old
        assert not CheckedAnswer(MONDAY, "ann", "fetch", []).misses_old

    def test_percentiles(self) -> None:
        """Half of the ages are at most p50; without ages there is none."""
        assert age_percentiles([n * HOUR for n in range(101)]) == (50 * HOUR, 99 * HOUR)
        assert age_percentiles([]) is None


def test_trusted_share() -> None:
    """Trust counts from each begin to the next end, within the given time only."""
    changes = [
        TrustChange(MONDAY - 5 * HOUR, True, None),
        TrustChange(MONDAY + 2 * HOUR, False, "silence"),
        TrustChange(MONDAY + 7 * HOUR, True, None),
    ]
    assert trusted_share(changes, MONDAY, MONDAY + 10 * HOUR) == 0.5
    assert trusted_share([], MONDAY, MONDAY + 10 * HOUR) == 0.0


@pytest.fixture(scope="module")
def workload() -> Workload:
    return generate_workload(60, 1, seed=1)


@pytest.mark.parametrize(("miss_rate", "days"), [(0.0, 7), (0.01, 1)])
def test_evidence(connection: psycopg.Connection[Any], workload: Workload, miss_rate: float, days: int) -> None:
    """After two weeks without a miss audits are weekly; after two weeks that lost 1 % they are daily."""
    channel = channel_after(connection, workload, miss_rate)
    assert channel.is_trusted
    assert channel.audit_every == timedelta(days=days)
    assert channel.delay_p99 is not None
    assert timedelta(minutes=40) < channel.delay_p99 <= ANY_DELAY


def channel_after(connection: psycopg.Connection[Any], workload: Workload, miss_rate: float) -> Channel:
    """The channel after its first judgement, two hours after the evidence."""
    accounts = Accounts(connection, CredentialCipher([new_key()]))
    for user in workload.users:
        accounts.add(user.user_id, email=user.email, timezone="UTC", credentials=Credentials(user.api_token))
    store_evidence(connection, workload, miss_rate=miss_rate, max_delay=ANY_DELAY)
    events, start = EventStore(connection, "trusted"), MONDAY - WARM_UP
    events.watch(start, sees_endpoint=True)
    return events.judge(start + timedelta(minutes=30))
