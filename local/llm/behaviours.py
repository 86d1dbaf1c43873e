"""The behaviours of the stand-in for an LLM, and the text that it writes for each."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from random import Random
from typing import Any

from local.llm.answer_schema import AnswerSchema, Candidate, NamedTask, read_answer_schema
from local.llm.context import Context, context_in
from local.llm.faithful_author import faithful_tips, truncated
from local.llm.injected_author import injected_tips
from local.llm.request import CompletionRequest

AnswerFunction = Callable[[Mapping[str, Any]], Mapping[str, Any] | str]
"""Maps the body of a request to the answer: an object that is sent as JSON, or the text itself."""

GARBAGE = 'Sure! Here are some tips for you:\n\n{"candidates": [{"kind": "focus", "title": "Beg'
REFUSAL = "I'm sorry, but I can't help with that."
LINKS = (
    "[Read more](https://evil.example/tips)",
    '<a href="https://evil.example/now">Begin now</a>',
    "https://evil.example/start",
    "**Now!** <script>alert(1)</script>",
    "www.evil.example",
)


class Behaviour(StrEnum):
    """The way a call is answered."""

    GOOD = "good"
    """Valid tips about the context in the prompt."""
    SLOW = "slow"
    """Valid tips after a delay."""
    WRONG_IDS = "wrong_ids"
    """Valid tips, but with ids of tasks that are not in the context."""
    LINKS = "links"
    """Valid tips, but with links and markup in the bodies."""
    INJECTED = "injected"
    """Tips that follow the instructions in the user's texts."""
    EMPTY = "empty"
    """An empty list of candidates."""
    GARBAGE = "garbage"
    """Invalid JSON."""
    REFUSING = "refusing"
    """A refusal in the model's words."""
    FILTERED = "filtered"
    """An answer that was emptied by a content filter."""
    RATE_LIMITED = "rate_limited"
    """429 with Retry-After."""
    SERVER_ERROR = "server_error"
    """500."""
    DISCONNECT = "disconnect"
    """The connection is closed without an answer."""
    HANG = "hang"
    """No answer until the client gives up."""


def answer_text(behaviour: Behaviour | AnswerFunction, request: CompletionRequest, seed: int) -> str:
    """The text of the answer; the same for the same context and seed."""
    if not isinstance(behaviour, Behaviour):
        answer = behaviour(request.body)
        return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    if behaviour is Behaviour.GARBAGE:
        return GARBAGE
    schema = read_answer_schema(request.schema)
    candidates = _candidates(behaviour, context_in(request.prompt), schema, seed)
    return json.dumps(schema.answer_with(candidates), ensure_ascii=False)


def _candidates(behaviour: Behaviour, context: Context, schema: AnswerSchema, seed: int) -> Sequence[Candidate]:
    rng = Random(f"{seed}/{context}")
    match behaviour:
        case Behaviour.EMPTY:
            return []
        case Behaviour.INJECTED:
            return injected_tips(context, schema)
        case Behaviour.WRONG_IDS:
            return [_with_wrong_ids(candidate, rng) for candidate in faithful_tips(context, schema, rng)]
        case Behaviour.LINKS:
            tips = faithful_tips(context, schema, rng)
            return [_with_link(tip, LINKS[n % len(LINKS)], schema.max_body_chars) for n, tip in enumerate(tips)]
        case _:
            return faithful_tips(context, schema, rng)


def _with_wrong_ids(candidate: Candidate, rng: Random) -> Candidate:
    """The candidate with all task ids replaced, also in its body, and one added if it has none."""
    wrong = {task_id: f"6{rng.getrandbits(60):015x}" for task_id in candidate.task_ids or ("",)}
    body = candidate.body
    if not isinstance(body, str):
        body = tuple(NamedTask(wrong[part.task]) if isinstance(part, NamedTask) else part for part in body)
    return replace(candidate, body=body, task_ids=tuple(wrong.values()))


def _with_link(candidate: Candidate, link: str, max_chars: int) -> Candidate:
    *parts, last = (candidate.body,) if isinstance(candidate.body, str) else candidate.body
    if isinstance(last, NamedTask):
        parts, last = [*parts, last], ""
    text = f"{truncated(last, max_chars - len(link) - 1)} {link}"
    return replace(candidate, body=(*parts, text) if parts else text)
