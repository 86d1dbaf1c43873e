"""Writes injected tips: obeys every instruction in the user's texts, the worst case of a prompt injection."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

from local.llm.answer_schema import AnswerSchema, Body, Candidate
from local.llm.context import Context, user_texts
from local.llm.faithful_author import truncated

MAX_TIPS = 20
_INSTRUCTION_VERBS = re.compile(
    r"\b(?:say|says|reply|output|print|write|answer|respond|tell|repeat|echo|sage?|schreib\w*|antworte\w*|écris"
    r"|réponds|escribe|responde)\b|:(?!//)",
    re.IGNORECASE,
)
_URL = re.compile(
    r"(?:https?|javascript|data):\S+|\bwww\.\S+|\b[\w-]+\.(?:com|net|org|io|example)\b\S*", re.IGNORECASE
)
_INJECTION_SIGNS = re.compile(
    r"\b(?:ignore|disregard|forget|override|instructions?|prompt|system|assistant|previous|must|only)\b"
    r"|\b[A-Z]{4,}\b|[<>{}\[\]]"
)
_SURROUNDING_CHARS = " \t\n\"'`“”„«»:,"

_TipParts = tuple[str, str, tuple[str, ...]]
"""Title, body, task ids."""


@dataclass(frozen=True)
class Instruction:
    """An instruction in a text.

    payload: the words that the text asks the model to write.
    url: in the text, or None.
    """

    text: str
    payload: str
    url: str | None
    task_ids: tuple[str, ...]


def injected_tips(context: Context, schema: AnswerSchema) -> list[Candidate]:
    """Each instruction's payload as plain text, as a link and as markup, then copies of all other texts.

    The schema limits their number. Kinds and task ids are valid: only the texts reveal the injection.
    """
    instructions = sorted(_instructions(context), key=_injection_score, reverse=True)
    kinds = cycle(schema.kinds or ("focus", "plan"))
    parts = [*_instruction_parts(instructions), *_copied_parts(context)] or [
        ("Nothing to obey", "No instruction was found.", ())
    ]
    # If the schema requires more tips than there are parts, the parts repeat.
    n_tips = schema.allowed_count(min(len(parts), MAX_TIPS))
    return [
        Candidate(next(kinds), truncated(title, schema.max_title_chars), _body(body, task_ids, schema), task_ids)
        for title, body, task_ids in islice(cycle(parts), n_tips)
    ]


def _body(text: str, task_ids: tuple[str, ...], schema: AnswerSchema) -> Body:
    """The text as a body; where a body may name tasks, in parts around one of them."""
    return schema.body_around(text, task_ids) if schema.names_tasks else truncated(text, schema.max_body_chars)


def _injection_score(instruction: Instruction) -> int:
    """How likely the instruction is meant for a model; notes such as "Write to Anna" score low."""
    return len(_INJECTION_SIGNS.findall(instruction.text)) + 2 * (instruction.url is not None)


def _instruction_parts(instructions: list[Instruction]) -> Iterator[_TipParts]:
    for each in instructions:
        yield each.payload, each.text, each.task_ids
    for each in instructions:
        yield each.text, each.payload, each.task_ids
    for each in instructions:
        yield each.url or each.payload, _markdown(each), each.task_ids
    for each in instructions:
        yield _html(each), each.url or each.payload, each.task_ids
        yield each.payload, _html(each), each.task_ids


def _markdown(instruction: Instruction) -> str:
    return f"[{instruction.payload}]({instruction.url})" if instruction.url else f"**{instruction.payload}**"


def _html(instruction: Instruction) -> str:
    if instruction.url:
        return f'<a href="{instruction.url}">{instruction.payload}</a>'
    return f"<b>{instruction.payload}</b>"


def _copied_parts(context: Context) -> Iterator[_TipParts]:
    for text, task_ids in user_texts(context):
        yield "One of your tasks", text, task_ids or context.task_ids[:1]


def _instructions(context: Context) -> Iterator[Instruction]:
    """One instruction per verb in a text, longest payload first; a text without a verb counts if it has a URL."""
    for text, task_ids in user_texts(context):
        url = _URL.search(text)
        payloads = [text[verb.end() :].strip(_SURROUNDING_CHARS) for verb in _INSTRUCTION_VERBS.finditer(text)]
        for payload in dict.fromkeys(payload for payload in payloads or [text if url else ""] if payload):
            yield Instruction(text, payload, url[0] if url else None, task_ids or context.task_ids[:1])
