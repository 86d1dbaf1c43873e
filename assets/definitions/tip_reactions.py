"""The reactions of users to earlier tips."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from assets.engine.asset import Output, Users, WorkUnit, asset
from assets.engine.tables import rows_of_users
from contexts.assembly.store import ContextStore
from contexts.todoist.accounts import Accounts

_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("tip_kind", pa.string()),
        pa.field("theme", pa.string()),
        pa.field("reaction", pa.string()),
        pa.field("reacted_at", pa.timestamp("us", "UTC")),
    ]
)


@asset(step="fetch_signals", schema=_SCHEMA, code_version="1", work=WorkUnit("reactions_read", per="row"))
def tip_reactions(previous: pa.Table, users: Users, now: datetime, store: ContextStore, accounts: Accounts) -> Output:
    """One row per reaction of the last `store.reaction_days` days, as of the last observation of its user.

    The rows of removed users are dropped.
    """
    kept = accounts.existing(pc.unique(previous["user_id"]).to_pylist()) - users.keys()
    rows = [
        {"user_id": user, **vars(reaction)}
        for user, reactions in store.reactions(users, now).items()
        for reaction in reactions
    ]
    return Output(
        pa.concat_tables(
            [
                rows_of_users(previous, kept),
                pa.Table.from_pylist(rows, schema=_SCHEMA),
            ]
        ),
        counts={"reactions_read": len(rows)},
    )
