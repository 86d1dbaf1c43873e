"""The channel of webhooks during the simulation: faults, deliveries, and when trust in it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from benchmarks.week.evidence import spread_audits, store_evidence
from benchmarks.week.rules import LOST, Rule
from benchmarks.week.service import WEBHOOK_SECRET
from benchmarks.week.stand_ins import TodoistControl
from benchmarks.week.system import System
from benchmarks.week.workload import MONDAY, WARM_UP, Workload
from contexts.todoist.event_store import Channel
from local.todoist.webhooks import RegisteredApp

TICK = timedelta(minutes=5)
"""Time between two looks at the channel; events arrive at these instants."""

CUT_OFF = timedelta(days=1)

_DOUBLED = 0.02
_MAX_DELAY = timedelta(minutes=45)


@dataclass(frozen=True)
class TrustChange:
    """An instant at which trust in events began or ended. reason: of its end."""

    at: datetime
    is_trusted: bool
    reason: str | None


@dataclass
class EventChannel:
    """Webhooks from the local Todoist to the service.

    cut_off_at: none arrives for `CUT_OFF` from then on; None: never.
    trust: its changes so far.
    """

    system: System
    todoist: TodoistControl
    cut_off_at: datetime | None
    trust: list[TrustChange] = field(default_factory=list)

    async def open(self, workload: Workload, rule: Rule) -> None:
        """Sign all users in through the product's app, and store the evidence of the weeks before."""
        connection, start = self.system.connection, MONDAY - WARM_UP
        url = f"{self.system.service_url}/v1/todoist/events"
        app = RegisteredApp("week", WEBHOOK_SECRET, "http://127.0.0.1/callback", url)
        await self.todoist.set_clock(start)
        await self.todoist.register(app)
        for user in workload.users:
            await self.todoist.sign_in(user.user_id, app)
        connection.execute("UPDATE todoist_accounts SET oauth_connected_at = %s", [start - timedelta(days=30)])
        if rule.past_miss_rate is not None:
            store_evidence(connection, workload, miss_rate=rule.past_miss_rate, max_delay=_MAX_DELAY)
        spread_audits(connection, workload.users, start, every_days=rule.audit_days)
        await self._disturb()

    async def tick(self, at: datetime) -> None:
        """Deliver the events that are due, and look at the channel and at changed contexts as the service does."""
        if self.cut_off_at == at:
            await self._disturb(cut_off_until=(at + CUT_OFF).isoformat())
        await self.todoist.deliver(at)
        self.system.pipeline.events.watch(at, sees_endpoint=True)
        await self.system.refresher.refresh_due()
        self.note_trust(at)

    def note_trust(self, at: datetime) -> None:
        """Note whether events are trusted, if that has changed."""
        now = self.state()
        was_trusted = bool(self.trust) and self.trust[-1].is_trusted
        if now.is_trusted != was_trusted:
            self.trust.append(TrustChange(at, now.is_trusted, None if now.is_trusted else now.trust_ended_by))

    def state(self) -> Channel:
        """The channel in Postgres."""
        return self.system.pipeline.events.channel()

    async def _disturb(self, **cut_off: str) -> None:
        faults = {"lost": LOST, "doubled": _DOUBLED, "delayed": 1.0, "max_delay_s": _MAX_DELAY.total_seconds()}
        await self.todoist.disturb(**faults, **cut_off)


def trusted_share(changes: Sequence[TrustChange], since: datetime, until: datetime) -> float:
    """The share of a time in which events were trusted."""
    trusted, began_at = timedelta(0), until
    for change in [*changes, TrustChange(until, False, None)]:
        if change.is_trusted:
            began_at = change.at
        else:
            trusted += max(timedelta(0), min(change.at, until) - max(began_at, since))
            began_at = until
    return trusted / (until - since)
