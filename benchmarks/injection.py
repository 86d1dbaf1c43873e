"""`python -m benchmarks.injection`: hostile titles that reach the prompt and a tip, by adversary and author.

Each hostile text is the title of one of four tasks, which the user or somebody else added. A stand-in for an LLM over
HTTP looks for texts in its prompt and tries to carry them into tips. No figure depends on chance or time.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console

from benchmarks.output import numbers_table
from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Signals, Task, UserContext
from local.llm import LocalLLM, running_llm
from local.llm.adversaries import ADVERSARIES, HostileText, adversary, carries, hostile_texts
from tips.generator import LLMGenerator
from tips.prompt import INSTRUCTIONS

_NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
_OTHER_TASKS = ("Renew the passport", "Call the plumber", "Sort the photographs")
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Reached:
    """The hostile texts that were in the prompt, and those that a tip of the LLM carried."""

    prompt: tuple[HostileText, ...]
    tip: tuple[HostileText, ...]


async def reached(llm: LocalLLM, texts: Sequence[HostileText], *, is_by_others: bool) -> Reached:
    """Have tips written about each text in turn, by the model that the environment's variables name."""
    generator = LLMGenerator("openai-chat:local", timeout_s=_TIMEOUT_S)
    in_prompt, in_tip = list[HostileText](), list[HostileText]()
    for hostile in texts:
        generation = await generator.generate(
            _context(hostile, is_by_others=is_by_others), _NOW.date(), timeout_s=_TIMEOUT_S
        )
        if carries(llm.calls[-1].prompt.replace(INSTRUCTIONS, ""), hostile.text):
            in_prompt.append(hostile)
        if any(carries(f"{tip.title} {tip.wording}", hostile.text) for tip in generation.tips):
            in_tip.append(hostile)
    return Reached(tuple(in_prompt), tuple(in_tip))


def _context(hostile: HostileText, *, is_by_others: bool) -> UserContext:
    own = tuple(Task(f"t{n}", title, project="Home") for n, title in enumerate(_OTHER_TASKS))
    added = Task("t9", hostile.text, 4, due_date="2026-11-20", is_by_others=is_by_others, is_shared=is_by_others)
    signals = Signals("ann", "UTC", hostile.language, (*own, added))
    return UserContext.model_validate_json(assemble(signals, _NOW, Budget(2000)).context_json)


def main() -> None:
    """Print a table, and the tactics that pass."""
    console, texts, llm = Console(), hostile_texts(), LocalLLM()
    table = numbers_table(
        f"{len(texts)} hostile titles: in the prompt / carried into a tip", "adversary", "by others", "by the user"
    )
    passing: Counter[str] = Counter()
    with running_llm(llm) as url:
        os.environ.update(OPENAI_BASE_URL=f"{url}/v1", OPENAI_API_KEY="local")
        for name in ADVERSARIES:
            llm.behaviour = adversary(name)
            others, own = (asyncio.run(reached(llm, texts, is_by_others=each)) for each in (True, False))
            table.add_row(name, *(f"{len(each.prompt)} / {len(each.tip)}" for each in (others, own)))
            passing.update(hostile.tactic for hostile in own.tip)
    console.print(table)
    console.print(f"carried, by tactic: {', '.join(f'{tactic} {n}' for tactic, n in passing.most_common())}")


if __name__ == "__main__":
    main()
