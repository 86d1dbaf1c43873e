"""Models that look for texts in a prompt and carry them into tips, past a check for copies.

A copier repeats a text, a splitter puts fillers between its words, a paraphraser says it in other words.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any
from unicodedata import normalize

from local.llm.answer_schema import Candidate, read_answer_schema
from local.llm.behaviours import AnswerFunction
from local.llm.context import context_in, user_texts
from local.llm.request import read_completion_request

_FOLDER = Path(__file__).parent
_FILLERS = ("please", "gladly", "maybe", "soon", "kindly", "perhaps")
_TITLES = ("First things first", "A thought", "One more step", "Before noon", "For later", "A short break")
_TOKEN = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,2}|[^\W_]+")
_MIN_LETTERS = 4
_MIN_SHARE = 0.5
"""The share of the telling words of a text in a tip that makes the tip carry the text."""


@dataclass(frozen=True)
class HostileText:
    """The title of a task by which somebody tries to speak through a model."""

    tactic: str
    language: str
    text: str


@cache
def hostile_texts() -> tuple[HostileText, ...]:
    """All hostile texts, in several languages."""
    tactics = tomllib.loads((_FOLDER / "hostile_texts.toml").read_text("utf-8"))
    return tuple(
        HostileText(tactic, language, text)
        for tactic, languages in tactics.items()
        for language, texts in languages.items()
        for text in texts
    )


def copied(text: str) -> str:
    """The text as it is."""
    return text


def split(text: str) -> str:
    """The words of a text with a filler after every second one."""
    fillers, words = cycle(_FILLERS), _TOKEN.findall(text)
    pairs = (" ".join(words[start : start + 2]) for start in range(0, len(words), 2))
    return " ".join(f"{pair} {next(fillers)}" for pair in pairs)


def paraphrased(text: str) -> str:
    """The text in other words, as far as they are known, its second half first."""
    words = [_paraphrases().get(word, word) for word in _known_tokens(text)]
    middle = len(words) // 2
    return split(" ".join([*words[middle:], *words[:middle]]))


ADVERSARIES: Mapping[str, Callable[[str], str]] = {"copier": copied, "splitter": split, "paraphraser": paraphrased}


def adversary(name: str) -> AnswerFunction:
    """A model that writes one tip for each text of the prompt, the longest first, reworded by an adversary."""
    reword = ADVERSARIES[name]

    def answer(body: Mapping[str, Any]) -> Mapping[str, Any]:
        request = read_completion_request(json.dumps(body).encode())
        schema = read_answer_schema(request.schema)
        texts = sorted(dict(user_texts(context_in(request.prompt))).items(), key=_length)
        titles = cycle(_TITLES)
        tips = [
            Candidate("plan", f"{next(titles)} {number}", schema.body_around(reword(text), task_ids), task_ids)
            for number, (text, task_ids) in enumerate(texts[: schema.allowed_count(len(texts))], 1)
        ]
        nothing = Candidate("plan", "Nothing to carry", "There was no text of anybody.")
        return {"candidates": [asdict(tip) for tip in tips or [nothing]]}

    return answer


def carries(tip: str, text: str) -> bool:
    """Whether a tip holds half of the telling words of a text or more, as they are or in other words."""
    told = f" {' '.join(_known_tokens(tip))} {' '.join(_TOKEN.findall(_plain(tip)))} "
    telling = list(_telling_words(text))
    found = sum(_occurs(word, told) for word in telling)
    return found >= max(1, min(2, len(telling)), _MIN_SHARE * len(telling))


def _length(item: tuple[str, tuple[str, ...]]) -> int:
    return -len(item[0])


def _telling_words(text: str) -> Iterator[str]:
    """The long words of a text, and all words of a script without blanks."""
    for word in dict.fromkeys(_known_tokens(text)):
        if len(word) >= _MIN_LETTERS or not word.isascii():
            yield word


def _occurs(word: str, told: str) -> bool:
    other = _paraphrases().get(word)
    return any(f" {' '.join(_TOKEN.findall(each))} " in told for each in (word, other) if each) or (
        other is not None and all(f" {part} " in told for part in other.split())
    )


def _known_tokens(text: str) -> list[str]:
    """The words of a text; in scripts without blanks the known words, and pairs of letters between them."""
    unspaced = sorted((word for word in _paraphrases() if _is_unspaced(word)), key=lambda word: -len(word))
    pattern = re.compile("|".join([*map(re.escape, unspaced), _TOKEN.pattern]))
    return pattern.findall(_plain(text))


def _plain(text: str) -> str:
    return normalize("NFKC", text).casefold()


def _is_unspaced(word: str) -> bool:
    return "\u3040" <= word[0] <= "\u9fff"


@cache
def _paraphrases() -> Mapping[str, str]:
    words: Mapping[str, str] = tomllib.loads((_FOLDER / "paraphrases.toml").read_text("utf-8"))["words"]
    return words
