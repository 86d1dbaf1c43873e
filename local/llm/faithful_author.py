"""Writes faithful tips: about the tasks of a context, in phrases of its own, never with the user's words."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from local.llm.answer_schema import N_CANDIDATES, AnswerSchema, Candidate
from local.llm.context import Context

_DAY_WORDS = re.compile(r"\b(?:today|tonight|tomorrow)\b", re.IGNORECASE)

_GENERAL_KINDS = ("focus", "quick_win", "plan")
"""Kinds of tips that suit users without tasks."""


@dataclass(frozen=True)
class Subject:
    """A possible subject of a tip: `n` tasks, with the ids of some of them."""

    kind: str
    n: int = 0
    task_ids: tuple[str, ...] = ()
    theme: str | None = None


def faithful_tips(context: Context, schema: AnswerSchema, rng: Random) -> list[Candidate]:
    """Valid tips about a context; the same for the same context, schema and seed."""
    subjects = _allowed_subjects(context, schema)
    phrases = {key: cycle(_shuffled_phrases(key, rng)) for key in _phrases()}
    chosen = islice(cycle(subjects), schema.allowed_count(N_CANDIDATES))
    return [_candidate(subject, next(phrases[_phrases_key(subject)]), schema) for subject in chosen]


def truncated(text: str, max_chars: int) -> str:
    """The text, shortened to `max_chars` characters with an ellipsis if it is longer."""
    return text if len(text) <= max_chars else text[: max_chars - 1].rstrip() + "…"


def _candidate(subject: Subject, phrase: tuple[str, str], schema: AnswerSchema) -> Candidate:
    words = _phrases()[_phrases_key(subject)]
    what = words["one"] if subject.n == 1 else words["many"]
    title, body = (text.format(what=what, What=what[:1].upper() + what[1:]) for text in phrase)
    title, body = truncated(title, schema.max_title_chars), truncated(body, schema.max_body_chars)
    only_today = bool(_DAY_WORDS.search(f"{title} {body}"))
    return Candidate(subject.kind, title, body, subject.task_ids, subject.theme, only_today)


def _allowed_subjects(context: Context, schema: AnswerSchema) -> Sequence[Subject]:
    """The subjects of the context with an allowed kind; if there are none, general subjects of allowed kinds."""
    subjects = [subject for subject in _subjects(context) if not schema.kinds or subject.kind in schema.kinds]
    kinds = [kind for kind in _GENERAL_KINDS if kind in schema.kinds] or schema.kinds or _GENERAL_KINDS
    return subjects or [Subject(kind, task_ids=context.task_ids[:1]) for kind in kinds]


def _subjects(context: Context) -> Iterator[Subject]:
    counts, tasks, shown = context.counts, context.tasks, context.shown_tasks
    if overdue := tasks.get("overdue"):
        yield Subject("overdue", counts.get("overdue", len(overdue)), _ids(overdue, 3))
    if urgent := sorted(shown, key=_priority)[: max(1, min(3, len(tasks.get("today", ()))))]:
        yield Subject("focus", len(urgent), _ids(urgent, 3))
    if small := sorted(shown, key=_effort)[: 1 + len(shown) // 10]:
        yield Subject("quick_win", len(small), _ids(small, 3))
    if ahead := [task for bucket in ("this_week", "later", "someday") for task in tasks.get(bucket, ())]:
        yield Subject("plan", len(ahead), _ids(ahead, 5))
    for theme in [theme for theme in context.themes if theme.get("task_ids")][:3]:
        yield Subject("theme", theme.get("n_tasks", 0), tuple(theme["task_ids"][:5]), theme["id"])


def _ids(tasks: Sequence[dict[str, Any]], max_tasks: int) -> tuple[str, ...]:
    return tuple(task["id"] for task in tasks[:max_tasks])


def _priority(task: dict[str, Any]) -> str:
    return str(task.get("priority", "p4"))


def _effort(task: dict[str, Any]) -> tuple[int, int, str]:
    return task.get("minutes", 30), len(task.get("title", "")), task["id"]


def _phrases_key(subject: Subject) -> str:
    return subject.kind if subject.n and subject.kind in _phrases() else "start"


def _shuffled_phrases(key: str, rng: Random) -> list[tuple[str, str]]:
    phrases = [(title, body) for title, body in _phrases()[key]["phrases"]]
    rng.shuffle(phrases)
    return phrases


@cache
def _phrases() -> dict[str, dict[str, Any]]:
    return tomllib.loads((Path(__file__).parent / "phrases.toml").read_text())
