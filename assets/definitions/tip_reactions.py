"""What users made of earlier tips, as far back as matters."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import Output, Users, Work, asset
from contexts.accounts import Accounts
from contexts.store import ContextStore

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("tip_kind", pa.string()),
        pa.field("theme", pa.string()),
        pa.field("reaction", pa.string()),
        pa.field("reacted_at", pa.timestamp("us", "UTC")),
    ]
)


@asset(step="fetch_signals", schema=SCHEMA, code_version="1", work=Work("reactions_read", per="row"))
def tip_reactions(previous: pa.Table, users: Users, now: datetime, store: ContextStore, accounts: Accounts) -> Output:
    """One row per reaction of the last `store.reaction_days` days, as of the last look at its user; users who do not
    exist any more lose theirs.
    """
    kept = accounts.known(pc.unique(previous["user_id"]).to_pylist()) - users.keys()
    rows = [
        {"user_id": user, **vars(reaction)}
        for user, reactions in store.reactions(users, now).items()
        for reaction in reactions
    ]
    return Output(
        pa.concat_tables(
            [
                previous.filter(pc.is_in(previous["user_id"], pa.array(sorted(kept), pa.string()))),
                pa.Table.from_pylist(rows, schema=SCHEMA),
            ]
        ),
        counts={"reactions_read": len(rows)},
    )
