"""The rows that the request path reads, in Postgres, and the history of what stood in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import Output, Users, Work, asset
from contexts.history import History, Version
from contexts.store import ContextStore, Seen, StoredContext

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("context_hash", pa.string(), nullable=False),
    ]
)


@asset(step="compute_context", schema=SCHEMA, code_version="3", work=Work("rows_written", per="user"))
def context_store(
    user_contexts: Annotated[
        pa.Table, "user_id", "context_json", "context_hash", "valid_until", "themes", "row_version"
    ],
    previous: pa.Table,
    users: Users,
    now: datetime,
    store: ContextStore,
    history: History,
) -> Output:
    """Upserts the contexts of users who were ever fetched; the table that it gives says what was handed over.

    `users` holds when each user's signals were fetched, and was read before the contexts were: a row is never called
    fresher than its data. The history comes first, so that no tip is made from a context that it lacks.
    """
    current = _of(user_contexts, users)
    hashes = _hashes(previous)
    standing = hashes | {version.user_id: version.context_hash for version in history.drain(list(users))}
    news = [user for user, made in _hashes(current).items() if standing.get(user) != made]
    history.append(_versions(_of(current, news), users, now))
    seen = [
        Seen(row["user_id"], row["row_version"], users[row["user_id"]])
        for row in current.select(["user_id", "row_version"]).to_pylist()
    ]
    n_written, n_refreshed = store.upsert(seen, lambda wanted: _contexts(_of(current, wanted), users))
    gone = hashes.keys() - set(user_contexts["user_id"].to_pylist())
    history.forget(gone)
    kept = previous.filter(pc.invert(pc.is_in(previous["user_id"], pa.array([*gone, *users], pa.string()))))
    return Output(
        pa.concat_tables([kept, current.select(SCHEMA.names)]),
        counts={
            "rows_written": n_written,
            "rows_refreshed": n_refreshed,
            "rows_removed": store.remove_orphans(gone),
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
