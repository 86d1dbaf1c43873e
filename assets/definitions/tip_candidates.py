"""Candidates that the LLM writes ahead of probable requests: the rows of `candidate_sets` in Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import pyarrow as pa

from assets.engine.asset import Output, Users, WorkUnit, asset
from assets.engine.tables import rows_of_users
from assets.signal_rows import CLUSTER_COLUMNS, REACTION_COLUMNS, TASK_COLUMNS, signals_by_user
from assets.tip_sets import TipRequest
from assets.tips_ahead import WORK, TipWriter
from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import UserContext

_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("candidate_set_id", pa.string(), nullable=False),
        pa.field("context_hash", pa.string(), nullable=False),  # of the context as of the day of the probable request
        pa.field("made_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("expires_at", pa.timestamp("us", "UTC"), nullable=False),  # the user's midnight after that request
        pa.field("n_tips", pa.int32(), nullable=False),
    ]
)


@asset(
    step="write_tips",
    schema=_SCHEMA,
    code_version="1",
    work=WorkUnit(WORK, per="user", is_upper_bound=True),
    on_demand=True,
)
def tip_candidates(
    context_store: Annotated[pa.Table, "user_id", "context_hash"],
    todoist_tasks: Annotated[pa.Table, *TASK_COLUMNS],
    task_clusters: Annotated[pa.Table, *CLUSTER_COLUMNS],
    tip_reactions: Annotated[pa.Table, *REACTION_COLUMNS],
    users: Users,
    now: datetime,
    budget: Budget,
    writer: TipWriter,
) -> Output:
    """The newest set of each user that was written ahead: a row for each user who has one.

    The context of a set is that of the day of the probable request, which may be the day after the run.
    """
    tasks, clusters, reactions = (
        rows_of_users(table, users) for table in (todoist_tasks, task_clusters, tip_reactions)
    )
    counts = writer.write(list(_requests(tasks, clusters, reactions, users, now, budget)), now)
    present = set(context_store["user_id"].to_pylist())
    return Output(pa.Table.from_pylist(writer.sets(present), schema=_SCHEMA), counts=counts)


def _requests(
    todoist_tasks: pa.Table,
    task_clusters: pa.Table,
    tip_reactions: pa.Table,
    users: Users,
    now: datetime,
    budget: Budget,
) -> Iterator[TipRequest]:
    for user, each in signals_by_user(todoist_tasks, task_clusters, tip_reactions).items():
        likely_at = max(users[user], now)
        assembled = assemble(each.signals, likely_at, budget)
        context = UserContext.model_validate_json(assembled.context_json)
        yield TipRequest(user, each.connection_number, context, assembled.context_hash, likely_at)
