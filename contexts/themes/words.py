"""Words of short texts in many languages: splitting, stop words, articles and stems. Pure.

Languages are Todoist's codes, such as `en` or `pt_BR`.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

import snowballstemmer
import stop_words

from contexts.text import cut, without_addresses

MAX_WORD_CHARS = 24

_ARTICLES_BY_LANGUAGE = {
    "en": ("a", "an", "the", "some", "my"),
    "de": ("der", "die", "das", "den", "dem", "ein", "eine", "einen", "einem", "einer"),
    "fr, it": ("le", "la", "les", "un", "une", "il", "lo", "gli"),
    "es, pt": ("el", "los", "las", "una", "unos", "unas", "os", "um", "uma"),
    "nl": ("het", "een"),
}
ARTICLES = frozenset(article for articles in _ARTICLES_BY_LANGUAGE.values() for article in articles)
"""Words that do not change the meaning of a task, in any language."""

_VERB_LAST_LANGUAGES = {"de", "nl", "ja", "ko", "tr", "hi", "hu", "eu", "fa"}
"""Languages with the verb of "buy milk" in last position."""

_NOUNS_AMONG_STOP_WORDS = {"bill", "fire", "interest", "mill", "system"}
"""Nouns in scikit-learn's list of English stop words."""


@lru_cache(2**16)
def split_words(text: str) -> tuple[str, ...]:
    """Return the words and numbers of a text, in order and in lower case, cut to `MAX_WORD_CHARS`.

    A word is a run of letters and digits of any script. Addresses are no words.
    """
    text = without_addresses(text)
    lower = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text.lower().replace("i\u0307", "i"))
    words = lower.translate(_BLANKS).split()
    return tuple(word if len(word) <= MAX_WORD_CHARS else cut(word, MAX_WORD_CHARS) for word in words)


def verb_position(language: str) -> int:
    """Return the position of the verb among a task's words: 0 for the first word, -1 for the last."""
    return -1 if _code(language) in _VERB_LAST_LANGUAGES else 0


@lru_cache(2**16)
def stem(word: str, language: str) -> str:
    """Return a word without its endings, or the word itself if Snowball does not support the language."""
    stemmer = _stemmer(_code(language))
    return str(stemmer.stemWord(word)) if stemmer else word


@lru_cache(256)
def stop_words_of(language: str) -> frozenset[str]:
    """Return the stop words of a language and of English, because users of any language write English tasks.

    Sources: scikit-learn for English, the package `stop-words` for other languages.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    other = () if _code(language) == "en" else stop_words.safe_get_stop_words(_code(language))
    return frozenset({*ENGLISH_STOP_WORDS, *other} - _NOUNS_AMONG_STOP_WORDS)


class _Blanks(dict[int, int]):
    """A table for `str.translate` that replaces everything but letters, marks and numbers with blanks."""

    def __missing__(self, code: int) -> int:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else ord(" ")
        return self[code]


_BLANKS = _Blanks()


@cache
def _stemmer(code: str) -> snowballstemmer.stemmer | None:
    name = stop_words.LANGUAGE_MAPPING.get(code)  # Snowball uses the same names of languages
    return snowballstemmer.stemmer(name) if name in snowballstemmer.algorithms() else None


@lru_cache(256)
def _code(language: str) -> str:
    return language.replace("-", "_").split("_")[0].lower()
