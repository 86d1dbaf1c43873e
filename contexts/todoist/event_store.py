"""The events of webhooks in Postgres, and the trust in them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from contexts.clock import CLOCK_DIFFERENCE, Clock
from contexts.postgres.sql import queries, rows
from contexts.settings import EventsMode
from contexts.todoist.event_trust import (
    ENOUGH_CHANGES,
    EVIDENCE_PERIOD,
    IMPROBABLE_SILENCE,
    LONGEST_AUDIT_INTERVAL,
    LONGEST_EVIDENCE_PERIOD,
    LONGEST_OUTAGE,
    audit_interval,
    miss_rate_bound,
)
from contexts.todoist.event_updates import EventUpdate, UserAudit, WebhookUser
from contexts.todoist.events import TOMBSTONE_PERIOD, PendingEvent, SyncPeriod

log = logging.getLogger(__name__)

CHANNEL_LOST = "events of Todoist are trusted no longer: the channel is silent, or its endpoint was away"
"""The message in the log if a watch ends the trust in events."""


@dataclass(frozen=True)
class Channel:
    """The channel of events as a whole, see sql/migrations/0025_event_trust.sql."""

    last_delivery_at: datetime | None
    is_trusted: bool
    trusted_until: datetime | None
    trust_ended_by: str | None
    n_changes: int
    n_missed: int
    miss_rate_bound: float
    audit_every: timedelta
    delay_p50: timedelta | None
    delay_p99: timedelta | None


@dataclass(frozen=True)
class EventStore:
    """The stored events and the state of their channel, over one connection.

    mode: how far events are believed. allowed_miss_rate: with a greater bound of the miss rate they are not.
    clock: tells the time at which a run folds events; None for the time of the run.
    calls_everybody: whether every user is fetched by a call, whatever the events say.
    """

    connection: psycopg.Connection[Any]
    mode: EventsMode = "off"
    allowed_miss_rate: float = 0.02
    clock: Clock | None = None
    calls_everybody: bool = False

    @property
    def _sql(self) -> Any:
        return queries("event_trust")

    def without_folding(self) -> EventStore:
        """Return the same store for a run that calls Todoist for every user."""
        return replace(self, calls_everybody=True)

    @property
    def folds(self) -> bool:
        """Whether events may replace a call."""
        return self.mode == "trusted" and not self.calls_everybody

    def users_to_fold(
        self, now: datetime, *, shards: Sequence[int] | None = None, n_shards: int = 1
    ) -> Mapping[str, datetime]:
        """Return the users with events to fold, with the instant of their last fetch, of some shards or of all."""
        if not self.folds:
            return {}
        return dict(self._sql.users_to_fold(self.connection, now=now, shards=shards, n_shards=n_shards))

    def webhook_users(self, user_ids: Iterable[str], now: datetime) -> Mapping[str, WebhookUser]:
        """Return those of some users whose changes webhooks report, by user; none if events are off."""
        if self.mode == "off":
            return {}
        found = {row["user_id"]: row for row in self._rows(self._sql.users_told, user_ids=list(user_ids), now=now)}
        events: dict[str, list[PendingEvent]] = {}
        instants: dict[str, dict[tuple[str, str], datetime]] = {}
        for row in self._rows(self._sql.pending_events, user_ids=list(found)):
            events.setdefault(row.pop("user_id"), []).append(PendingEvent(**row))
        for row in self._rows(self._sql.tombstones, user_ids=list(found)):
            instants.setdefault(row["user_id"], {})[row["object_type"], row["object_id"]] = row["updated_at"]
        return {
            user_id: WebhookUser(
                user_id=user_id,
                last_sync=SyncPeriod(row["observed_at"], max(row["observed_at"], row["synced_at"])),
                evidence_since=row["evidence_since"],
                is_covered=row["is_covered"],
                may_fold=row["may_fold"] and self.folds,
                wants_full_audit=row["wants_full"],
                events=tuple(events.get(user_id, ())),
                instants=instants.get(user_id, {}),
            )
            for user_id, row in found.items()
        }

    def save(
        self, updates: Collection[EventUpdate], audits: Collection[UserAudit], answered: Iterable[str], now: datetime
    ) -> None:
        """Store the folds and the audits of a run in one transaction, after its tasks and sync states are stored.

        updates: with the digests of the stored rows. answered: the users whose call Todoist answered.
        now: the time of the run.
        """
        if self.mode == "off":
            return
        folded_at = max(now, self.clock()) if self.clock else now
        folded = [_key(update) | _event_key(each) for update in updates for each in update.events.folded]
        dropped = [_key(update) | _event_key(each) for update in updates for each in update.events.dropped]
        answered = list(answered)
        with self.connection.transaction():
            self._sql.lock_events(
                self.connection, user_ids=[*answered, *(update.account.user_id for update in updates)]
            )
            self._run_many(self._sql.save_fold, [_fold_row(update) | {"folded_at": folded_at} for update in updates])
            self._run_many(self._sql.save_tombstone, [row for update in updates for row in _tombstones(update)])
            self._run_many(self._sql.mark_folded, [row | {"folded_at": folded_at} for row in folded])
            self._run_many(self._sql.drop_event, dropped)
            self._save_audits(audits, now)
            self._sql.answer_events(self.connection, user_ids=answered, answered_at=now, folded_at=folded_at)

    def _save_audits(self, audits: Collection[UserAudit], now: datetime) -> None:
        covered = [each for each in audits if each.counts]
        self._run_many(self._sql.save_audit, [_audit_row(each, now) for each in covered])
        confirmed = [each.user_id for each in audits if each.audit.has_confirmed]
        if confirmed:
            self._sql.confirm_events(self.connection, user_ids=confirmed, confirmed_at=now)
        unreported = [each.user_id for each in covered if 0 < each.audit.n_changes == each.audit.n_missed]
        if unreported:
            self._sql.end_cover(self.connection, user_ids=unreported)

    def settle(self, user_ids: Iterable[str], now: datetime) -> int:
        """Delete the events that the stored contexts contain, and return their number. now: the time of the run."""
        listed = list(user_ids)
        with self.connection.transaction():
            self._sql.lock_events(self.connection, user_ids=listed)
            return int(self._sql.settle_events(self.connection, user_ids=listed, now=now))

    def watch(self, now: datetime, *, sees_endpoint: bool = False) -> bool:
        """Return whether the channel is alive, and end the trust in it if not. sees_endpoint: see `watch_channel`."""
        is_alive, _, has_ended = self._sql.watch_channel(
            self.connection, **watch_values(now, sees_endpoint=sees_endpoint)
        )
        if has_ended:
            log.warning(CHANNEL_LOST)
        return bool(is_alive)

    def judge(self, now: datetime) -> Channel:
        """Decide by the audits whether events are trusted from now on, and return the channel."""
        if self.mode == "off":
            self._sql.end_trust(self.connection, now=now)
            return self.channel()
        with self.connection.transaction():  # `watch` locks the channel: a service cannot end the trust meanwhile
            self._judge(now)
        return self.channel()

    def _judge(self, now: datetime) -> None:
        before = self.channel()
        is_alive, was_trusted = self.watch(now), before.is_trusted
        evidence = min((self._evidence(now, since_trust_ended=each) for each in (False, True)), key=_bound)
        bound, bound_of_week = _bound(evidence), _bound(self._evidence_since(now - LONGEST_AUDIT_INTERVAL))
        is_trusted = is_alive and bound <= self.allowed_miss_rate and evidence["delay_p99"] is not None
        self._sql.save_verdict(
            self.connection,
            **evidence,
            miss_rate_bound=bound,
            audit_every=audit_interval(bound_of_week, self.allowed_miss_rate),
            is_trusted=is_trusted,
            now=now,
        )
        if was_trusted and is_alive and not is_trusted:
            log.warning("events of Todoist are trusted no longer: they may miss %.1f %% of the changes", 100 * bound)

    def _evidence(self, now: datetime, *, since_trust_ended: bool) -> dict[str, Any]:
        """Return the evidence of the last four weeks, or of 90 days if four weeks have too few audited changes."""
        evidence = self._evidence_since(now - EVIDENCE_PERIOD, since_trust_ended=since_trust_ended)
        if evidence["n_changes"] >= ENOUGH_CHANGES:
            return evidence
        return self._evidence_since(now - LONGEST_EVIDENCE_PERIOD, since_trust_ended=since_trust_ended)

    def _evidence_since(self, since: datetime, *, since_trust_ended: bool = False) -> dict[str, Any]:
        return self._rows(self._sql.event_evidence, since=since, since_trust_ended=since_trust_ended)[0]

    def channel(self) -> Channel:
        """Return the state of the channel."""
        return Channel(**self._rows(self._sql.read_channel)[0])

    def expire(self, now: datetime) -> None:
        """Delete old tombstones, arrivals and audits, and old events, such as those of users who are not fetched."""
        self._sql.expire_events(self.connection, before=now - TOMBSTONE_PERIOD)
        self._sql.expire_tombstones(self.connection, before=now - TOMBSTONE_PERIOD)
        self._sql.expire_arrivals(self.connection, before=now - EVIDENCE_PERIOD)
        self._sql.expire_audits(self.connection, before=now - LONGEST_EVIDENCE_PERIOD)

    def _rows(self, statement: Any, **values: Any) -> list[dict[str, Any]]:
        return rows(self.connection, statement, values)

    def _run_many(self, statement: Any, values: list[dict[str, Any]]) -> None:
        if values:
            statement(self.connection, values)


def watch_values(now: datetime, *, sees_endpoint: bool) -> dict[str, Any]:
    """Return the values of the statement `watch_channel`."""
    return {
        "now": now,
        "sees_endpoint": sees_endpoint,
        "improbable": IMPROBABLE_SILENCE,
        "longest_outage": LONGEST_OUTAGE,
        "clock_difference": CLOCK_DIFFERENCE,
    }


def _bound(evidence: Mapping[str, Any]) -> float:
    return miss_rate_bound(int(evidence["n_changes"]), int(evidence["n_missed"]))


def _key(update: EventUpdate) -> dict[str, Any]:
    return {"user_id": update.account.user_id, "connection_number": update.account.connection_number}


def _event_key(event: PendingEvent) -> dict[str, Any]:
    return {"object_type": event.object_type, "object_id": event.object_id, "received_at": event.received_at}


def _fold_row(update: EventUpdate) -> dict[str, Any]:
    state = update.sync_state
    return {**_key(update), "directory": Jsonb(state.directory.to_json()), "rows_digest": state.rows_digest}


def _tombstones(update: EventUpdate) -> list[dict[str, Any]]:
    return [
        {**_key(update), "object_type": kind, "object_id": object_id, "updated_at": at}
        for (kind, object_id), at in update.new_instants.items()
    ]


def _audit_row(audit: UserAudit, now: datetime) -> dict[str, Any]:
    return {
        "user_id": audit.user_id,
        "audited_at": now,
        "since": audit.since,
        "kind": audit.kind,
        "n_changes": audit.audit.n_changes,
        "n_missed": audit.audit.n_missed,
    }
