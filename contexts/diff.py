"""What makes a context another one than the one before it, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

from contexts.model import BUCKETS, Bucket, Counts, Profile, Reactions, TaskView, ThemeView, UserContext

Placed = tuple[Bucket, TaskView]
Said = tuple[str, str]
"""The title of a task, and what is to be said of it."""

_WORDS: Mapping[Bucket, str] = {
    "overdue": "overdue", "today": "today", "this_week": "this week", "later": "later", "someday": "no date",
}  # fmt: skip
_PLURAL = {"is": "are", "was": "were", "has": "have"}
_JOINERS = "\u200c\u200d"
_NAMED = 3
"""Where the same is to be said of more tasks, only so many are named."""


def differences(before: UserContext | None, after: UserContext) -> list[str]:
    """Sentences that say how `after` differs, the most telling first; none only where the two are equal.

    Nothing of a user's stands in them but in quotes, without a character that a terminal would obey.
    """
    if before is None:
        return [f"first context: {_n(after.counts.open, 'open task')}, {_n(len(after.themes), 'theme')}"]
    if before == after:
        return []
    labels = {theme.id: theme.label for theme in (*before.themes, *after.themes)}
    told = [
        *_profile(before.profile, after.profile),
        *_grouped(_tasks(before, after)),
        *_themes(before.themes, after.themes),
        *_reactions(before.reactions, after.reactions, labels),
        *_not_shown(before, after),
    ]
    return told or ["the same, written in another order"]


def plain(text: str) -> str:
    """A text on one line, without what a terminal would obey or not show."""
    kept = (each if each.isprintable() or each in _JOINERS else " " for each in text)
    return " ".join("".join(kept).split())


def quoted(text: str) -> str:
    """A text of the user's, safe to print."""
    return f"'{plain(text)}'"


def tasks_shown(context: UserContext) -> dict[str, Placed]:
    """The tasks that a context shows, by id, with their buckets, the most pressing first."""
    return {view.id: (bucket, view) for bucket in BUCKETS for view in context.tasks.get(bucket, ())}


def _profile(before: Profile, after: Profile) -> Iterator[str]:
    if before.timezone != after.timezone:
        yield f"the time zone is now {quoted(after.timezone)} (was {quoted(before.timezone)})"
    if before.language != after.language:
        yield f"the language is now {quoted(after.language)} (was {quoted(before.language)})"


def _tasks(before: UserContext, after: UserContext) -> Iterator[Said]:
    was, now = tasks_shown(before), tasks_shown(after)
    stood_for, stands_for = _stand_ins(was), _stand_ins(now)
    both = [(was[task_id], now[task_id]) for task_id in now if task_id in was]
    yield from ((old[1].title, said) for old, new in both for said in _moved(old, new))
    for key, (bucket, view) in now.items():
        if key not in was:
            yield view.title, _came(bucket, view, before) if key not in stood_for else "is shown by itself"
    for key, (bucket, view) in was.items():
        if key not in now:
            other = stands_for.get(key)
            yield view.title, _went(bucket, after) if other is None else f"is shown as one with {quoted(other)}"
    for (_, old), (_, new) in both:
        yield from ((new.title, said) for said in _doubles({*old.also} - now.keys(), {*new.also} - was.keys()))
    yield from ((old.title, said) for (_, old), (_, new) in both for said in _edited(old, new))


def _stand_ins(shown: Mapping[str, Placed]) -> dict[str, str]:
    """For each task that is not shown because another says the same, the title of that one."""
    return {other: view.title for _, view in shown.values() for other in view.also}


def _doubles(before: Set[str], after: Set[str]) -> Iterator[str]:
    """Of tasks that say the same as one that is shown, and were never shown themselves."""
    if more := len(after - before):
        yield f"has {_n(more, 'double')} more"
    if fewer := len(before - after):
        yield f"has {_n(fewer, 'double')} fewer"


def _grouped(said: Iterable[Said]) -> Iterator[str]:
    """Sentences, one for all tasks of which the same is to be said where they are many."""
    titles: dict[str, list[str]] = {}
    for title, what in said:
        titles.setdefault(what, []).append(quoted(title))
    for what, named in titles.items():
        if len(named) <= _NAMED:
            yield from (f"task {title} {what}" for title in named)
        else:
            verb, _, rest = what.partition(" ")
            some = f"{', '.join(named[:_NAMED])} and {len(named) - _NAMED} more"
            yield f"{len(named)} tasks ({some}) {_PLURAL.get(verb, verb)} {rest}"


def _moved(old: Placed, new: Placed) -> Iterator[str]:
    """Another bucket because days went by, another date, or both."""
    (bucket, before), (bucket_now, after) = old, new
    move = f"moved from {_WORDS[bucket]} to {_WORDS[bucket_now]}" if bucket != bucket_now else ""
    if before.due == after.due:
        if move:
            yield "became overdue" if bucket_now == "overdue" else move
    elif after.due is None:
        yield f"{move or 'has no date any more'} (was due {_day(before)})"
    else:
        was = f" (was {_day(before)}{'; recurring' if before.recurring else ''})" if before.due else ""
        yield f"{f'{move}, now' if move else 'is now'} due {_day(after)}{was}"


def _came(bucket: Bucket, view: TaskView, before: UserContext) -> str:
    """Of a task that was not shown: new for certain only where all that was open was shown."""
    when = f"due {_day(view)} ({_WORDS[bucket]})" if view.due else "without a date"
    if _n_hidden(before.counts) <= 0:
        return f"was added, {when}"
    return f"is shown now, {when}, and may have been open before"


def _went(bucket: Bucket, after: UserContext) -> str:
    """Of a task that is shown no more. The most pressing are shown: one that stood before others was not cut off."""
    if _n_hidden(after.counts) <= 0:
        return "is no longer open"
    last = max((BUCKETS.index(each) for each, views in after.tasks.items() if views), default=0)
    if BUCKETS.index(bucket) < last:
        return "is no longer open, or was put off beyond what is shown"
    return "is no longer shown, and may still be open"


def _edited(old: TaskView, new: TaskView) -> Iterator[str]:
    if old.title != new.title:
        yield f"is now called {quoted(new.title)}"
    yield from _has("priority", old.priority, new.priority)
    yield from _has("deadline", old.deadline, new.deadline)
    yield from _has("duration", _minutes(old), _minutes(new))
    if old.recurring != new.recurring:
        yield "is recurring now" if new.recurring else "is recurring no more"
    yield from _rehoused("project", old.project, new.project)
    yield from _rehoused("section", old.section, new.section)
    yield from _got_and_lost("label", old.labels, new.labels)


def _has(noun: str, old: str | None, new: str | None) -> Iterator[str]:
    if old != new and new is None:
        yield f"has no {noun} any more (had {plain(old or '')})"
    elif old != new and new is not None:
        yield f"has {noun} {plain(new)} now (had {'none' if old is None else plain(old)})"


def _rehoused(noun: str, old: str | None, new: str | None) -> Iterator[str]:
    if old == new:
        return
    if new is None:
        yield f"left {noun} {quoted(old or '')}"
    elif old is None:
        yield f"came into {noun} {quoted(new)}"
    else:
        yield f"moved from {noun} {quoted(old)} to {quoted(new)}"


def _got_and_lost(noun: str, old: Iterable[str], new: Iterable[str]) -> Iterator[str]:
    was, now = dict.fromkeys(old), dict.fromkeys(new)
    yield from (f"got {noun} {quoted(each)}" for each in now if each not in was)
    yield from (f"lost {noun} {quoted(each)}" for each in was if each not in now)


def _themes(before: Iterable[ThemeView], after: Iterable[ThemeView]) -> Iterator[str]:
    was, now = ({theme.id: theme for theme in themes} for themes in (before, after))
    for key, theme in now.items():
        if key in was:
            yield from (f"theme {quoted(was[key].label)} {said}" for said in _retold(was[key], theme))
        else:
            yield f"theme {quoted(theme.label)} appeared, with {_n(theme.n_tasks, 'task')}"
    for key, theme in was.items():
        if key not in now:
            yield f"theme {quoted(theme.label)} is gone (had {_n(theme.n_tasks, 'task')})"


def _retold(old: ThemeView, new: ThemeView) -> Iterator[str]:
    if old.label != new.label:
        yield f"is now called {quoted(new.label)}"
    if more := new.n_tasks - old.n_tasks:
        yield f"{'gained' if more > 0 else 'lost'} {_n(abs(more), 'task')}"
    elif set(old.task_ids) != set(new.task_ids):
        yield "shows other tasks, and counts as many as before"
    yield from _got_and_lost("tag", old.tags, new.tags)


def _reactions(before: Reactions, after: Reactions, labels: Mapping[str, str]) -> Iterator[str]:
    for kind, reaction, old, new in _tallies(before.by_kind, after.by_kind):
        yield _counted(f"tip kind {quoted(kind.replace('_', ' '))}", reaction, old, new)
    for theme, reaction, old, new in _tallies(before.by_theme, after.by_theme):
        label = labels.get(theme)
        subject = f"theme {quoted(label)}" if label is not None else f"a theme that is not shown ({quoted(theme)})"
        yield _counted(f"tips about {subject}", reaction, old, new)


def _tallies(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> Iterator[tuple[str, str, int, int]]:
    """What and which reaction, and how often it counted and counts now, where that changed."""
    for key in sorted({*before, *after}):
        was, now = before.get(key, {}), after.get(key, {})
        for reaction in sorted({*was, *now}):
            if was.get(reaction, 0) != now.get(reaction, 0):
                yield key, reaction, was.get(reaction, 0), now.get(reaction, 0)


def _counted(subject: str, reaction: str, old: int, new: int) -> str:
    """A reaction that came once more, or that counts less often because it was long ago."""
    if new < old:
        return f"{subject}: {plain(reaction)} counted {old}, now {new}"
    times = "once" if new - old == 1 else f"{new - old} times"
    how_often = f" {times} more" if old else "" if new == 1 else f" {times}"
    return f"{subject} {plain(reaction)}{how_often}"


def _not_shown(before: UserContext, after: UserContext) -> Iterator[str]:
    """How many open tasks there are beside those shown, where that changed, by bucket."""
    gaps = ((bucket, _n_beside(after, bucket) - _n_beside(before, bucket)) for bucket in BUCKETS)
    told = [f"{abs(gap)} {'more' if gap > 0 else 'fewer'} ({_WORDS[bucket]})" for bucket, gap in gaps if gap]
    if told:
        yield f"open tasks that are not shown: {', '.join(told)}"


def _n_beside(context: UserContext, bucket: Bucket) -> int:
    n_open: int = getattr(context.counts, bucket)
    return n_open - sum(1 + len(view.also) for view in context.tasks.get(bucket, ()))


def _n_hidden(counts: Counts) -> int:
    return counts.open - counts.shown


def _day(view: TaskView) -> str:
    return plain((view.due or "").replace("T", " "))


def _minutes(view: TaskView) -> str | None:
    return None if view.minutes is None else _n(view.minutes, "minute")


def _n(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
