"""The rows that the request path reads, in Postgres, and the history of what stood in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import Output, Users, Work, asset
from contexts.accounts import Accounts
from contexts.history import History, Version
from contexts.store import ContextStore, Seen, StoredContext

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("context_hash", pa.string(), nullable=False),
    ]
)


@asset(step="compute_context", schema=SCHEMA, code_version="3", work=Work("rows_written", per="user", is_bound=True))
def context_store(
    user_contexts: Annotated[
        pa.Table, "user_id", "context_json", "context_hash", "valid_until", "themes", "row_version"
    ],
    previous: pa.Table,
    users: Users,
    now: datetime,
    store: ContextStore,
    history: History,
    accounts: Accounts,
) -> Output:
    """Upserts the contexts of users who were ever fetched; the table that it gives says what stood last.

    `users` holds when each user's signals were fetched, and was read before the contexts were: a row is never called
    fresher than its data. The history comes first, so that no tip is made from a context that it lacks.
    """
    current, handed = _of(user_contexts, users), _hashes(previous)
    waiting = history.waiting(list(users))
    standing = handed | {version.user_id: version.context_hash for version in waiting}
    newer = {version.user_id for version in waiting if version.materialized_at > users[version.user_id]}
    news = [u for u, made in _hashes(current).items() if standing.get(u) != made and u not in newer]
    history.append([*waiting, *_versions(_of(current, news), users, now)])
    history.taken(waiting)
    seen = [
        Seen(row["user_id"], row["row_version"], users[row["user_id"]])
        for row in current.select(["user_id", "row_version"]).to_pylist()
    ]
    n_written, n_refreshed = store.upsert(seen, lambda wanted: _contexts(_of(current, wanted), users))
    gone = handed.keys() - set(user_contexts["user_id"].to_pylist())
    removed = gone - accounts.known(gone)
    history.forget(removed)
    stood = {**standing, **_hashes(_of(current, news))}
    stands = [{"user_id": user, "context_hash": stood[user]} for user in current["user_id"].to_pylist()]
    return Output(
        pa.concat_tables(
            [_of(previous, handed.keys() - gone - users.keys()), pa.Table.from_pylist(stands, schema=SCHEMA)]
        ),
        counts={
            "rows_written": n_written,
            "rows_refreshed": n_refreshed,
            "rows_removed": store.remove_orphans(removed),
            "contexts_changed": len(news),
        },
    )


def _of(table: pa.Table, users: Collection[str]) -> pa.Table:
    return table.filter(pc.is_in(table["user_id"], pa.array(sorted(users), pa.string())))


def _hashes(table: pa.Table) -> dict[str, str]:
    return dict(zip(table["user_id"].to_pylist(), table["context_hash"].to_pylist(), strict=True))


def _versions(contexts: pa.Table, users: Users, now: datetime) -> Iterator[Version]:
    for row in contexts.select(["user_id", "context_hash", "context_json"]).to_pylist():
        yield Version(assembled_at=now, materialized_at=users[row["user_id"]], author="night", **row)


def _contexts(contexts: pa.Table, users: Users) -> Iterable[StoredContext]:
    rows: list[dict[str, Any]] = contexts.drop_columns(["row_version"]).to_pylist()
    return [StoredContext(materialized_at=users[row["user_id"]], **row) for row in rows]
