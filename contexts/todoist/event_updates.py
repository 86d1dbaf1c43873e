"""Mirrors brought up to date by events, and calls as audits of events, for users whom events tell of. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from contexts.todoist.accounts import Account, SyncState
from contexts.todoist.events import (
    EventAudit,
    FoldedEvents,
    ObjectKey,
    PendingEvent,
    SyncPeriod,
    audit_events,
    fold_events,
)
from contexts.todoist.fetch import Fetched
from contexts.todoist.mirror import Mirror


@dataclass(frozen=True)
class ToldUser:
    """A user of whose changes events tell.

    evidence_since: changes from then on are evidence for or against events: the last call, or the end of an outage of
    the channel since. is_covered: whether a call has confirmed an event of the account. may_fold: whether the events
    may stand in for a call. wants_full_audit: whether the next call is to be a full one. instants: as for
    `FoldedEvents`.
    """

    user_id: str
    last_sync: SyncPeriod
    evidence_since: datetime
    is_covered: bool
    may_fold: bool
    wants_full_audit: bool
    events: tuple[PendingEvent, ...] = ()
    instants: Mapping[ObjectKey, datetime] = field(default_factory=dict)

    def fold(self, mirror: Mirror) -> FoldedEvents:
        """Return the user's stored mirror with the pending events in it."""
        return fold_events(mirror, self.instants, self.last_sync, self.events)


@dataclass(frozen=True)
class EventUpdate:
    """One user's mirror after events that stood in for a call. new_instants: those that are not stored."""

    account: Account
    mirror: Mirror
    sync_state: SyncState
    events: FoldedEvents
    new_instants: Mapping[ObjectKey, datetime]


@dataclass(frozen=True)
class UserAudit:
    """One user's call as an audit of the changes since an instant. counts: whether the user is covered."""

    user_id: str
    since: datetime
    kind: Literal["incremental", "full"]
    counts: bool
    audit: EventAudit


def updates_by_events(
    accounts: Iterable[Account], mirrors: Mapping[str, Mirror], told: Mapping[str, ToldUser]
) -> list[EventUpdate]:
    """Return the updates of the users whose pending events may be folded, and can all be.

    mirrors: the stored tasks by user, without directories; a user without them needs a call.
    """
    updates = list[EventUpdate]()
    for account in accounts:
        user = told.get(account.user_id)
        if user is None or not user.may_fold or not user.events:
            continue
        if account.user_id not in mirrors or account.sync_token is None:
            continue
        events = user.fold(_whole(account, mirrors))
        if not events.is_due:
            updates.append(_update(account, events, user.instants))
    return updates


def full_audits(told: Mapping[str, ToldUser]) -> set[str]:
    """Return the users whose next call is to be a full one."""
    return {user_id for user_id, user in told.items() if user.wants_full_audit}


def audits_by_calls(
    fetched: Iterable[Fetched], mirrors: Mapping[str, Mirror], told: Mapping[str, ToldUser], now: datetime
) -> list[UserAudit]:
    """Judge the events of the users who were called; those without stored tasks have nothing to compare."""
    return [
        UserAudit(
            user.user_id,
            user.evidence_since,
            "full" if each.n_full else "incremental",
            user.is_covered,
            _audit(each, user, mirrors, now),
        )
        for each in fetched
        if (user := told.get(each.account.user_id)) is not None and user.user_id in mirrors
    ]


def _audit(fetched: Fetched, user: ToldUser, mirrors: Mapping[str, Mirror], now: datetime) -> EventAudit:
    expected, since = user.fold(_whole(fetched.account, mirrors)), user.evidence_since
    return audit_events(expected, fetched.mirror, user.last_sync, (since, now), fetched.changed_at)


def _whole(account: Account, mirrors: Mapping[str, Mirror]) -> Mirror:
    return Mirror(account.directory, mirrors[account.user_id].tasks)


def _update(account: Account, events: FoldedEvents, stored: Mapping[ObjectKey, datetime]) -> EventUpdate:
    state = SyncState(account.user_id, account.connection_number, account.sync_token, events.mirror.directory)
    new = {key: at for key, at in events.instants.items() if stored.get(key) != at}
    return EventUpdate(account, events.mirror, state, events, new)
