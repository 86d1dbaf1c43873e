"""Candidates for a tip: what one is, what is wrong with one, which still stand, and those made by rules. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from contexts.model import BUCKETS, Bucket, TaskView, ThemeView, UserContext
from serving.texts import length, more_than_words, visible, words

Kind = Literal["overdue", "focus", "quick_win", "plan", "theme"]
KINDS: tuple[Kind, ...] = ("overdue", "focus", "quick_win", "plan", "theme")
GENERIC = "generic"

MAX_TITLE = 80
MAX_BODY = 280
MAX_TASKS = 5
QUICK_MINUTES = 15

_QUOTED_WORDS = 4
_SENTENCE_ENDS = re.compile(r"(?<=[.!?\u2026\u061f\u0964])\s+|[\u3002\uff01\uff1f]")


def _on_one_line(text: object) -> object:
    return " ".join(text.split()) if isinstance(text, str) else text


Line = Annotated[str, BeforeValidator(_on_one_line)]
"""A text whose spaces of whatever kind are single blanks."""


class Tip(BaseModel):
    """One candidate. task_ids: of the context's tasks, which the product shows with the tip; theme: a theme's id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind | Literal["generic"]
    title: Line = Field(min_length=1, max_length=MAX_TITLE)
    body: Line = Field(min_length=1, max_length=MAX_BODY)
    task_ids: tuple[str, ...] = Field(default=(), max_length=MAX_TASKS)
    theme: str | None = None


class Spoken(Tip):
    """A tip as a model wrote it. only_today: its words speak of the day on which they were written."""

    only_today: bool = True


GENERIC_TIP = Tip(
    kind="generic",
    title="Two minutes for your list",
    body="Look through your list and choose the one thing that would make today a good day.",
)


def faults(tip: Tip, context: UserContext) -> list[str]:
    """What forbids showing a candidate that a model wrote; empty when it is good.

    A title of a task is somebody else's text: links and markup are refused, and so are words copied from the
    context, because the product shows the tasks themselves and copied words may be another's orders. Up to three of
    their words among words of its own a model may still say.
    """
    found = []
    tasks, themes = tasks_of(context), {theme.id for theme in context.themes}
    if unknown := [task_id for task_id in tip.task_ids if task_id not in tasks]:
        found.append(f"task_ids {unknown} are not in the context")
    if tip.theme is not None and tip.theme not in themes:
        found.append("theme is no id of a theme of the context")
    for name, text in (("title", tip.title), ("body", tip.body)):
        if text != visible(text):
            found.append(f"{name} holds invisible characters")
        if more_than_words(text):
            found.append(f"{name} holds a link, an address, a number to call or markup; plain words only")
        if not words(text):
            found.append(f"{name} holds no word")
        elif quotes(text, context):
            found.append(f"{name} copies words of the context; say it in your own words")
    return found


def quotes(text: str, context: UserContext) -> bool:
    """Whether a text copies one of the context: four words of it in a row, the whole of one of three words; or
    whether the text, or a sentence of it of two words, stands there as it is, so that it says nothing of its own.
    """
    told, runs = _told(tuple(_texts(context)))
    said = _spaced(words(text))
    own = [said, *(_spaced(each) for part in _SENTENCE_ENDS.split(text) if len(each := words(part)) > 1)]
    return any(run in said for run in runs) or any(each in told for each in own)


def tasks_of(context: UserContext) -> dict[str, tuple[Bucket, TaskView]]:
    """The tasks that the context shows, by id, with their buckets, the most pressing first."""
    return {view.id: (bucket, view) for bucket in BUCKETS for view in context.tasks.get(bucket, ())}


def basis(tip: Tip, context: UserContext, day: date | None = None) -> str:
    """A hash of what a tip speaks about: its tasks as the context shows them, its theme's name, the day if it does;
    of one about no task and no theme, how many tasks there are.

    Empty when something of it is not in the context: then the tip does not stand.
    """
    tasks = tasks_of(context)
    labels = {theme.id: theme.label for theme in context.themes}
    if any(task_id not in tasks for task_id in tip.task_ids) or (tip.theme is not None and tip.theme not in labels):
        return ""
    shown = [tasks[task_id] for task_id in tip.task_ids]
    about = [[bucket, view.model_dump(mode="json", exclude={"also"})] for bucket, view in shown]
    whole = None if tip.task_ids or tip.theme else context.counts.model_dump(mode="json")
    told = json.dumps([about, labels.get(tip.theme or ""), str(day) if day else None, whole], sort_keys=True)
    return sha256(told.encode()).hexdigest()[:32]


def standing(tips: Iterable[Tip], bases: Iterable[str], context: UserContext, today: date) -> list[tuple[Tip, str]]:
    """Those of the candidates that speak of what is still so, and of no other day than today, with their bases."""
    return [
        (tip, was)
        for tip, was in zip(tips, bases, strict=True)
        if was and was in (basis(tip, context), basis(tip, context, today))
    ]


def by_rules(context: UserContext) -> list[Tip]:
    """Candidates without a model: at least one, at most one of each kind, in no text of the user's."""
    return list(_made_by_rules(context)) or [_where_nothing_presses(context)]


def _made_by_rules(context: UserContext) -> Iterator[Tip]:
    counts, tasks = context.counts, context.tasks
    if late := tasks.get("overdue"):
        yield Tip(
            kind="overdue",
            title=f"{_n(counts.overdue, 'task')} {'is' if counts.overdue == 1 else 'are'} overdue",
            body="Finish the first of them now, or give each a date that you can keep.",
            task_ids=_ids(late),
        )
    if first := _most_urgent(context):
        yield Tip(
            kind="focus",
            title="One task matters most now",
            body="Start with it before anything else: half an hour without interruption will show how far it goes.",
            task_ids=(first.id,),
        )
    if quick := [view for _, view in tasks_of(context).values() if view.minutes and view.minutes <= QUICK_MINUTES]:
        yield Tip(
            kind="quick_win",
            title="A quick win",
            body=f"This one takes {_n(quick[0].minutes or 0, 'minute')}: do it now and it is off your mind.",
            task_ids=(quick[0].id,),
        )
    if (undated := tasks.get("someday")) and counts.someday > 1:
        yield Tip(
            kind="plan",
            title=f"{counts.someday} tasks without a date",
            body="Choose the one that matters and give it a day; let go of one that does not.",
            task_ids=_ids(undated[:3]),
        )
    if group := _largest_theme(context):
        yield Tip(
            kind="theme",
            title=f"{group.n_tasks} tasks belong together",
            body="Take them in one go: what is alike is done faster in a row.",
            task_ids=group.task_ids[:MAX_TASKS],
            theme=group.id,
        )


def _where_nothing_presses(context: UserContext) -> Tip:
    """For a list on which nothing is soon, nothing quick, and nothing like something else."""
    if not context.counts.open:
        return Tip(kind="plan", title="Your list is clear", body="Write down the next thing that comes to your mind.")
    return Tip(
        kind="plan",
        title="A step ahead",
        body="Choose one task of your list and begin it while there is time.",
        task_ids=_ids([view for _, view in tasks_of(context).values()]),
    )


def _most_urgent(context: UserContext) -> TaskView | None:
    soon = [view for bucket in ("today", "overdue", "this_week") for view in context.tasks.get(bucket, ())]
    return min(soon, key=lambda view: view.priority, default=None)


def _largest_theme(context: UserContext) -> ThemeView | None:
    shown = [theme for theme in context.themes if len(theme.task_ids) > 1]
    return max(shown, key=lambda theme: theme.n_tasks, default=None)


def _ids(views: Sequence[TaskView]) -> tuple[str, ...]:
    return tuple(view.id for view in views[:MAX_TASKS])


def _n(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _texts(context: UserContext) -> Iterator[str]:
    """Every text of the context that somebody else may have written."""
    for _, view in tasks_of(context).values():
        yield view.title
        yield from (name for name in (view.project, view.section, *view.labels) if name)
    for theme in context.themes:
        yield from (theme.label, *theme.tags)
    yield from sorted({*context.reactions.by_kind, *context.reactions.by_theme}.difference(KINDS, (GENERIC,)))


@lru_cache(maxsize=8)
def _told(texts: tuple[str, ...]) -> tuple[str, frozenset[str]]:
    """The words of all texts, and the runs of them that are a copy; kept for the other candidates of an answer."""
    spoken = [words(text) for text in texts]
    return "|".join(map(_spaced, spoken)), frozenset(run for each in spoken for run in _runs(each))


def _spaced(words: Sequence[str]) -> str:
    return f" {' '.join(words)} "


def _runs(words: Sequence[str]) -> Iterator[str]:
    """The runs of four words; the whole where there are but three. Two words alone meet by chance."""
    sizes = [length(word) for word in words]
    wanted = min(_QUOTED_WORDS, sum(sizes))
    start, size = 0, 0.0
    for end, each in enumerate(sizes, 1):
        size += each
        while size - sizes[start] >= wanted:
            start, size = start + 1, size - sizes[start]
        if size >= wanted >= _QUOTED_WORDS - 1:
            yield _spaced(words[start:end])
