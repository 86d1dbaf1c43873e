"""The differences between two contexts, as sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

from contexts.assembly.model import (
    BUCKETS,
    Bucket,
    Counts,
    DateKind,
    Profile,
    Reactions,
    TaskView,
    ThemeView,
    UserContext,
    tasks_shown,
)
from contexts.text import counted, plain, quoted

_ShownTask = tuple[Bucket, TaskView]
_TitledChange = tuple[str, str]
"""A task's title, and a phrase that begins with a verb: what changed about the task."""

_BUCKET_NAMES: Mapping[Bucket, str] = {
    "overdue": "overdue", "today": "today", "this_week": "this week", "later": "later", "someday": "no date",
}  # fmt: skip
_DATE_NAMES: Mapping[DateKind, str] = {"due": "due date", "deadline": "deadline"}
_PLURAL_VERBS = {"is": "are", "was": "were", "has": "have"}
_TOLD = "is told to the LLM now, as the user added it"
_MAX_NAMED_TASKS = 3
"""The maximum number of tasks that a sentence about several tasks names."""


def differences(before: UserContext | None, after: UserContext) -> list[str]:
    """Return sentences about the differences of `after` from `before`, the most important first.

    There are none only if the two contexts are equal. Texts of the user are in quotes, without control characters.
    """
    if before is None:
        n_tasks, n_themes = counted(after.counts.open, "open task"), counted(len(after.themes), "theme")
        return [f"first context: {n_tasks}, {n_themes}"]
    if before == after:
        return []
    labels = {theme.id: theme.label for theme in (*before.themes, *after.themes)}
    sentences = [
        *_profile_changes(before.profile, after.profile),
        *_task_sentences(_task_changes(before, after)),
        *_theme_sentences(before.themes, after.themes),
        *_reaction_sentences(before.reactions, after.reactions, labels),
        *_hidden_task_changes(before, after),
    ]
    return sentences or ["the same content in a different order"]


def _profile_changes(before: Profile, after: Profile) -> Iterator[str]:
    if before.timezone != after.timezone:
        yield f"the time zone is now {quoted(after.timezone)} (was {quoted(before.timezone)})"
    if before.language != after.language:
        yield f"the language is now {quoted(after.language)} (was {quoted(before.language)})"


def _task_changes(before: UserContext, after: UserContext) -> Iterator[_TitledChange]:
    """Yield the changes of all tasks: moves first, then new tasks, missing tasks, duplicates and edits."""
    old_tasks, new_tasks = tasks_shown(before), tasks_shown(after)
    old_duplicates, new_duplicates = _duplicates(old_tasks), _duplicates(new_tasks)
    kept = [(old_tasks[task_id], new_tasks[task_id]) for task_id in new_tasks if task_id in old_tasks]
    for old, new in kept:
        yield from ((old[1].title, change) for change in _date_changes(old, new))
    for task_id, (bucket, view) in new_tasks.items():
        if task_id not in old_tasks:
            is_duplicate = task_id in old_duplicates
            yield view.title, "is shown separately" if is_duplicate else _appearance(bucket, view, before)
    for task_id, (bucket, view) in old_tasks.items():
        if task_id not in new_tasks:
            shown = new_duplicates.get(task_id)
            absence = _absence(bucket, after) if shown is None else f"is shown as a duplicate of {quoted(shown)}"
            yield view.title, absence
    for (_, old_view), (_, new_view) in kept:
        changes = _duplicate_changes({*old_view.also} - new_tasks.keys(), {*new_view.also} - old_tasks.keys())
        yield from ((new_view.title, change) for change in changes)
    for (_, old_view), (_, new_view) in kept:
        yield from ((old_view.title, change) for change in _edits(old_view, new_view))


def _duplicates(shown: Mapping[str, _ShownTask]) -> dict[str, str]:
    """Return the ids of tasks that are hidden as duplicates, with the title of the task shown in their place."""
    return {duplicate: view.title for _, view in shown.values() for duplicate in view.also}


def _duplicate_changes(before: Set[str], after: Set[str]) -> Iterator[str]:
    """Yield the changes in a task's duplicates, as far as they are shown in neither context."""
    if n_added := len(after - before):
        yield f"has {counted(n_added, 'more duplicate')}"
    if n_removed := len(before - after):
        yield f"has {counted(n_removed, 'fewer duplicate')}"


def _task_sentences(changes: Iterable[_TitledChange]) -> Iterator[str]:
    """Yield a sentence for each change, or one for all tasks that changed in the same way if there are many."""
    titles: dict[str, list[str]] = {}
    for title, change in changes:
        titles.setdefault(change, []).append(quoted(title))
    for change, tasks in titles.items():
        if len(tasks) <= _MAX_NAMED_TASKS:
            yield from (f"task {title} {change}" for title in tasks)
        else:
            verb, _, rest = change.partition(" ")
            names = f"{', '.join(tasks[:_MAX_NAMED_TASKS])} and {len(tasks) - _MAX_NAMED_TASKS} more"
            yield f"{len(tasks)} tasks ({names}) {_PLURAL_VERBS.get(verb, verb)} {rest}"


def _date_changes(old: _ShownTask, new: _ShownTask) -> Iterator[str]:
    """Yield the change of a task's bucket, whether by the passing of days or by a different date, and of its date."""
    (old_bucket, before), (new_bucket, after) = old, new
    is_moved = old_bucket != new_bucket
    move = f"moved from {_BUCKET_NAMES[old_bucket]} to {_BUCKET_NAMES[new_bucket]}" if is_moved else ""
    if before.due == after.due:
        if move:
            yield "became overdue" if new_bucket == "overdue" else move
    elif after.due is None:
        noun = "due date" if after.deadline else "date"
        yield f"{move or f'has no {noun} now'} (was due {_due(before)})"
    else:
        was = f" (was {_due(before)}{'; recurring' if before.recurring else ''})" if before.due else ""
        yield f"{f'{move}, now' if move else 'is now'} due {_due(after)}{was}"


def _appearance(bucket: Bucket, view: TaskView, before: UserContext) -> str:
    """Describe a task that was not shown before: certainly new only if all open tasks were shown."""
    due = f"{_dated(view)} ({_BUCKET_NAMES[bucket]})" if view.due or view.deadline else "without a date"
    if _n_hidden(before.counts) <= 0:
        return f"was added, {due}"
    return f"is now shown, {due}, and may have been open before"


def _absence(bucket: Bucket, after: UserContext) -> str:
    """Describe a task that is no longer shown.

    A context shows the most urgent tasks: a task of a bucket before the last one shown was not cut off.
    """
    if _n_hidden(after.counts) <= 0:
        return "is no longer open"
    last = max((BUCKETS.index(each) for each, views in after.tasks.items() if views), default=0)
    if BUCKETS.index(bucket) < last:
        return "is no longer open, or was postponed beyond the tasks shown"
    return "is no longer shown, and may still be open"


def _edits(old: TaskView, new: TaskView) -> Iterator[str]:
    if old.title != new.title:
        yield f"is now called {quoted(new.title)}"
    yield from _value_change("priority", old.priority, new.priority)
    yield from _value_change("deadline", old.deadline, new.deadline)
    if (old.due, old.deadline) == (new.due, new.deadline) and old.dated_by != new.dated_by:
        yield f"is dated by its {_DATE_NAMES[new.dated_by]} now"
    yield from _value_change("duration", _duration(old), _duration(new))
    if old.recurring != new.recurring:
        yield "is now recurring" if new.recurring else "is no longer recurring"
    yield from _authorship_changes(old, new)
    yield from _place_change("project", old.project, new.project)
    yield from _place_change("section", old.section, new.section)
    yield from _place_change("parent task", old.parent, new.parent)
    yield from _set_changes("label", old.labels, new.labels)


def _value_change(noun: str, old: str | None, new: str | None) -> Iterator[str]:
    if old != new:
        now = f"no {noun} now" if new is None else f"{noun} {plain(new)} now"
        yield f"has {now} (was {'none' if old is None else plain(old)})"


def _authorship_changes(old: TaskView, new: TaskView) -> Iterator[str]:
    if old.by_others != new.by_others:
        yield "is no longer told to the LLM, as somebody else may have added it" if new.by_others else _TOLD
    if old.shared != new.shared:
        yield "is in a shared project now" if new.shared else "is no longer in a shared project"
    if old.parent_by_others != new.parent_by_others:
        yield f"has {'a' if new.parent_by_others else 'no'} parent task of somebody else now"


def _place_change(noun: str, old: str | None, new: str | None) -> Iterator[str]:
    if old == new:
        return
    if new is None:
        yield f"left {noun} {quoted(old or '')}"
    elif old is None:
        yield f"moved to {noun} {quoted(new)}"
    else:
        yield f"moved from {noun} {quoted(old)} to {quoted(new)}"


def _set_changes(noun: str, old: Iterable[str], new: Iterable[str]) -> Iterator[str]:
    before, after = dict.fromkeys(old), dict.fromkeys(new)
    yield from (f"gained {noun} {quoted(name)}" for name in after if name not in before)
    yield from (f"lost {noun} {quoted(name)}" for name in before if name not in after)


def _theme_sentences(before: Iterable[ThemeView], after: Iterable[ThemeView]) -> Iterator[str]:
    old_themes, new_themes = ({theme.id: theme for theme in themes} for themes in (before, after))
    for theme_id, theme in new_themes.items():
        if theme_id in old_themes:
            old = old_themes[theme_id]
            yield from (f"theme {quoted(old.label)} {change}" for change in _theme_changes(old, theme))
        else:
            yield f"theme {quoted(theme.label)} is new, with {counted(theme.n_tasks, 'task')}"
    for theme_id, theme in old_themes.items():
        if theme_id not in new_themes:
            yield f"theme {quoted(theme.label)} is gone (had {counted(theme.n_tasks, 'task')})"


def _theme_changes(old: ThemeView, new: ThemeView) -> Iterator[str]:
    if old.label != new.label:
        yield f"is now called {quoted(new.label)}"
    if n_more := new.n_tasks - old.n_tasks:
        yield f"{'gained' if n_more > 0 else 'lost'} {counted(abs(n_more), 'task')}"
    elif set(old.task_ids) != set(new.task_ids):
        yield "shows different tasks, and has as many as before"
    yield from _set_changes("tag", old.tags, new.tags)
    if old.by_others != new.by_others:
        yield f"has {'tasks' if new.by_others else 'no task'} of somebody else now"


def _reaction_sentences(before: Reactions, after: Reactions, labels: Mapping[str, str]) -> Iterator[str]:
    for kind, reaction, old, new in _count_changes(before.by_kind, after.by_kind):
        yield f"tips of kind {quoted(kind.replace('_', ' '))}: {new} {plain(reaction)} (was {old})"
    for theme, reaction, old, new in _count_changes(before.by_theme, after.by_theme):
        label = labels.get(theme)
        subject = f"theme {quoted(label)}" if label is not None else f"a theme that is not shown ({quoted(theme)})"
        yield f"tips about {subject}: {new} {plain(reaction)} (was {old})"


def _count_changes(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> Iterator[tuple[str, str, int, int]]:
    """Yield each kind or theme and reaction with a changed count, the old count and the new one.

    Counts also fall, because old reactions stop counting.
    """
    for key in sorted({*before, *after}):
        old, new = before.get(key, {}), after.get(key, {})
        for reaction in sorted({*old, *new}):
            if old.get(reaction, 0) != new.get(reaction, 0):
                yield key, reaction, old.get(reaction, 0), new.get(reaction, 0)


def _hidden_task_changes(before: UserContext, after: UserContext) -> Iterator[str]:
    """Yield a sentence about the change in the number of open tasks that are not shown, by bucket."""
    changes = ((bucket, _n_hidden_in(after, bucket) - _n_hidden_in(before, bucket)) for bucket in BUCKETS)
    phrases = [f"{abs(n)} {'more' if n > 0 else 'fewer'} ({_BUCKET_NAMES[bucket]})" for bucket, n in changes if n]
    if phrases:
        yield f"open tasks that are not shown: {', '.join(phrases)}"


def _n_hidden_in(context: UserContext, bucket: Bucket) -> int:
    n_open: int = getattr(context.counts, bucket)
    return n_open - sum(1 + len(view.also) for view in context.tasks.get(bucket, ()))


def _n_hidden(counts: Counts) -> int:
    return counts.open - counts.shown


def _due(view: TaskView) -> str:
    return plain((view.due or "").replace("T", " "))


def _dated(view: TaskView) -> str:
    return f"with deadline {plain(view.deadline or '')}" if view.dated_by == "deadline" else f"due {_due(view)}"


def _duration(view: TaskView) -> str | None:
    return None if view.minutes is None else counted(view.minutes, "minute")
