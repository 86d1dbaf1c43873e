"""The rows of `context_store` in Postgres, which the request path reads, and the history of their versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

import pyarrow as pa

from assets.engine.asset import DueUsers, Output, Users, WorkUnit, asset
from assets.engine.tables import rows_of_users
from contexts.assembly.history import ContextVersion, History
from contexts.assembly.store import ContextStore, ObservedContext, StoredContext
from contexts.todoist.accounts import Accounts
from contexts.todoist.event_store import EventStore

_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("context_hash", pa.string(), nullable=False),
        pa.field("row_version", pa.string()),  # of the context's row, see `user_contexts`; null: not known
    ]
)


@asset(
    step="compute_context",
    schema=_SCHEMA,
    code_version="4",
    work=WorkUnit("rows_written", per="user", is_upper_bound=True),
)
def context_store(
    user_contexts: Annotated[
        pa.Table, "user_id", "context_json", "context_hash", "valid_until", "groups_json", "row_version"
    ],
    previous: pa.Table,
    users: Users,
    due_users: DueUsers,
    now: datetime,
    store: ContextStore,
    history: History,
    accounts: Accounts,
    events: EventStore,
) -> Output:
    """Upserts the contexts that changed or are outdated in the store; the table holds each user's newest hash.

    `users` holds the instants of the last fetches and was read before the contexts, so a row never claims to be
    fresher than its data. The history is written before the rows, so every tip's context is in the history. Folded
    events count as pending until the rows contain them.
    """
    current = rows_of_users(user_contexts, users)
    versions = _column(current, "row_version")
    stored_versions = _column(previous, "row_version")
    due = due_users | {user for user, version in versions.items() if stored_versions.get(user) != version}
    newest, n_changed = _extend_history(
        history, rows_of_users(current, due), previous, {user: users[user] for user in due}, now, store.latest()
    )
    observed = [ObservedContext(user, version, users[user]) for user, version in versions.items() if user in due]
    n_written, n_refreshed = store.upsert(
        observed, lambda changed: _stored_contexts(rows_of_users(user_contexts, changed), users)
    )
    without_context = stored_versions.keys() - set(user_contexts["user_id"].to_pylist())
    removed = without_context - accounts.existing(without_context)
    history.erase(removed)
    kept = stored_versions.keys() - without_context - users.keys()
    rows = [
        {"user_id": user, "context_hash": newest[user], "row_version": version} for user, version in versions.items()
    ]
    return Output(
        pa.concat_tables([rows_of_users(previous, kept), pa.Table.from_pylist(rows, schema=_SCHEMA)]),
        counts={
            "rows_written": n_written,
            "rows_refreshed": n_refreshed,
            "rows_removed": store.remove_orphans(removed),
            "contexts_changed": n_changed,
            "events_settled": events.settle(due, now),
        },
    )


def _extend_history(
    history: History, current: pa.Table, previous: pa.Table, users: Users, now: datetime, latest: datetime
) -> tuple[dict[str, str], int]:
    """Append pending versions of requests and the changed contexts; return newest hashes and the number of changes.

    A request may have assembled a context from a later fetch than this run's: then its version stays the newest,
    unless it is from after `latest`, because the clock was set back since.
    """
    pending = history.pending(list(users))
    newest = _column(previous, "context_hash") | {version.user_id: version.context_hash for version in pending}
    overtaken = {version.user_id for version in pending if users[version.user_id] < version.materialized_at <= latest}
    assembled = {user: hash_ for user, hash_ in _column(current, "context_hash").items() if user not in overtaken}
    changed = [user for user, hash_ in assembled.items() if newest.get(user) != hash_]
    history.append([*pending, *_versions(rows_of_users(current, changed), users, now)])
    history.drop_pending(pending)
    return newest | {user: assembled[user] for user in changed}, len(changed)


def _column(table: pa.Table, name: str) -> dict[str, Any]:
    """Return the values of a column by user."""
    return dict(zip(table["user_id"].to_pylist(), table[name].to_pylist(), strict=True))


def _versions(contexts: pa.Table, users: Users, now: datetime) -> Iterator[ContextVersion]:
    for row in contexts.select(["user_id", "context_hash", "context_json"]).to_pylist():
        yield ContextVersion(assembled_at=now, materialized_at=users[row["user_id"]], author="pipeline", **row)


def _stored_contexts(contexts: pa.Table, users: Users) -> Iterable[StoredContext]:
    rows: list[dict[str, Any]] = contexts.drop_columns(["row_version"]).to_pylist()
    return [StoredContext(materialized_at=users[row["user_id"]], **row) for row in rows]
