"""Words of short texts in many languages: split, stop words, stems. Pure."""

from __future__ import annotations

import unicodedata
from functools import cache

import snowballstemmer
import stop_words

MAX_WORD = 24

_VERB_LAST = {"de", "nl", "ja", "ko", "tr", "hi", "hu", "eu", "fa"}
"""Languages in which the verb of "buy milk" comes last."""

_TELLING = {"bill", "fire", "interest", "mill", "system"}
"""Nouns that stand in scikit-learn's list of English stop words."""


def words(text: str, language: str) -> list[str]:
    """The words and numbers of a text in lower case, in order, without stop words.

    language: the user's, as Todoist gives it (`en`, `pt_BR`). English stop words go, too: many write English tasks
    whatever their language. A word is a run of letters and digits of any script, cut at `MAX_WORD`.
    """
    plain = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text.lower().replace("i\u0307", "i"))
    stopped = stop_words_of(language)
    return [word[:MAX_WORD] for word in plain.translate(_BLANKED).split() if word not in stopped]


def verb_at(language: str) -> int:
    """Where the verb of a task stands among its words: 0 for the first, -1 for the last."""
    return -1 if _code(language) in _VERB_LAST else 0


@cache
def stem(word: str, language: str) -> str:
    """A word without its endings, in languages that Snowball knows; elsewhere the word itself."""
    stemmer = _stemmer(_code(language))
    return str(stemmer.stemWord(word)) if stemmer else word


@cache
def stop_words_of(language: str) -> frozenset[str]:
    """Those of scikit-learn for English and, for any other language, those of the package `stop-words` with them."""
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


@cache
def _code(language: str) -> str:
    return language.replace("-", "_").split("_")[0].lower()
