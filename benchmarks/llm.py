"""`LLM_MODEL=... python -m benchmarks.llm [N_USERS] [LANGUAGE]`: valid tips, tokens and seconds of a real LLM.

The users are those of `make run`, as long as they write the language (default: English, `-` for any). Their contexts
have no themes, because nothing is embedded. Refusals are counted by reason, without texts of users.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from rich.console import Console

from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Signals, UserContext
from contexts.todoist.mirror import Mirror, fold, open_tasks
from local.samples import sample_users
from tips import generator as generator_module
from tips.answers import N_CANDIDATES, read_answer
from tips.candidates import GeneratedTip, TaskReference
from tips.generator import Generation, LLMGenerator
from tips.gguf import opened_model
from tips.models import LLMError

_NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
_TIMEOUT_S = 600.0
_MIN_VALID_TIPS = 2
_MAX_DRAWN_USERS = 2000
_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\d+")

_console = Console(highlight=False, soft_wrap=True)


@dataclass
class Refusals:
    """Reads answers as the generator does, and counts the complaints about them by reason."""

    by_reason: Counter[str]

    def read(self, answer: object, context: UserContext) -> tuple[list[GeneratedTip], list[str]]:
        """The good candidates of an answer and the complaints, see `tips.answers.read_answer`."""
        good, complaints = read_answer(answer, context)
        self.by_reason.update(
            _VALUE.sub("...", complaint.partition(": ")[2] or complaint) for complaint in complaints
        )
        return good, complaints


def contexts(n_users: int, language: str) -> Iterator[UserContext]:
    """The contexts of the first sample users who write a language, or of all if it is `-`."""
    for user in sample_users(_MAX_DRAWN_USERS, today=_NOW.date()):
        mirror = fold(Mirror(), user.document).mirror
        if language not in ("-", mirror.directory.language) or not n_users:
            continue
        signals = Signals(user.user_id, user.timezone, mirror.directory.language or "en", open_tasks(mirror))
        yield UserContext.model_validate_json(assemble(signals, _NOW, Budget(2000)).context_json)
        n_users -= 1


async def write_tips(generator: LLMGenerator, n_users: int, language: str) -> list[Generation]:
    """Have the model write for one user after the other, and print a line for each."""
    made = []
    for number, context in enumerate(contexts(n_users, language), 1):
        generation = await generator.generate(context, _NOW.date(), timeout_s=_TIMEOUT_S)
        made.append(generation)
        usage = generation.usage
        seconds, outcome = (usage.seconds, usage.outcome) if usage else (0.0, "not called")
        _console.print(f"user {number}: {len(generation.tips)} valid tips, {outcome}, {seconds:.0f} s")
        for tip in generation.tips:
            parts = ("[task]" if isinstance(part, TaskReference) else part for part in tip.body)
            _console.print(f"    [{tip.kind}] {tip.title}: {''.join(parts)}", markup=False)
    return made


def main() -> int:
    """Write for the users and print the figures; the exit status is 2 if LLM_MODEL names no usable model."""
    n_users = int(sys.argv[1]) if sys.argv[1:] else 20
    language = sys.argv[2] if sys.argv[2:] else "en"
    refusals = Refusals(Counter())
    generator_module.read_answer = refusals.read  # type: ignore[attr-defined]
    try:
        with opened_model(os.environ.get("LLM_MODEL") or "") as model:
            made = asyncio.run(write_tips(LLMGenerator(model, timeout_s=_TIMEOUT_S), n_users, language))
    except LLMError as error:
        _console.print(f"LLM_MODEL: {error}")
        return 2
    _console.print("\n".join(_summary(made)))
    for reason, count in refusals.by_reason.most_common():
        _console.print(f"{count:4} refused: {reason}", markup=False)
    return 0


def _summary(made: list[Generation]) -> Iterator[str]:
    usages = [generation.usage for generation in made if generation.usage]
    n_enough = sum(len(generation.tips) >= _MIN_VALID_TIPS for generation in made)
    yield f"{n_enough} of {len(made)} users have at least {_MIN_VALID_TIPS} valid tips of {N_CANDIDATES}"
    yield f"outcomes: {dict(Counter(usage.outcome for usage in usages))}"
    for name in ("input_tokens", "cached_tokens", "output_tokens", "seconds"):
        if values := [value for usage in usages if (value := getattr(usage, name)) is not None]:
            yield f"{name.replace('_', ' ')}: median {median(values):,.0f}, most {max(values):,.0f}"


if __name__ == "__main__":
    sys.exit(main())
