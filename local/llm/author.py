"""An honest author of tips: counts what is in a context and says it in its own words, never in the user's."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from local.llm.context import Context
from local.llm.form import N_CANDIDATES, Candidate, Form

_OF_A_DAY = re.compile(r"\b(?:today|tonight|tomorrow)\b", re.IGNORECASE)

_ALWAYS = ("focus", "quick_win", "plan")
"""Kinds of tip that make sense even to someone who has no tasks."""


@dataclass(frozen=True)
class Subject:
    """What a tip can be about: `n` tasks, some of them named."""

    kind: str
    n: int = 0
    task_ids: tuple[str, ...] = ()
    theme: str | None = None


def honest(context: Context, form: Form, rng: Random) -> list[Candidate]:
    """Tips that fit both: the same for the same context, form and seed."""
    subjects = _allowed(context, form)
    phrases = {voice: cycle(_shuffled(voice, rng)) for voice in _phrases()}
    chosen = islice(cycle(subjects), form.count(N_CANDIDATES))
    return [_candidate(subject, next(phrases[_voice(subject)]), form) for subject in chosen]


def _candidate(subject: Subject, phrase: tuple[str, str], form: Form) -> Candidate:
    words = _phrases()[_voice(subject)]
    what = words["one"] if subject.n == 1 else words["many"]
    title, body = (text.format(what=what, What=what[:1].upper() + what[1:]) for text in phrase)
    title, body = cut(title, form.title), cut(body, form.body)
    only_today = bool(_OF_A_DAY.search(f"{title} {body}"))
    return Candidate(subject.kind, title, body, subject.task_ids, subject.theme, only_today)


def _allowed(context: Context, form: Form) -> Sequence[Subject]:
    """The subjects of the context whose kind is allowed; without any, the kinds themselves."""
    found = [each for each in _subjects(context) if not form.kinds or each.kind in form.kinds]
    kinds = [kind for kind in _ALWAYS if kind in form.kinds] or form.kinds or _ALWAYS
    return found or [Subject(kind, task_ids=context.task_ids[:1]) for kind in kinds]


def _subjects(context: Context) -> Iterator[Subject]:
    counts, tasks = context.counts, context.tasks
    if overdue := tasks.get("overdue"):
        yield Subject("overdue", counts.get("overdue", len(overdue)), _ids(overdue, 3))
    if pressing := sorted(context.shown, key=_urgency)[: max(1, min(3, len(tasks.get("today", ()))))]:
        yield Subject("focus", len(pressing), _ids(pressing, 3))
    if small := sorted(context.shown, key=_effort)[: 1 + len(context.shown) // 10]:
        yield Subject("quick_win", len(small), _ids(small, 3))
    if ahead := [task for bucket in ("this_week", "later", "someday") for task in tasks.get(bucket, ())]:
        yield Subject("plan", len(ahead), _ids(ahead, 5))
    for theme in [theme for theme in context.themes if theme.get("task_ids")][:3]:
        yield Subject("theme", theme.get("n_tasks", 0), tuple(theme["task_ids"][:5]), theme["id"])


def _ids(tasks: Sequence[dict[str, Any]], at_most: int) -> tuple[str, ...]:
    return tuple(task["id"] for task in tasks[:at_most])


def _urgency(task: dict[str, Any]) -> str:
    return str(task.get("priority", "p4"))


def _effort(task: dict[str, Any]) -> tuple[int, int, str]:
    return task.get("minutes", 30), len(task.get("title", "")), task["id"]


def _voice(subject: Subject) -> str:
    return subject.kind if subject.n and subject.kind in _phrases() else "start"


def _shuffled(voice: str, rng: Random) -> list[tuple[str, str]]:
    phrases = [(title, body) for title, body in _phrases()[voice]["phrases"]]
    rng.shuffle(phrases)
    return phrases


@cache
def _phrases() -> dict[str, dict[str, Any]]:
    return tomllib.loads((Path(__file__).parent / "phrases.toml").read_text())


def cut(text: str, length: int) -> str:
    """`text` in at most `length` characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
