"""Writes faithful tips: about the tasks of a context, in phrases of its own, never with the user's words."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from random import Random
from string import Formatter
from typing import Any

from local.llm.answer_schema import N_CANDIDATES, AnswerSchema, Body, Candidate, NamedTask
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
    subjects, language = _allowed_subjects(context, schema), _language(context)
    phrases = {subject: cycle(_shuffled_phrases(language, subject, rng)) for subject in dict.fromkeys(subjects)}
    taken: set[str] = set()
    return [
        _candidate(subject, _next_phrase(phrases[subject], taken), schema, _phrases()[language]["a_task"])
        for subject in islice(cycle(subjects), schema.allowed_count(N_CANDIDATES))
    ]


def truncated(text: str, max_chars: int) -> str:
    """The text, shortened to `max_chars` characters with an ellipsis if it is longer."""
    return text if len(text) <= max_chars else text[: max_chars - 1].rstrip() + "…"


def _candidate(subject: Subject, phrase: tuple[str, str], schema: AnswerSchema, a_task: str) -> Candidate:
    title, body = truncated(phrase[0], schema.max_title_chars), _body(phrase[1], subject, schema, a_task)
    only_today = bool(_DAY_WORDS.search(f"{title} {phrase[1]}"))
    return Candidate(subject.kind, title, body, subject.task_ids, subject.theme, only_today)


def _body(template: str, subject: Subject, schema: AnswerSchema, a_task: str) -> Body:
    """The body of a phrase, with the tasks of its subject in place of {task} and {other}."""
    if not schema.names_tasks:
        return truncated(template.replace("{task}", a_task).replace("{other}", a_task), schema.max_body_chars)
    tasks = dict(zip(("task", "other"), subject.task_ids, strict=False))
    parts = list[str | NamedTask]()
    for text, name, _, _ in Formatter().parse(template):
        parts += [truncated(text, schema.max_body_chars)] if text else []
        parts += [NamedTask(tasks[name])] if name else []
    return tuple(parts)


def _next_phrase(phrases: Iterator[tuple[str, str]], taken: set[str]) -> tuple[str, str]:
    """The next phrase whose title is not taken, among as many as there are at most; then it is taken."""
    phrase = next((each for each in islice(phrases, N_CANDIDATES) if each[0] not in taken), None) or next(phrases)
    taken.add(phrase[0])
    return phrase


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


def _language(context: Context) -> str:
    primary = context.language.replace("_", "-").partition("-")[0].casefold()
    return primary if primary in _phrases() else "en"


def _shuffled_phrases(language: str, subject: Subject, rng: Random) -> list[tuple[str, str]]:
    """The phrases for a subject that names no more tasks than it has."""
    of_language: Mapping[str, Any] = _phrases()[language]
    key = subject.kind if subject.n and subject.task_ids and subject.kind in of_language else "start"
    phrases = [(title, body) for title, body in of_language[key]]
    fitting = [each for each in phrases if len(subject.task_ids) > 1 or "{other}" not in each[1]]
    phrases = fitting or [(title, body) for title, body in of_language["start"]]
    rng.shuffle(phrases)
    return phrases


@cache
def _phrases() -> dict[str, dict[str, Any]]:
    return tomllib.loads((Path(__file__).parent / "phrases.toml").read_text("utf-8"))
