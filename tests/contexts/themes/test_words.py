"""Words of short texts: splitting, stop words and stems."""

from __future__ import annotations

import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from contexts.themes.words import MAX_WORD_CHARS, split_words, stem, stop_words_of, verb_position


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Call ANN at 10am, e-mail Bob!", ["call", "ann", "at", "10am", "e", "mail", "bob"]),
        ("die Milch kaufen (Straße)", ["die", "milch", "kaufen", "straße"]),
        ("ИСТАНБУЛ istanbul İSTANBUL", ["истанбул", "istanbul", "istanbul"]),
        ("घर की सफाई", ["घर", "की", "सफाई"]),
        ("牛乳を買う", ["牛乳を買う"]),
        ("🎂 cake_mix", ["cake", "mix"]),
        ("see https://example.com/a?b=c#d or mail ann@example.com", ["see", "or", "mail"]),
        ("", []),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    """Words and numbers are returned in order and in lower case, without punctuation and addresses."""
    assert split_words(text) == tuple(words)


def test_english_stop_words_go_everywhere() -> None:
    """The stop words of every language include the English ones."""
    assert {"the", "der"} <= stop_words_of("de")


def test_long_words_are_cut() -> None:
    """A word is cut to the maximum length."""
    assert split_words("x" * 1000) == ("x" * MAX_WORD_CHARS,)
    assert split_words("कि" * 20 + "कि") == ("कि" * 12,)
    assert split_words("x" + "कि" * 20) == ("x" + "कि" * 11,)


def test_nouns_are_no_stop_words() -> None:
    """The English stop words are scikit-learn's, without nouns such as "bill" and "fire"."""
    assert ENGLISH_STOP_WORDS - stop_words_of("en") == {"bill", "fire", "interest", "mill", "system"}
    assert stop_words_of("en") < ENGLISH_STOP_WORDS


@pytest.mark.parametrize(
    ("word", "language", "expected"),
    [
        ("dishes", "en", "dish"),
        ("washing", "en", "wash"),
        ("kaufen", "de", "kauf"),
        ("caixas", "pt_BR", "caix"),
        ("caixas", "pt-br", "caix"),
        ("washing", "xx", "washing"),
        ("washing", "", "washing"),
    ],
)
def test_stems(word: str, language: str, expected: str) -> None:
    """A word loses its endings if the language is supported, with or without a country."""
    assert stem(word, language) == expected


def test_verb_position() -> None:
    """The verb is the first word of an English task and the last word of a German one."""
    assert [verb_position(language) for language in ("en", "de", "de_AT", "fr")] == [0, -1, -1, 0]
