"""One user's context, printed for people to read."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from contexts.assembly.model import Counts, Profile, Reactions, TaskView, UserContext
from local.context_view import print_context


def printed(context: UserContext) -> str:
    output = StringIO()
    print_context(context, Console(file=output, width=120))
    return output.getvalue()


def context_of(n_tasks: int, duplicates: tuple[str, ...] = ()) -> UserContext:
    """A context with tasks without a date, the first of which has duplicates."""
    tasks = [TaskView(id=f"t{n}", title=f"task {n}", also=duplicates if n == 0 else ()) for n in range(n_tasks)]
    n = n_tasks + len(duplicates)
    counts = Counts(open=n, shown=n, overdue=0, today=0, this_week=0, later=0, someday=n)
    return UserContext(
        profile=Profile(timezone="UTC", language="en"),
        counts=counts,
        tasks={"someday": tuple(tasks)},
        themes=(),
        reactions=Reactions(by_kind={}, by_theme={}),
    )


def test_left_out_tasks() -> None:
    """A line below the table has the shown tasks that have no row in it."""
    text = printed(context_of(7, duplicates=("t8",)))
    assert "task 4" in text
    assert "task 5" not in text
    assert "The context holds more than this table: 1 duplicate of listed tasks, 2 further tasks" in text


def test_whole_table() -> None:
    """A table with all tasks needs no note."""
    assert "more than this table" not in printed(context_of(5))
