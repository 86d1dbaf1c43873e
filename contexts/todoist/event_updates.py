"""Mirrors brought up to date by events, and calls that audit events, for users with webhooks. Pure."""

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
class WebhookUser:
    """A user whose changes Todoist reports by webhooks, with the pending events.

    evidence_since: the last call, or the end of an outage of the channel since; later changes are evidence for or
    against events. is_covered: whether a call has confirmed an event of the account. may_fold: whether events may
    replace a call. wants_full_audit: whether the next call has to be a full one. instants: see `FoldedEvents`.
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
    """One user's mirror after events that replaced a call. new_instants: the instants that are not stored yet."""

    account: Account
    mirror: Mirror
    sync_state: SyncState
    events: FoldedEvents
    new_instants: Mapping[ObjectKey, datetime]


@dataclass(frozen=True)
class UserAudit:
    """One user's call as an audit of the changes since an instant.

    counts: whether the audit is evidence, because the user is covered.
    """

    user_id: str
    since: datetime
    kind: Literal["incremental", "full"]
    counts: bool
    audit: EventAudit


def updates_by_events(
    accounts: Iterable[Account], mirrors: Mapping[str, Mirror], webhook_users: Mapping[str, WebhookUser]
) -> list[EventUpdate]:
    """Return the updates of the users whose pending events may be folded, and can all be folded.

    mirrors: the stored tasks by user, without directories; a user without them needs a call.
    """
    updates = list[EventUpdate]()
    for account in accounts:
        user = webhook_users.get(account.user_id)
        if user is None or not user.may_fold or not user.events:
            continue
        if account.user_id not in mirrors or account.sync_token is None:
            continue
        events = user.fold(_whole(account, mirrors))
        if not events.is_due:
            updates.append(_update(account, events, user.instants))
    return updates


def full_audits(webhook_users: Mapping[str, WebhookUser]) -> set[str]:
    """Return the ids of the users whose next call has to be a full one."""
    return {user_id for user_id, user in webhook_users.items() if user.wants_full_audit}


def audits_by_calls(
    fetched: Iterable[Fetched], mirrors: Mapping[str, Mirror], webhook_users: Mapping[str, WebhookUser], now: datetime
) -> list[UserAudit]:
    """Return the audits of the users who were fetched; without stored tasks there is nothing to compare."""
    return [
        UserAudit(
            user.user_id,
            user.evidence_since,
            "full" if each.n_full else "incremental",
            user.is_covered,
            _audit(each, user, mirrors, now),
        )
        for each in fetched
        if (user := webhook_users.get(each.account.user_id)) is not None and user.user_id in mirrors
    ]


def _audit(fetched: Fetched, user: WebhookUser, mirrors: Mapping[str, Mirror], now: datetime) -> EventAudit:
    expected, since = user.fold(_whole(fetched.account, mirrors)), user.evidence_since
    return audit_events(expected, fetched.mirror, user.last_sync, (since, now), fetched.changed_at)


def _whole(account: Account, mirrors: Mapping[str, Mirror]) -> Mirror:
    return Mirror(account.directory, mirrors[account.user_id].tasks)


def _update(account: Account, events: FoldedEvents, stored: Mapping[ObjectKey, datetime]) -> EventUpdate:
    state = SyncState(account.user_id, account.connection_number, account.sync_token, events.mirror.directory)
    new = {key: at for key, at in events.instants.items() if stored.get(key) != at}
    return EventUpdate(account, events.mirror, state, events, new)
