"""The answer of an LLM: its JSON schema for one context, and the candidates in it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contexts.assembly.model import UserContext
from tips.candidates import (
    KINDS,
    MAX_TASKS,
    GeneratedTip,
    Kind,
    Segment,
    TaskReference,
    with_named_tasks,
)
from tips.languages import UNSPACED, primary_language
from tips.references import References, references_of
from tips.violations import violations

N_CANDIDATES = 5

_ASKED_TITLE_CHARS = 60
_ASKED_TEXT_CHARS = 110
_ASKED_SEGMENTS = 5
"""Limits of an answer, below those of a candidate, so that an answer at its limits is still a candidate."""

_MAX_CANDIDATES = 2 * N_CANDIDATES
"""The maximum number of candidates of one answer that are read."""

_QUOTES = tuple("\"'\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a\u300c\u300d")
_BEFORE_A_BLANK = frozenset(",;:.!?\u060c\u061b\u061f")
_TATWEEL = "\u0640"
"""The letter that joins an Arabic prefix to the word after it."""


def answer_schema(context: UserContext, *, is_fixed: bool = False) -> dict[str, Any]:
    """The JSON schema of an answer about a context: lengths, numbers, and the short names of its tasks and themes.

    Contexts with as many tasks and themes have the same schema, so that a provider compiles and caches few of them.

    is_fixed: whether each body is a text, a task and a text: not every provider can enforce an order, but a small
    model names no task unless it must.
    """
    references = references_of(context)
    candidate = {
        "kind": {"type": "string", "enum": list(KINDS)},
        "title": {"type": "string", "minLength": 1, "maxLength": _ASKED_TITLE_CHARS},
        "body": {
            "type": "array",
            "description": "the sentences in parts: texts, and tasks by reference",
            **_parts_schema(references, is_fixed=is_fixed),
        },
        "tasks": _tasks_schema(references),
        "theme": _theme_schema(references),
        "only_today": {"type": "boolean", "description": "whether its words hold on this day only"},
    }
    candidates = {"type": "array", "items": _object(candidate), "minItems": N_CANDIDATES, "maxItems": N_CANDIDATES}
    return _object({"candidates": candidates})


def read_answer(answer: object, context: UserContext) -> tuple[list[GeneratedTip], list[str]]:
    """The good candidates of an answer, and complaints about the others.

    Each candidate is read by itself, so that a bad one costs none of the others.
    """
    candidates = answer.get("candidates") if isinstance(answer, Mapping) else None
    if not isinstance(candidates, Sequence) or isinstance(candidates, str) or not candidates:
        return [], ["the answer has no candidates"]
    good, complaints, references = list[GeneratedTip](), list[str](), references_of(context)
    for number, candidate in enumerate(candidates[:_MAX_CANDIDATES], 1):
        try:
            tip = _tip(_Candidate.model_validate(candidate), references, context.profile.language)
        except ValidationError as error:
            complaints.append(f"candidate {number}: {_mistakes(error)}")
            continue
        except UnknownReference as error:
            complaints.append(f"candidate {number}: {error}")
            continue
        broken_rules = violations(tip, context)
        complaints += [f"candidate {number}: {rule}" for rule in broken_rules]
        if not broken_rules:
            good.append(tip)
    return good, complaints


class UnknownReference(Exception):
    """A candidate names a task or theme that its context does not have; the message says which."""


class _Choice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    task: str


class _Candidate(BaseModel):
    kind: Kind
    title: str
    body: list[str | _Choice] | str
    tasks: list[str] = Field(default_factory=list)
    theme: str | None = None
    only_today: bool = True


def _tip(candidate: _Candidate, references: References, language: str) -> GeneratedTip:
    """The tip of a candidate, with ids in place of short names; raises UnknownReference or ValidationError."""
    parts = [candidate.body] if isinstance(candidate.body, str) else candidate.body
    names = [*(each.task for each in parts if isinstance(each, _Choice)), *candidate.tasks]
    if unknown := [name for name in names if name not in references.tasks]:
        raise UnknownReference(f"tasks {unknown} are not in the context")
    if candidate.theme is not None and candidate.theme not in references.themes:
        raise UnknownReference("theme is no id of a theme of the context")
    segments = [each if isinstance(each, str) else TaskReference(task=references.tasks[each.task]) for each in parts]
    body = _with_blanks(_without_quotes(segments), primary_language(language))
    return GeneratedTip(
        kind=candidate.kind,
        title=candidate.title,
        body=body,
        task_ids=with_named_tasks(body, [references.tasks[name] for name in candidate.tasks]),
        theme=None if candidate.theme is None else references.themes[candidate.theme],
        only_today=candidate.only_today,
    )


def _without_quotes(segments: Sequence[Segment]) -> list[Segment]:
    """The segments without a pair of quotation marks around a task, which gets its own."""
    plain = list(segments)
    for at in range(1, len(plain) - 1):
        before, after = plain[at - 1], plain[at + 1]
        if isinstance(before, TaskReference) or isinstance(after, TaskReference) or not _is_task(plain, at):
            continue
        if before.rstrip()[-1:] in _QUOTES and after.lstrip()[:1] in _QUOTES:
            plain[at - 1], plain[at + 1] = before.rstrip()[:-1], after.lstrip()[1:]
    return plain


def _is_task(segments: Sequence[Segment], at: int) -> bool:
    return 0 <= at < len(segments) and isinstance(segments[at], TaskReference)


def _with_blanks(segments: Sequence[Segment], language: str) -> tuple[Segment, ...]:
    """The segments with a blank between a task or text and the word beside it, in languages that have blanks."""
    if language in UNSPACED:
        return tuple(segments)
    return tuple(_spaced(segments))


def _spaced(segments: Sequence[Segment]) -> Iterator[Segment]:
    for at, segment in enumerate(segments):
        if isinstance(segment, TaskReference):
            if _is_task(segments, at - 1):
                yield " "
            yield segment
            continue
        before = segments[at - 1] if at else " "
        is_after_word = isinstance(before, TaskReference) or _needs_blank_after(before[-1:])
        if is_after_word and segment[:1].isalnum():
            segment = f" {segment}"
        if _is_task(segments, at + 1) and _needs_blank_after(segment[-1:]):
            segment = f"{segment} "
        yield segment


def _needs_blank_after(character: str) -> bool:
    return (character.isalnum() and character != _TATWEEL) or character in _BEFORE_A_BLANK


def _mistakes(error: ValidationError) -> str:
    """The fields that are wrong, and why: "title: String should have at most 80 characters"."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    fields = {str(detail["loc"][0]) if detail["loc"] else "candidate": detail["msg"] for detail in details}
    return ", ".join(f"{name}: {message}" for name, message in fields.items())


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object with these properties, all required, and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _parts_schema(references: References, *, is_fixed: bool) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1, "maxLength": _ASKED_TEXT_CHARS}
    if not references.tasks:
        return {"items": text, "minItems": 1, "maxItems": _ASKED_SEGMENTS}
    task = _object({"task": {"type": "string", "enum": list(references.tasks)}})
    if is_fixed:
        return {"prefixItems": [text, task, text], "minItems": 3, "maxItems": 3}
    return {"items": {"anyOf": [text, task]}, "minItems": 1, "maxItems": _ASKED_SEGMENTS}


def _tasks_schema(references: References) -> dict[str, Any]:
    description = "further tasks to show under the tip"
    if not references.tasks:
        return {"type": "array", "description": description, "items": {"type": "string"}, "maxItems": 0}
    items = {"type": "string", "enum": list(references.tasks)}
    return {"type": "array", "description": description, "items": items, "maxItems": MAX_TASKS}


def _theme_schema(references: References) -> dict[str, Any]:
    if not references.themes:
        return {"type": "null"}
    return {"anyOf": [{"type": "string", "enum": list(references.themes)}, {"type": "null"}]}
