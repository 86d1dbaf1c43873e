"""Words of short texts in many languages: split, stop words, articles, stems. Pure."""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

import snowballstemmer
import stop_words

MAX_WORD = 24

_ARTICLES = {
    "en": ("a", "an", "the", "some", "my"),
    "de": ("der", "die", "das", "den", "dem", "ein", "eine", "einen", "einem", "einer"),
    "fr, it": ("le", "la", "les", "un", "une", "il", "lo", "gli"),
    "es, pt": ("el", "los", "las", "una", "unos", "unas", "os", "um", "uma"),
    "nl": ("het", "een"),
}
ARTICLES = frozenset(word for words in _ARTICLES.values() for word in words)
"""Words that make no other task of one, in whatever language."""

_VERB_LAST = {"de", "nl", "ja", "ko", "tr", "hi", "hu", "eu", "fa"}
"""Languages in which the verb of "buy milk" comes last."""

_TELLING = {"bill", "fire", "interest", "mill", "system"}
"""Nouns that stand in scikit-learn's list of English stop words."""


def words(text: str) -> list[str]:
    """The words and numbers of a text in lower case, in order: runs of letters and digits of any script, cut at
    `MAX_WORD`.
    """
    plain = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text.lower().replace("i\u0307", "i"))
    return [word[:MAX_WORD] for word in plain.translate(_BLANKED).split()]


def verb_at(language: str) -> int:
    """Where the verb of a task stands among its words: 0 for the first, -1 for the last.

    language: the user's, as Todoist gives it (`en`, `pt_BR`); here and below.
    """
    return -1 if _code(language) in _VERB_LAST else 0


@lru_cache(2**16)
def stem(word: str, language: str) -> str:
    """A word without its endings, in languages that Snowball knows; elsewhere the word itself."""
    stemmer = _stemmer(_code(language))
    return str(stemmer.stemWord(word)) if stemmer else word


@lru_cache(256)
def stop_words_of(language: str) -> frozenset[str]:
    """Those of scikit-learn for English and, for any other language, those of the package `stop-words` with them:
    many write English tasks whatever their language.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    own = () if _code(language) == "en" else stop_words.safe_get_stop_words(_code(language))
    return frozenset({*ENGLISH_STOP_WORDS, *own} - _TELLING)


class _Blanked(dict[int, int]):
    """For `str.translate`: letters, marks and numbers stay, all other characters become blanks."""

    def __missing__(self, code: int) -> int:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else ord(" ")
        return self[code]


_BLANKED = _Blanked()


@cache
def _stemmer(code: str) -> snowballstemmer.stemmer | None:
    name = stop_words.LANGUAGE_MAPPING.get(code)  # by which Snowball calls a language, too
    return snowballstemmer.stemmer(name) if name in snowballstemmer.algorithms() else None


@lru_cache(256)
def _code(language: str) -> str:
    return language.replace("-", "_").split("_")[0].lower()
