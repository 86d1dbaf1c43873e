"""Short phrases of a task's text that may name a theme. Pure.

A phrase is a run of words without stop words. Source: Rose et al., "Automatic keyword extraction from individual
documents", 2010 (RAKE). Japanese has no blanks: there a phrase is a run of kanji or katakana, as hiragana mostly are
particles and endings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from contexts.text import without_addresses
from contexts.themes.words import split_words, stem, stop_words_of, verb_position

_MAX_PHRASE_WORDS = 3
_NAME_PENALTY = 0.1
"""Loss of a phrase with a person's name, in cosine to the middle of the theme."""

MAX_GAIN = _TITLE_GAIN = 0.05
"""The greatest gain of a phrase, in cosine to the middle of the theme."""

_WORDS_GAIN = {1: 0.0, 2: 0.04, 3: 0.05}
_MAX_TITLE_WORDS = 4
_MAX_TITLE_CHARS = 28

_MAX_SCANNED_CHARS = 200
"""Number of characters of a text that are searched; descriptions can have many thousands."""

_MIN_HEAD_CHARS = 7
_MIN_WORD_CHARS = 3

_SEPARATOR = re.compile(
    r"\s+[-–—>/|→]+\s+|[:;,.!?、。]+\s*(?=\s|$)|[、。]|\s*->\s*|\s*\([^)]*\)\s*|\s*[\n/]\s*(?=\D)"
)
_EDGE_SIGNS = re.compile(r"^[^\w\"'«„“¿¡#&@$€£]+|[^\w\"'»“”%]+$")
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*(?:[\u0300-\u036f\u0610-\u065f\u0900-\u097f])*")
_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")
_CONTENT_RUN = re.compile(r"[\u3400-\u9fff\u3005\u30a1-\u30faーA-Za-z0-9]{2,}")
_CAPITAL = re.compile(r"[A-ZÀ-ÖØ-ÞΑ-ΩА-Я][a-zß-öø-ÿα-ωа-я]")
_LANGUAGES_WITH_CAPITAL_NOUNS = ("de", "lb")


@dataclass(frozen=True)
class Phrase:
    """A phrase as it is written, with the stems of its words.

    gain: its worth as a label, in cosine to the middle of the theme; negative if it may name a person.
    """

    text: str
    stems: frozenset[str]
    gain: float


@lru_cache(2**16)
def stems_of(text: str, language: str) -> frozenset[str]:
    """Return the stems of a text's words that are no stop words; of Japanese, also its runs of kanji and katakana."""
    stop_words = stop_words_of(language)
    stems = {stem(word, language) for word in split_words(text) if word not in stop_words}
    return frozenset(stems | {*_content_runs(text)} if _KANA.search(text) else stems)


@lru_cache(2**14)
def phrases_of(text: str, language: str) -> tuple[Phrase, ...]:
    """Return the phrases of a text, the ones with the greatest gain first, and among these the earliest."""
    head = head_of(without_addresses(text[:_MAX_SCANNED_CHARS]))
    if _KANA.search(head):
        found = [Phrase(run, frozenset({run}), _WORDS_GAIN[2]) for run in _content_runs(head)]
    else:
        words = list(_WORD.finditer(head))
        found = [_phrase(head, run, language) for run in _word_runs(head, words, language)]
    candidates = (phrase for phrase in (*_title(head, language), *found) if phrase.stems)
    return tuple(sorted(candidates, key=lambda phrase: -phrase.gain))


@lru_cache(2**16)
def verb_of(text: str, language: str) -> str:
    """Return the stem of the word in the verb's position, or an empty string for a text of one word."""
    words = split_words(text)
    return stem(words[verb_position(language)], language) if len(words) > 1 else ""


def head_of(text: str) -> str:
    """Return the first meaningful part of a text, without punctuation at its ends; or the text if it has none."""
    text = text[:_MAX_SCANNED_CHARS]
    heads = (_EDGE_SIGNS.sub("", text[: separator.start()]) for separator in _SEPARATOR.finditer(text))
    long_heads = (head for head in heads if len(head) >= _MIN_HEAD_CHARS)
    return next(long_heads, None) or _EDGE_SIGNS.sub("", text) or text


def _title(head: str, language: str) -> Iterator[Phrase]:
    n_words = len(head.split())
    if head and len(head) <= _MAX_TITLE_CHARS and n_words <= _MAX_TITLE_WORDS:
        penalty = _NAME_PENALTY * _has_name(head, [*_WORD.finditer(head)], language)
        yield Phrase(head, stems_of(head, language), _TITLE_GAIN - penalty)


def _word_runs(head: str, words: Sequence[re.Match[str]], language: str) -> Iterator[Sequence[re.Match[str]]]:
    """Yield runs of one to `_MAX_PHRASE_WORDS` neighbouring content words without the text's verb."""
    verb = None if len(words) < 2 else words[verb_position(language)]
    stop_words = stop_words_of(language)
    run: list[re.Match[str]] = []
    for word in words:
        is_content = word is not verb and word[0].lower() not in stop_words and not word[0][0].isnumeric()
        is_next = bool(run) and head[run[-1].end() : word.start()] in (" ", "-", " & ")
        if not is_content or not is_next:
            yield from _parts(run)
            run = []
        if is_content:
            run.append(word)
    yield from _parts(run)


def _parts(run: Sequence[re.Match[str]]) -> Iterator[Sequence[re.Match[str]]]:
    for length in range(1, min(_MAX_PHRASE_WORDS, len(run)) + 1):
        for start in range(len(run) - length + 1):
            part = run[start : start + length]
            if length > 1 or len(part[0][0]) >= _MIN_WORD_CHARS:
                yield part


def _phrase(head: str, words: Sequence[re.Match[str]], language: str) -> Phrase:
    text = head[words[0].start() : words[-1].end()]
    penalty = _NAME_PENALTY * _has_name(head, words, language)
    return Phrase(text, stems_of(text, language), _WORDS_GAIN[len(words)] - penalty)


def _has_name(head: str, words: Sequence[re.Match[str]], language: str) -> bool:
    """Whether a word inside the text begins with a capital letter; German writes all nouns so."""
    if language.startswith(_LANGUAGES_WITH_CAPITAL_NOUNS):
        return False
    return any(word.start() > 0 and _CAPITAL.match(word[0]) for word in words)


def _content_runs(text: str) -> list[str]:
    return _CONTENT_RUN.findall(text)
