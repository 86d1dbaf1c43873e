"""The ways in which the stand-in for an LLM answers, and what it writes in each."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from random import Random
from typing import Any

from local.llm.asked import Asked
from local.llm.author import cut, honest
from local.llm.context import Context, context_in
from local.llm.form import Candidate, Form, form_of
from local.llm.servant import obedient

Saying = Callable[[Mapping[str, Any]], Mapping[str, Any] | str]
"""From a request to what is answered: an object, written as JSON, or a text that stands as it is."""

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
    """How a call is answered; what goes wrong on the wire is at the end."""

    GOOD = "good"
    """Honest tips on the context in the prompt."""
    SLOW = "slow"
    """Honest tips, late."""
    WRONG_IDS = "wrong_ids"
    """Honest tips with ids of tasks that the context does not show."""
    LINKS = "links"
    """Honest tips with links and markup in the bodies."""
    OBEDIENT = "obedient"
    """Whatever the user's texts order."""
    EMPTY = "empty"
    """No candidate at all."""
    GARBAGE = "garbage"
    """No JSON."""
    REFUSING = "refusing"
    """A refusal in the model's words."""
    FILTERED = "filtered"
    """Nothing: a content filter took the answer."""
    RATE_LIMITED = "rate_limited"
    """429 with Retry-After."""
    SERVER_ERROR = "server_error"
    """500."""
    CUT = "cut"
    """The connection closes without an answer."""
    HANG = "hang"
    """No answer for as long as the client waits."""


def written(behaviour: Behaviour | Saying, asked: Asked, seed: int) -> str:
    """What stands in the answer; of the same context with the same seed always the same."""
    if not isinstance(behaviour, Behaviour):
        said = behaviour(asked.body)
        return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    if behaviour is Behaviour.GARBAGE:
        return GARBAGE
    form = form_of(asked.schema)
    candidates = _candidates(behaviour, context_in(asked.prompt), form, seed)
    return json.dumps(form.filled(candidates), ensure_ascii=False)


def _candidates(behaviour: Behaviour, context: Context, form: Form, seed: int) -> Sequence[Candidate]:
    rng = Random(f"{seed}/{context}")
    match behaviour:
        case Behaviour.EMPTY:
            return []
        case Behaviour.OBEDIENT:
            return obedient(context, form)
        case Behaviour.WRONG_IDS:
            return [_with_wrong_ids(each, rng) for each in honest(context, form, rng)]
        case Behaviour.LINKS:
            tips = honest(context, form, rng)
            return [_with_link(each, LINKS[n % len(LINKS)], form.body) for n, each in enumerate(tips)]
        case _:
            return honest(context, form, rng)


def _with_wrong_ids(candidate: Candidate, rng: Random) -> Candidate:
    """As many ids as before, and one where there was none."""
    ids = tuple(f"6{rng.getrandbits(60):015x}" for _ in candidate.task_ids or [""])
    return replace(candidate, task_ids=ids)


def _with_link(candidate: Candidate, link: str, length: int) -> Candidate:
    return replace(candidate, body=f"{cut(candidate.body, length - len(link) - 1)} {link}")
