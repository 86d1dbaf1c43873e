"""Every user's open Todoist tasks: one `/sync` call per observed user, or the events of webhooks instead of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from assets.engine.asset import CurrentUsers, Output, RowDigests, Users, WorkUnit, asset
from assets.engine.tables import rows_of_users
from assets.task_rows import StoredMirror, rows_of_mirror, stored_mirrors, user_columns, with_later_columns
from contexts.themes.vector_cache import VectorCache
from contexts.todoist.accounts import Account, Accounts
from contexts.todoist.client import Todoist, TodoistUnavailable, TokenRefused
from contexts.todoist.event_store import EventStore
from contexts.todoist.event_updates import EventUpdate, audits_by_calls, full_audits, updates_by_events
from contexts.todoist.events import EventAudit
from contexts.todoist.fetch import Failed, Fetched, fetch

_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field(
            "connection_number", pa.int32()
        ),  # of the account it was fetched from; null: an earlier version did not tell
        pa.field("task_id", pa.string()),  # null in the only row of a user without open tasks
        pa.field("timezone", pa.string()),
        pa.field("language", pa.string()),
        pa.field("is_actionable", pa.bool_()),  # false: a header, or assigned to somebody else
        pa.field("title", pa.string()),  # the content without markup
        pa.field("content", pa.string()),
        pa.field("description", pa.string()),
        pa.field("text", pa.string()),  # null, as its hash, unless the item is actionable
        pa.field("text_hash", pa.string()),
        pa.field("project_id", pa.string()),
        pa.field("project", pa.string()),
        pa.field("section_id", pa.string()),
        pa.field("section", pa.string()),
        pa.field("parent_id", pa.string()),
        pa.field("parent", pa.string()),  # the title of the parent task
        pa.field("labels", pa.list_(pa.string())),
        pa.field("responsible_uid", pa.string()),  # the Todoist user it is assigned to; null: nobody
        pa.field("added_by_uid", pa.string()),
        pa.field("is_by_others", pa.bool_()),  # whether somebody else may have added it
        pa.field("is_shared", pa.bool_()),  # whether others may have named its project, section and labels
        pa.field("is_parent_by_others", pa.bool_()),
        pa.field("priority", pa.int8()),  # as in Todoist's API: 4 is the most urgent
        pa.field("due_date", pa.string()),  # a date, a local time, or an instant with Z
        pa.field("due_timezone", pa.string()),
        pa.field("due_string", pa.string()),
        pa.field("is_recurring", pa.bool_()),
        pa.field("deadline_date", pa.string()),
        pa.field("duration_minutes", pa.int32()),
        pa.field("added_at", pa.timestamp("us", "UTC")),
        pa.field("updated_at", pa.timestamp("us", "UTC")),
    ]
)

_OUTAGE_USERS = 5
"""If at least this many users of a shard fail and none succeeds, Todoist itself is down."""

_Outcome = TypeVar("_Outcome", Fetched, EventUpdate)


@asset(
    step="fetch_signals",
    schema=_SCHEMA,
    code_version="4",
    opaque=("updated_at",),  # it moves with changes that no column shows
    work=WorkUnit("todoist_calls", per="user"),
)
def todoist_tasks(
    previous: pa.Table,
    previous_digests: RowDigests,
    current_users: CurrentUsers,
    users: Users,
    now: datetime,
    todoist: Todoist,
    accounts: Accounts,
    events: EventStore,
    cache: VectorCache,
) -> Output:
    """One row per open item, as of the last successful fetch of its user: tasks, headers, tasks of other people.

    Trusted events of webhooks are folded into the rows of users whom they cover, without a call, unless one of them
    needs it; a call of such a user is an audit of the events. A user whose fetch fails keeps the previous rows, and
    so does one for whom Todoist reports no change. A removed user's rows are dropped, and the vectors of their texts
    are erased from the cache. Sync tokens are saved after the rows, with the digests of the rows that they continue,
    and events are marked as folded after that. A user whose stored rows have another digest (the run died in between,
    the file was restored from a backup) is fetched in full.
    """
    stored_users = set(pc.unique(previous["user_id"]).to_pylist())
    loaded, unreadable = accounts.load(users)
    stored = stored_mirrors(previous, _continued(loaded, previous_digests) & stored_users)
    mirrors = {user: each.mirror for user, each in stored.items()}
    webhook_users = events.webhook_users([account.user_id for account in loaded], now)
    updates = updates_by_events(loaded, mirrors, webhook_users)
    updated = {update.account.user_id for update in updates}
    callees = [account for account in loaded if account.user_id not in updated]
    full = full_audits(webhook_users)
    outcomes = fetch(
        todoist,
        callees,
        {user: mirror for user, mirror in mirrors.items() if user not in full},
        accounts.save_credentials,
    )
    fetched = [outcome for outcome in outcomes if isinstance(outcome, Fetched)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    if len(failed) >= _OUTAGE_USERS and not fetched:
        _raise_if_outage(failed)
    audits = audits_by_calls(fetched, mirrors, webhook_users, now)
    removed = stored_users - accounts.existing(stored_users)
    cache.erase(_text_hashes(previous, removed))
    refetched = [each for each in fetched if not _has_current_rows(each, stored, current_users)]
    changed: list[Fetched | EventUpdate] = [*refetched, *updates]
    fresh = pa.Table.from_pylist(
        [row for outcome in changed for row in rows_of_mirror(outcome.account, outcome.mirror)], schema=_SCHEMA
    )
    replaced = removed | {outcome.account.user_id for outcome in changed}
    kept = with_later_columns(rows_of_users(previous, stored_users - replaced))
    refused = [outcome.account for outcome in failed if isinstance(outcome.error, TokenRefused)]

    def save(written: RowDigests) -> None:
        accounts.save_sync_states(
            [_with_digest(outcome, written).sync_state for outcome in fetched], refused, observed_at=now
        )
        answered = [outcome.account.user_id for outcome in fetched]
        events.save([_with_digest(update, written) for update in updates], audits, answered, now)

    return Output(
        pa.concat_tables([kept, fresh]),
        counts={
            **_fetch_counts(fetched, failed, len(unreadable)),
            **_event_counts(updates, [each.audit for each in audits if each.counts]),
        },
        after_write=save,
    )


def _fetch_counts(fetched: Collection[Fetched], failed: Collection[Failed], n_unreadable: int) -> dict[str, int]:
    outcomes: list[Fetched | Failed] = [*fetched, *failed]
    return {
        "todoist_calls": sum(outcome.n_full + outcome.n_incremental for outcome in outcomes),
        "todoist_calls_full": sum(outcome.n_full for outcome in outcomes),
        "todoist_calls_incremental": sum(outcome.n_incremental for outcome in outcomes),
        "users_fetched": len(fetched),
        "users_failed": len(failed) + n_unreadable,
        "users_refused": sum(isinstance(outcome.error, TokenRefused) for outcome in failed),
        "items_skipped": sum(outcome.n_skipped for outcome in fetched),
        "zones_unread": sum(outcome.has_unread_zone for outcome in fetched),
    }


def _event_counts(updates: Collection[EventUpdate], audits: Collection[EventAudit]) -> dict[str, int]:
    return {
        "users_folded": len(updates),
        "events_folded": sum(len(update.events.folded) for update in updates),
        "events_dropped": sum(len(update.events.dropped) for update in updates),
        "changes_audited": sum(audit.n_changes for audit in audits),
        "changes_missed": sum(audit.n_missed for audit in audits),
    }


def _with_digest(outcome: _Outcome, written: RowDigests) -> _Outcome:
    """Return an outcome with the digest of the user's stored rows in its sync state."""
    state = replace(outcome.sync_state, rows_digest=written[outcome.account.user_id])
    return replace(outcome, sync_state=state)


def _has_current_rows(fetched: Fetched, stored: Mapping[str, StoredMirror], current_users: CurrentUsers) -> bool:
    """Return whether the stored rows are those of a fetch, because Todoist reported no change."""
    account = fetched.account
    before = stored.get(account.user_id)
    return (
        before is not None
        and account.user_id in current_users
        and fetched.mirror.tasks is before.mirror.tasks
        and fetched.mirror.directory == account.directory
        and user_columns(account, account.directory) == before.user_columns
    )


def _continued(accounts: Iterable[Account], stored: RowDigests) -> set[str]:
    """Return the users whose sync token continues the stored rows; for all others a delta would be incomplete."""
    return {
        account.user_id
        for account in accounts
        if account.rows_digest is None or account.rows_digest == stored.get(account.user_id)
    }


def _raise_if_outage(failed: Iterable[Failed]) -> None:
    """Raise TodoistUnavailable if Todoist failed for every user, so that the task waits as long as Todoist asks."""
    errors = [outcome.error for outcome in failed]
    if all(isinstance(error, TodoistUnavailable) for error in errors):
        waits = [error.retry_after for error in errors if isinstance(error, TodoistUnavailable) and error.retry_after]
        raise TodoistUnavailable(
            f"none of {len(errors)} users could be fetched: {errors[0]}", max(waits, default=None)
        )


def _text_hashes(table: pa.Table, users: Collection[str]) -> set[str]:
    rows = rows_of_users(table, users)
    return set(pc.drop_null(rows["text_hash"]).to_pylist())
