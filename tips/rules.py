"""Candidates written by rules: from counts, buckets and themes, without an LLM. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from contexts.assembly.model import TaskView, ThemeView, UserContext, tasks_shown
from contexts.text import counted
from tips.candidates import MAX_TASKS, QUICK_TASK_MINUTES, Tip


def rule_based_tips(context: UserContext) -> list[Tip]:
    """Candidates written by rules: at least one, at most one of each kind, without any text of the user."""
    return list(_matching_rules(context)) or [_nothing_urgent(context)]


def _matching_rules(context: UserContext) -> Iterator[Tip]:
    counts, tasks = context.counts, context.tasks
    if overdue := tasks.get("overdue"):
        yield Tip(
            kind="overdue",
            title=f"{counted(counts.overdue, 'task')} {'is' if counts.overdue == 1 else 'are'} overdue",
            body="Finish the first of them now, or give each a date that you can keep.",
            task_ids=_ids(overdue),
        )
    if task := _most_urgent(context):
        yield Tip(
            kind="focus",
            title="One task matters most now",
            body="Start with it before anything else: half an hour without interruption will show how far it goes.",
            task_ids=(task.id,),
        )
    if task := _first_quick_task(context):
        yield Tip(
            kind="quick_win",
            title="A quick win",
            body=f"This one takes {counted(task.minutes or 0, 'minute')}: do it now and it is off your mind.",
            task_ids=(task.id,),
        )
    if (undated := tasks.get("someday")) and counts.someday > 1:
        yield Tip(
            kind="plan",
            title=f"{counts.someday} tasks without a date",
            body="Choose the one that matters and give it a day; let go of one that does not.",
            task_ids=_ids(undated[:3]),
        )
    if theme := _largest_theme(context):
        yield Tip(
            kind="theme",
            title=f"{theme.n_tasks} tasks belong together",
            body="Take them in one go: what is alike is done faster in a row.",
            task_ids=theme.task_ids[:MAX_TASKS],
            theme=theme.id,
        )


def _nothing_urgent(context: UserContext) -> Tip:
    """The tip for a list without an urgent task, a quick task or a theme."""
    if not context.counts.open:
        return Tip(kind="plan", title="Your list is clear", body="Write down the next thing that comes to your mind.")
    return Tip(
        kind="plan",
        title="A step ahead",
        body="Choose one task of your list and begin it while there is time.",
        task_ids=_ids([view for _, view in tasks_shown(context).values()]),
    )


def _most_urgent(context: UserContext) -> TaskView | None:
    soon = [view for bucket in ("today", "overdue", "this_week") for view in context.tasks.get(bucket, ())]
    return min(soon, key=lambda view: view.priority, default=None)


def _first_quick_task(context: UserContext) -> TaskView | None:
    views = (view for _, view in tasks_shown(context).values())
    return next((view for view in views if view.minutes and view.minutes <= QUICK_TASK_MINUTES), None)


def _largest_theme(context: UserContext) -> ThemeView | None:
    shown = [theme for theme in context.themes if len(theme.task_ids) > 1]
    return max(shown, key=lambda theme: theme.n_tasks, default=None)


def _ids(views: Sequence[TaskView]) -> tuple[str, ...]:
    return tuple(view.id for view in views[:MAX_TASKS])
