"""Words of short texts: split, stopped, stemmed."""

from __future__ import annotations

import pytest

from contexts.words import MAX_WORD, stem, stop_words_of, verb_at, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Call ANN at 10am, e-mail Bob!", ["call", "ann", "at", "10am", "e", "mail", "bob"]),
        ("die Milch kaufen (Straße)", ["die", "milch", "kaufen", "straße"]),
        ("ИСТАНБУЛ istanbul İSTANBUL", ["истанбул", "istanbul", "istanbul"]),
        ("घर की सफाई", ["घर", "की", "सफाई"]),
        ("牛乳を買う", ["牛乳を買う"]),
        ("🎂 cake_mix", ["cake", "mix"]),
        ("", []),
    ],
)
def test_words_of_any_script(text: str, found: list[str]) -> None:
    """Words and numbers in lower case and in order, without signs."""
    assert words(text) == found


def test_english_stop_words_go_everywhere() -> None:
    """Whoever writes in another language writes English tasks, too."""
    assert {"the", "der"} <= stop_words_of("de")


def test_long_words_are_cut() -> None:
    """A word of a thousand letters is as long as a word may be."""
    assert words("x" * 1000) == ["x" * MAX_WORD]


def test_nouns_are_no_stop_words() -> None:
    """A bill and a fire are worth a word, though a list of stop words has them."""
    assert not {"bill", "fire"} & stop_words_of("en")
    assert {"the", "with"} <= stop_words_of("en")


@pytest.mark.parametrize(
    ("word", "language", "found"),
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
def test_stems(word: str, language: str, found: str) -> None:
    """A word loses its endings where the language is known, with or without a country."""
    assert stem(word, language) == found


def test_where_the_verb_stands() -> None:
    """English tasks begin with their verb, German ones end with it."""
    assert [verb_at(language) for language in ("en", "de", "de_AT", "fr")] == [0, -1, -1, 0]
