"""One user's context as a person would want to read it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from contexts.model import BUCKETS, UserContext


def show_context(context: UserContext, console: Console) -> None:
    """Profile and counts, the tasks by bucket, the themes, the reactions."""
    counts = context.counts
    console.print(
        f"{context.profile.timezone}, {context.profile.language}: {counts.open} open tasks, {counts.shown} shown;"
        f" {counts.overdue} overdue, {counts.today} today, {counts.this_week} this week, {counts.later} later,"
        f" {counts.someday} without a date"
    )
    console.print(_tasks(context))
    console.print(_themes(context))
    for kind, tally in context.reactions.by_kind.items():
        console.print(f"tips of kind {escape(kind)}: {', '.join(f'{n} {name}' for name, n in tally.items())}")


def _tasks(context: UserContext) -> Table:
    theme_of = {task: theme.label for theme in context.themes for task in theme.task_ids}
    table = Table("bucket", "", "task", Column("due", no_wrap=True), "project", "theme")
    for bucket in BUCKETS:
        for task in context.tasks.get(bucket, ())[:5]:
            cells = (bucket, task.priority, task.title, task.due or "", task.project or "", theme_of.get(task.id, ""))
            table.add_row(*map(escape, cells))
    return table


def _themes(context: UserContext) -> Table:
    table = Table("theme", "tags", "tasks")
    for theme in context.themes:
        table.add_row(escape(theme.label), escape(", ".join(theme.tags)), str(theme.n_tasks))
    return table
