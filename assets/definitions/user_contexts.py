"""Each user's context, ready for a prompt."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import pyarrow as pa

from assets.engine.asset import WorkUnit, asset
from assets.engine.checks import users_of
from assets.signal_rows import CLUSTER_COLUMNS, REACTION_COLUMNS, TASK_COLUMNS, signals_by_user
from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.store import row_version

_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("context_json", pa.string(), nullable=False),
        pa.field("context_hash", pa.string(), nullable=False),
        pa.field("valid_until", pa.timestamp("us", "UTC")),  # the midnight at which the context changes by itself
        pa.field("groups_json", pa.string(), nullable=False),  # all themes and duplicates, shown or not: TaskGroups
        pa.field("row_version", pa.string(), nullable=False),  # hash of context_hash, valid_until and groups_json
    ]
)


@asset(
    step="compute_context",
    schema=_SCHEMA,
    code_version="8",
    checks=(users_of("todoist_tasks"),),
    work=WorkUnit("contexts_assembled", per="user"),
)
def user_contexts(
    todoist_tasks: Annotated[pa.Table, *TASK_COLUMNS],
    task_clusters: Annotated[pa.Table, *CLUSTER_COLUMNS],
    tip_reactions: Annotated[pa.Table, *REACTION_COLUMNS],
    now: datetime,
    budget: Budget,
) -> pa.Table:
    """One row per user, including users without open tasks."""
    rows = []
    for user, each in signals_by_user(todoist_tasks, task_clusters, tip_reactions).items():
        assembled, groups_json = assemble(each.signals, now, budget), each.signals.groups.to_json()
        version = row_version(assembled.context_hash, assembled.valid_until, groups_json)
        rows.append({"user_id": user, **vars(assembled), "groups_json": groups_json, "row_version": version})
    return pa.Table.from_pylist(rows, schema=_SCHEMA)
