"""One user's stored context, and the reasons for its changes, printed for people to read."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from contexts.assembly.explanation_text import explain_user
from contexts.assembly.history import History
from contexts.assembly.model import BUCKETS, TaskView, UserContext
from contexts.text import counted

_TASKS_PER_BUCKET = 5


def print_stored_context(connection: psycopg.Connection[Any], console: Console) -> str | None:
    """Print the context of one user, if possible with English tasks and tips written ahead, and return the user's id.

    None if no context is stored.
    """
    row = connection.execute(
        "SELECT user_id, fetched_at(materialized_at, c.rows_digest, a.rows_digest, observed_at), context_json,"
        " context_hash"
        " FROM context_store c LEFT JOIN todoist_accounts a USING (user_id)"
        " ORDER BY context_json::JSON -> 'profile' ->> 'language' = 'en' DESC,"
        " EXISTS (SELECT FROM candidate_sets s WHERE s.user_id = c.user_id AND s.context_hash = c.context_hash) DESC,"
        " user_id LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    user_id, fetched_at, context_json, context_hash = row
    console.print(
        f"\n[bold]context_store, {user_id}[/bold]  fetched {fetched_at:%Y-%m-%d %H:%M:%S %Z}"
        f"  hash {context_hash[:12]}…"
    )
    print_context(UserContext.model_validate(json.loads(context_json)), console)
    return str(user_id)


def print_context(context: UserContext, console: Console) -> None:
    """Print the profile and the counts, the tasks by bucket, the themes, and the reactions."""
    counts = context.counts
    console.print(
        f"{context.profile.timezone}, {context.profile.language}: {counts.open} open tasks, {counts.shown} shown;"
        f" {counts.overdue} overdue, {counts.today} today, {counts.this_week} this week, {counts.later} later,"
        f" {counts.someday} without a date"
    )
    console.print(_task_table(context))
    if note := _note_on_rows(context):
        console.print(note)
    console.print(_theme_table(context))
    for kind, tally in context.reactions.by_kind.items():
        console.print(f"tips of kind {escape(kind)}: {', '.join(f'{n} {name}' for name, n in tally.items())}")


def print_changes(history: History, console: Console) -> None:
    """Print the changes of the user whose last context versions differ most."""
    users = history.connection.execute("SELECT user_id FROM context_store ORDER BY user_id").fetchall()
    lines = max((explain_user(history, user_id, 2) for (user_id,) in users), key=len, default=[])
    console.print("\n[bold]Why did a context change[/bold] (python -m assets why USER)")
    for line in lines:
        console.print(escape(f"  {line}"), soft_wrap=True)


def _task_table(context: UserContext) -> Table:
    theme_of = {task: theme.label for theme in context.themes for task in theme.task_ids}
    table = Table("bucket", "", "task", Column("due", no_wrap=True), "project", "theme")
    for bucket in BUCKETS:
        for task in context.tasks.get(bucket, ())[:_TASKS_PER_BUCKET]:
            cells = (bucket, task.priority, task.title, _date(task), task.project or "", theme_of.get(task.id, ""))
            table.add_row(*map(escape, cells))
    return table


def _note_on_rows(context: UserContext) -> str:
    """A line with the shown tasks that have no row in the table; empty if there are none."""
    listed = [task for tasks in context.tasks.values() for task in tasks[:_TASKS_PER_BUCKET]]
    n_duplicates = sum(len(task.also) for task in listed)
    n_others = context.counts.shown - len(listed) - n_duplicates
    parts = [f"{counted(n_duplicates, 'duplicate')} of listed tasks"] if n_duplicates else []
    parts += [f"{counted(n_others, 'further task')}"] if n_others else []
    return f"The context holds more than this table: {', '.join(parts)}" if parts else ""


def _date(task: TaskView) -> str:
    return f"{task.deadline} (deadline)" if task.dated_by == "deadline" else task.due or ""


def _theme_table(context: UserContext) -> Table:
    table = Table("theme", "tags", "tasks")
    for theme in context.themes:
        table.add_row(escape(theme.label), escape(", ".join(theme.tags)), str(theme.n_tasks))
    return table
