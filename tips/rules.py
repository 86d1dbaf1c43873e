"""Candidates written by rules: from counts, buckets and themes, in the user's language, without an LLM. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from string import Formatter

from contexts.assembly.model import TaskView, ThemeView, UserContext, tasks_shown
from tips.candidates import MAX_TASKS, QUICK_TASK_MINUTES, Kind, Segment, TaskReference, Tip, with_named_tasks
from tips.languages import translations

_MAX_SITTING_MINUTES = 60
"""A longer task is begun, not finished, in one go."""


def rule_based_tips(context: UserContext) -> list[Tip]:
    """Candidates written by rules: at least one, and at most one of each kind; each names its tasks, if it has any.

    The texts come from the catalog of the user's language, and contain no title of a task.
    """
    return list(_matching_rules(context)) or [_nothing_urgent(context)]


def _matching_rules(context: UserContext) -> Iterator[Tip]:
    rules = (_about_overdue, _about_most_urgent, _about_quick_task, _about_undated, _about_theme)
    yield from (tip for rule in rules if (tip := rule(context)))


def _about_overdue(context: UserContext) -> Tip | None:
    overdue, n, say = context.tasks.get("overdue", ()), context.counts.overdue, translations(context.profile.language)
    if not overdue:
        return None
    title = say.ngettext("{n} task is overdue", "{n} tasks are overdue", n)
    body = say.gettext("Start with {task}: do it now, or move it to a day that suits it better.")
    return _tip("overdue", title, body, overdue, n=n, task=_first_own(overdue))


def _about_most_urgent(context: UserContext) -> Tip | None:
    task = _most_urgent(context)
    if task is None:
        return None
    say, title = translations(context.profile.language), "Time well spent"
    title = say.gettext("Most important today") if task in context.tasks.get("today", ()) else say.gettext(title)
    if not task.minutes or task.minutes > _MAX_SITTING_MINUTES:
        body = say.gettext("Give {task} the next half hour, without interruptions: a start is enough.")
        return _tip("focus", title, body, [task], task=task)
    body = say.ngettext(
        "Take {n} minute for {task} now, before anything else comes up.",
        "Take {n} minutes for {task} now, before anything else comes up.",
        task.minutes,
    )
    return _tip("focus", title, body, [task], n=task.minutes, task=task)


def _about_quick_task(context: UserContext) -> Tip | None:
    views = (view for _, view in tasks_shown(context).values())
    task = next((view for view in views if view.minutes and view.minutes <= QUICK_TASK_MINUTES), None)
    if task is None or task.minutes is None:
        return None
    say = translations(context.profile.language)
    title = say.ngettext("A quick win: {n} minute", "A quick win: {n} minutes", task.minutes)
    body = say.gettext("{task} will not take longer than that. Do it now and cross it off.")
    return _tip("quick_win", title, body, [task], n=task.minutes, task=task)


def _about_undated(context: UserContext) -> Tip | None:
    undated, n, say = context.tasks.get("someday", ()), context.counts.someday, translations(context.profile.language)
    if not undated or n < 2:
        return None
    title = say.ngettext("{n} task without a date", "{n} tasks without a date", n)
    body = say.gettext("Give {task} a day this week, or drop it if it no longer matters.")
    return _tip("plan", title, body, undated[:3], n=n, task=_first_own(undated[:3]))


def _about_theme(context: UserContext) -> Tip | None:
    theme = _largest_theme(context)
    if theme is None:
        return None
    shown, say = tasks_shown(context), translations(context.profile.language)
    title = say.ngettext("{n} task goes with others", "{n} tasks belong together", theme.n_tasks)
    body = say.gettext("Do {first} and {second} one right after the other: similar tasks go faster together.")
    views = sorted((shown[task_id][1] for task_id in theme.task_ids), key=lambda view: view.by_others)
    return _tip("theme", title, body, views, theme=theme.id, n=theme.n_tasks, first=views[0], second=views[1])


def _nothing_urgent(context: UserContext) -> Tip:
    """The tip for a list without an urgent task, a quick task or a theme."""
    say, views = translations(context.profile.language), [view for _, view in tasks_shown(context).values()]
    if not context.counts.open or not views:
        title, body = say.gettext("Your list is clear"), "Write down the next thing that you want to get done."
        return _tip("plan", title, say.gettext(body), [])
    title, body = say.gettext("A step ahead"), "Nothing is pressing right now, so make a start on {task}."
    return _tip("plan", title, say.gettext(body), views, task=views[0])


def _tip(
    kind: Kind, title: str, body: str, views: Sequence[TaskView], theme: str | None = None, **values: int | TaskView
) -> Tip:
    """A tip about tasks, from a title and a body with placeholders for `values`."""
    segments = _filled(body, values)
    return Tip(
        kind=kind,
        title="".join(each for each in _filled(title, values) if isinstance(each, str)),
        body=segments,
        task_ids=with_named_tasks(segments, [view.id for view in views[:MAX_TASKS]]),
        theme=theme,
    )


def _filled(template: str, values: Mapping[str, int | TaskView]) -> tuple[Segment, ...]:
    """The segments of a template whose placeholders are numbers or tasks; only the template is read for these."""
    segments: list[Segment] = []
    for text, name, _, _ in Formatter().parse(template):
        segments.append(text)
        if name is not None:
            value = values[name]
            segments.append(TaskReference(task=value.id) if isinstance(value, TaskView) else str(value))
    return tuple(segments)


def _most_urgent(context: UserContext) -> TaskView | None:
    """The most urgent task of the week or earlier, if possible not the one of the tip about overdue tasks."""
    overdue = context.tasks.get("overdue", ())
    soon = [*context.tasks.get("today", ()), *overdue, *context.tasks.get("this_week", ())]
    others = [view for view in soon if not overdue or view is not _first_own(overdue)]
    return min(others or soon, key=lambda view: view.priority, default=None)


def _first_own(views: Sequence[TaskView]) -> TaskView:
    """The first task, or one of the same priority whose title the user wrote, so that every text can name it."""
    own = (view for view in views if not view.by_others and view.priority == views[0].priority)
    return next(own, views[0])


def _largest_theme(context: UserContext) -> ThemeView | None:
    shown = [theme for theme in context.themes if len(theme.task_ids) > 1]
    return max(shown, key=lambda theme: theme.n_tasks, default=None)
