"""The worked examples of the prompt, and texts that repeat them instead of speaking of the user's tasks. Pure."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tips.texts import padded, plain_words, word_runs

_TASK_WORDS = 4
_TIP_WORDS = 6
"""A run of this many words of a text of an example repeats the example, and so do all words of a shorter text."""

_FEWEST_TASK_WORDS = 3
_FEWEST_TIP_WORDS = 4
"""Shorter texts of an example are too common to count as repeated."""

WORKED_EXAMPLES: tuple[Mapping[str, Any], ...] = tuple(
    tomllib.loads((Path(__file__).parent / "worked_examples.toml").read_text("utf-8"))["examples"]
)
"""Good tips for a few tasks, in several languages."""


def repeats_example(text: str) -> bool:
    """Whether a text has words of a worked example, of its tasks or of its tip. Small models copy them."""
    words = padded(plain_words(text))
    return any(run in words for run in _copied_runs())


@cache
def _copied_runs() -> frozenset[str]:
    return frozenset(
        run
        for example in WORKED_EXAMPLES
        for run in (
            *_runs((title for _, title in example["tasks"].values()), _TASK_WORDS, _FEWEST_TASK_WORDS),
            *_runs(_texts_of_tip(json.loads(example["tip"])), _TIP_WORDS, _FEWEST_TIP_WORDS),
        )
    )


def _texts_of_tip(tip: Mapping[str, Any]) -> Iterator[str]:
    yield tip["title"]
    yield from (part for part in tip["body"] if isinstance(part, str))


def _runs(texts: Iterator[str], n_words: int, fewest: int) -> Iterator[str]:
    return (padded(run) for text in texts for run in word_runs(plain_words(text), n_words, fewest))
