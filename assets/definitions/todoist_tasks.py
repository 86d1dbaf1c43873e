"""Every user's open Todoist tasks: one `/sync` call per user looked at, folded into what was known."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import Output, Users, Work, asset
from contexts.accounts import Accounts
from contexts.fetch import Failed, Fetched, fetch
from contexts.mirror import Mirror, TodoistTask, text_hash
from contexts.todoist import Todoist, TodoistUnavailable, TokenRefused
from contexts.vectors import VectorCache

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("task_id", pa.string()),  # null in the only row of a user without open tasks
        pa.field("timezone", pa.string()),
        pa.field("language", pa.string()),
        pa.field("content", pa.string()),
        pa.field("description", pa.string()),
        pa.field("text", pa.string()),
        pa.field("text_hash", pa.string()),
        pa.field("project_id", pa.string()),
        pa.field("project", pa.string()),
        pa.field("section_id", pa.string()),
        pa.field("section", pa.string()),
        pa.field("parent_id", pa.string()),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("priority", pa.int8()),  # Todoist's: 4 is the most urgent
        pa.field("due_date", pa.string()),  # a date, a local time, or an instant with Z
        pa.field("due_timezone", pa.string()),
        pa.field("due_string", pa.string()),
        pa.field("is_recurring", pa.bool_()),
        pa.field("deadline_date", pa.string()),
        pa.field("duration_minutes", pa.int32()),
        pa.field("added_at", pa.timestamp("us", "UTC")),
    ]
)

_OUTAGE = 5
"""Where so many users of a shard fail and none succeeds, it is Todoist that fails."""

_MIRRORED = [field.name for field in fields(TodoistTask)]


@asset(step="fetch_signals", schema=SCHEMA, code_version="1", work=Work("todoist_calls", per="user"))
def todoist_tasks(
    previous: pa.Table, users: Users, now: datetime, todoist: Todoist, accounts: Accounts, cache: VectorCache
) -> Output:
    """One row per open task; users whose fetch fails keep their rows, users who do not exist any more lose them, and
    their texts the vectors that are kept for others.

    Sync tokens are saved after the rows: a run that dies in between asks for the same delta again.
    """
    stored = set(pc.unique(previous["user_id"]).to_pylist())
    opened, unreadable = accounts.open(users)
    mirrors = dict(_mirrors(previous, {account.user_id for account in opened} & stored))
    outcomes = fetch(todoist, opened, mirrors, accounts.renewed)
    fetched = [each for each in outcomes if isinstance(each, Fetched)]
    failed = [each for each in outcomes if isinstance(each, Failed)]
    if len(failed) >= _OUTAGE and not fetched:
        _refuse_outage(failed)
    lost = stored - accounts.known(stored)
    cache.forget(_texts(previous, lost))
    replaced = lost | {each.account.user_id for each in fetched}
    kept = previous.filter(pc.invert(_is_of(previous, replaced)))
    fresh = pa.Table.from_pylist([row for each in fetched for row in _rows(each)], schema=SCHEMA)
    refused = [each.account.user_id for each in failed if isinstance(each.error, TokenRefused)]
    return Output(
        pa.concat_tables([kept, fresh]),
        counts={
            "todoist_calls": sum(each.n_full + each.n_incremental for each in fetched),
            "todoist_calls_full": sum(each.n_full for each in fetched),
            "todoist_calls_incremental": sum(each.n_incremental for each in fetched),
            "users_fetched": len(fetched),
            "users_failed": len(failed) + len(unreadable),
            "users_refused": len(refused),
            "items_skipped": sum(each.n_skipped for each in fetched),
        },
        then=lambda: accounts.save([each.progress for each in fetched], refused, observed_at=now),
    )


def _refuse_outage(failed: Iterable[Failed]) -> None:
    """Raise when Todoist could not be had for anybody, so that the task is tried again as late as it asked for."""
    errors = [each.error for each in failed]
    if all(isinstance(error, TodoistUnavailable) for error in errors):
        waits = [error.retry_after for error in errors if isinstance(error, TodoistUnavailable) and error.retry_after]
        raise TodoistUnavailable(
            f"none of {len(errors)} users could be fetched: {errors[0]}", max(waits, default=None)
        )


def _rows(each: Fetched) -> Iterator[dict[str, Any]]:
    directory = each.mirror.directory
    common = {
        "user_id": each.account.user_id,
        "timezone": directory.timezone or each.account.timezone,
        "language": directory.language or "en",
    }
    if not each.mirror.tasks:
        yield common
    for task in each.mirror.tasks.values():
        yield (
            common
            | vars(task)
            | {
                "text": task.text,
                "text_hash": text_hash(task.text),
                "project": directory.projects.get(task.project_id or ""),
                "section": directory.sections.get(task.section_id or ""),
            }
        )


def _is_of(table: pa.Table, users: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(table["user_id"], pa.array(sorted(users), pa.string()))


def _texts(table: pa.Table, users: Collection[str]) -> set[str]:
    """The hashes of these users' texts."""
    rows = table.filter(_is_of(table, users))
    return set(pc.drop_null(rows["text_hash"]).to_pylist())


def _mirrors(previous: pa.Table, users: set[str]) -> Iterator[tuple[str, Mirror]]:
    """The tasks stored for some users; their directories stand with their sync tokens."""
    tasks: dict[str, dict[str, TodoistTask]] = {user: {} for user in users}
    rows = previous.filter(_is_of(previous, users))
    for row in rows.select(["user_id", *_MIRRORED]).to_pylist():
        if row["task_id"] is not None:
            tasks[row["user_id"]][row["task_id"]] = _task(row)
    return ((user, Mirror(tasks=each)) for user, each in tasks.items())


def _task(row: Mapping[str, Any]) -> TodoistTask:
    return TodoistTask(**{name: row[name] for name in _MIRRORED if name != "labels"}, labels=tuple(row["labels"]))
