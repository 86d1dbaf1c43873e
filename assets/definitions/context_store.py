"""The rows that the request path reads, in Postgres."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import Output, Users, asset
from contexts.store import ContextStore, StoredContext

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("context_hash", pa.string(), nullable=False),
    ]
)


@asset(step="compute_context", schema=SCHEMA, code_version="2")
def context_store(
    user_contexts: Annotated[pa.Table, "user_id", "context_json", "context_hash", "valid_until", "themes"],
    previous: pa.Table,
    users: Users,
    store: ContextStore,
) -> Output:
    """Upserts the contexts of users who were ever fetched; the table that it gives says what was handed over.

    `users` holds when each user's signals were fetched, and was read before the contexts were: a row is never
    called fresher than its data.
    """
    rows = [
        StoredContext(materialized_at=users[row["user_id"]], **row)
        for row in user_contexts.to_pylist()
        if row["user_id"] in users
    ]
    n_written, n_refreshed = store.upsert(rows)
    n_removed = store.remove_orphans(set(previous["user_id"].to_pylist()) - {row.user_id for row in rows})
    is_stored = pc.is_in(user_contexts["user_id"], pa.array([row.user_id for row in rows], pa.string()))
    return Output(
        user_contexts.filter(is_stored).select(SCHEMA.names),
        counts={"rows_written": n_written, "rows_refreshed": n_refreshed, "rows_removed": n_removed},
    )
