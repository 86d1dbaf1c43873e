"""The words of many short texts as arrays, so that labels and tags of all themes are found at once. Pure.

Japanese has no blanks: there a word is a run of kanji or katakana, as hiragana mostly are particles and endings.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from contexts.text import cut, without_addresses
from contexts.themes.arrays import Flags, Numbers, gather
from contexts.themes.words import (
    MAX_WORD_CHARS,
    empty_words_of,
    primary_code,
    stem,
    stop_word_codes,
    stop_word_languages,
    stop_words_of,
    unify,
    verb_position,
)

if TYPE_CHECKING:
    import regex

_MIN_CHARS = 3
_MIN_CHARS_EAST_ASIA = 2
_EAST_ASIA = "\u2e80"
"""The first character of the scripts in which two characters are a word."""

_MIN_FOREIGN_STOP_WORDS = 2
"""A text is in a different language if it has this many more stop words of it than of the user's and of English."""

_MIN_HEAD_CHARS = 7

_ASCII_WORD = re.compile(r"(?!(?<=')s\b)[A-Za-z0-9]+")
"""A word of a text without other characters, found in a third of the time of `_word`."""

_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")
_CONTENT_RUN = re.compile(r"[\u3400-\u9fff\u3005\u30a1-\u30faーA-Za-z0-9]{2,}")
_CONNECTORS = frozenset({" ", "-", " & ", "'", "’", "'s ", "’s "})
"""Characters between two words of one phrase."""

_SEPARATOR = re.compile(
    r"\s+[-–—>/|→]+\s+|[:;,.!?、。]+\s*(?=\s|$)|[、。]|\s*->\s*|\s*[(（][^)）]*[)）]\s*|\s*[\n/]\s*(?=\D)"
)
_SEPARATOR_SIGN = re.compile(r"[-–—>/|→:;,.!?、。(（\n]")
_BRACKETS = (("(", ")"), ("（", "）"), ("[", "]"))
_CAPITAL = re.compile(r"[A-ZÀ-ÖØ-ÞΑ-ΩА-Я][a-zß-öø-ÿα-ωа-я]")
_CODES_WITH_CAPITAL_NOUNS = ("de", "lb")
_MAX_CHARS, _MAX_HEAD_CHARS = 1000, 200
"""Numbers of characters of a text and of its first part that are read; descriptions can have many thousands."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """The words of distinct texts, in order; all arrays but `n_words` and `head_end` have one element per word.

    texts: without addresses.
    text: the number of the word's text. start, end: its place in this text.
    stem: the number of its stem in `stems`. form: the number of the word in `forms`.
    is_tag: whether the word can be a tag. is_content: whether it can be part of a label.
    is_joined: whether a blank or a hyphen separates it from the word before.
    is_head: whether it is in the first meaningful part of the text. is_verb: whether it is in the verb's position.
    is_name: whether it may be a person's name.
    n_words: the number of words of each text. head_end: the end of its first meaningful part.
    """

    texts: Sequence[str]
    stems: Sequence[str]
    forms: Sequence[str]
    text: Numbers
    start: Numbers
    end: Numbers
    stem: Numbers
    form: Numbers
    is_tag: Flags
    is_content: Flags
    is_joined: Flags
    is_head: Flags
    is_verb: Flags
    is_name: Flags
    n_words: Numbers
    head_end: Numbers


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The words of texts as they are written; see `Corpus`."""

    words: list[str]
    text: Numbers
    start: Numbers
    end: Numbers
    is_joined: Flags
    is_head: Flags
    n_words: Numbers
    head_end: Numbers


@dataclass(frozen=True)
class _Word:
    """A word in a language; see `Corpus`."""

    form: str
    stem: str
    is_tag: bool
    is_content: bool
    is_name: bool


def read_corpus(texts: Sequence[str], languages: Sequence[str]) -> Corpus:
    """Return the words of texts. languages: the language that the user of each text has set, such as `pt_BR`."""
    texts = [_normalized(text) for text in texts]
    tokens = _tokens(texts)
    words, word = _enumerate(tokens.words)
    codes, code_of = _enumerate(_written_codes(words, word, tokens.n_words, languages))
    pairs, pair = np.unique(word * max(1, len(codes)) + code_of[tokens.text], return_inverse=True)
    described = [_describe(words[each // len(codes)], codes[each % len(codes)]) for each in pairs.tolist()]
    stems, stem_of = _enumerate([each.stem for each in described])
    forms, form_of = _enumerate([each.form for each in described])
    has_verb_last = np.array([verb_position(code) == -1 for code in codes], bool)[code_of]
    return Corpus(
        texts=texts,
        stems=stems,
        forms=forms,
        text=tokens.text,
        start=tokens.start,
        end=tokens.end,
        stem=stem_of[pair],
        form=form_of[pair],
        is_tag=np.array([each.is_tag for each in described], bool)[pair],
        is_content=np.array([each.is_content for each in described], bool)[pair],
        is_joined=tokens.is_joined,
        is_head=tokens.is_head,
        is_verb=_are_verbs(tokens, has_verb_last),
        is_name=np.array([each.is_name for each in described], bool)[pair] & (tokens.start > 0),
        n_words=tokens.n_words,
        head_end=tokens.head_end,
    )


def head_of(text: str) -> str:
    """Return the first meaningful part of a text, without signs at its ends; or the text if it has none.

    A bracket that closes one of this part stays.
    """
    head = text[: _head_end(text)]
    trimmed = _edge_signs().sub("", head)
    for opening, closing in _BRACKETS:
        if trimmed.rfind(opening) > trimmed.rfind(closing) and closing in head:
            trimmed += closing
    return trimmed or head


def _head_end(text: str) -> int:
    """Return the end of the first meaningful part of a text."""
    text = text[:_MAX_HEAD_CHARS]
    if not _SEPARATOR_SIGN.search(text):
        return len(text)
    for separator in _SEPARATOR.finditer(text):
        end = separator.start()
        if end >= _MIN_HEAD_CHARS and len(_edge_signs().sub("", text[:end])) >= _MIN_HEAD_CHARS:
            return end
    return len(text)


def _normalized(text: str) -> str:
    """Return the part of a text that is read, without addresses and with composed letters unified."""
    text = without_addresses(text[:_MAX_CHARS])
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _tokens(texts: Sequence[str]) -> _Tokens:
    matches = [list(_word_pattern(text).finditer(text)) for text in texts]
    n_words = np.fromiter(map(len, matches), np.int64, len(matches))
    text_of = np.repeat(np.arange(len(texts)), n_words)
    flat = list(chain.from_iterable(matches))
    spans = np.array([match.span() for match in flat], np.int64).reshape(-1, 2)
    previous_ends = np.where(_are_first(text_of), -1, np.roll(spans[:, 1], 1))
    gaps = zip(text_of.tolist(), previous_ends.tolist(), spans[:, 0].tolist(), strict=True)
    is_joined = [end >= 0 and texts[number][end:start] in _CONNECTORS for number, end, start in gaps]
    head_ends = np.fromiter(map(_head_end, texts), np.int64, len(texts))
    words = [match[0] for match in flat]
    is_head = spans[:, 1] <= head_ends[text_of]
    return _Tokens(words, text_of, spans[:, 0], spans[:, 1], np.array(is_joined, bool), is_head, n_words, head_ends)


def _word_pattern(text: str) -> Any:
    """Return the expression for the words of a text."""
    if text.isascii():
        return _ASCII_WORD
    return _CONTENT_RUN if _KANA.search(text) else _word()


def _written_codes(words: Sequence[str], word: Numbers, n_words: Numbers, languages: Sequence[str]) -> list[str]:
    """Return the language in which each text is written: the user's, unless stop words say otherwise."""
    codes = stop_word_codes()
    column_of = {code: column for column, code in enumerate(codes)}
    counts = _count_stop_words(words, word, n_words, column_of)
    own = [column_of.get(primary_code(language), len(codes)) for language in languages]
    known = np.maximum(counts[np.arange(len(own)), own], counts[:, column_of["en"]])
    is_foreign = counts.max(axis=1, initial=0) >= known + _MIN_FOREIGN_STOP_WORDS
    written = [codes[column] for column in counts.argmax(axis=1).tolist()]
    choices = zip(languages, written, is_foreign.tolist(), strict=True)
    return [code if foreign else language for language, code, foreign in choices]


def _count_stop_words(words: Sequence[str], word: Numbers, n_words: Numbers, column_of: Mapping[str, int]) -> Numbers:
    """Return the number of stop words of each language in each text; the last column, of unknown languages, is 0."""
    columns = [[column_of[code] for code in stop_word_languages(unify(each))] for each in words]
    # Only stop words are expanded: an array of all words and languages would be larger than all else of a shard.
    entry, token = gather(np.fromiter(map(len, columns), np.int64, len(columns)), word)
    column = np.fromiter(chain.from_iterable(columns), np.int64)[entry]
    text, n_columns = np.repeat(np.arange(len(n_words)), n_words)[token], len(column_of) + 1
    return np.bincount(text * n_columns + column, minlength=len(n_words) * n_columns).reshape(-1, n_columns)


@cache
def _word() -> regex.Pattern[str]:
    """A run of letters and digits, but not the English genitive."""
    import regex

    return regex.compile(r"(?!(?<=['’])s\b)[\p{L}\p{M}\p{N}]+")


@cache
def _edge_signs() -> regex.Pattern[str]:
    """The signs at both ends of a text that are no part of a phrase."""
    import regex

    return regex.compile(r"^[^\w\p{M}\"'«„“¿¡#&@$€£]+|[^\w\p{M}\"'»“”%]+$")


@lru_cache(2**17)
def _describe(word: str, language: str) -> _Word:
    form = cut(unify(word), MAX_WORD_CHARS)
    is_word = not form[:1].isnumeric() and form not in stop_words_of(language)
    min_chars = _MIN_CHARS_EAST_ASIA if form >= _EAST_ASIA else _MIN_CHARS
    is_content = is_word and len(form) >= min_chars and form not in empty_words_of(language)
    has_capital_nouns = primary_code(language) in _CODES_WITH_CAPITAL_NOUNS
    is_name = bool(_CAPITAL.match(word)) and not has_capital_nouns
    return _Word(form, stem(form, language), is_word and len(form) >= min_chars, is_content, is_name)


def _are_verbs(tokens: _Tokens, has_verb_last: Flags) -> Flags:
    """Return whether each word is the first or the last of the first part of its text, as its language has verbs."""
    is_last = np.append(_are_first(tokens.text)[1:], True)
    ends_head = tokens.is_head & (is_last | ~np.append(tokens.is_head[1:], True))
    is_in_place = np.where(has_verb_last[tokens.text], ends_head, _are_first(tokens.text))
    return is_in_place & (tokens.n_words[tokens.text] > 1)


def _are_first(numbers: Numbers) -> Flags:
    """Return whether each number differs from the one before."""
    return np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)]


def _enumerate(names: Sequence[str]) -> tuple[list[str], Numbers]:
    """Return the distinct names in order, and the number of each name among them."""
    number_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return list(number_of), np.fromiter(map(number_of.__getitem__, names), np.int64, len(names))
