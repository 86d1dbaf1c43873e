"""The words of many texts as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.themes.corpus import Corpus, read_corpus
from contexts.themes.words import split_words


def words(text: str, language: str = "en", flag: str = "") -> list[str]:
    """Return the words of a text in lower case; of those only the ones with a flag, if one is given."""
    corpus: Corpus = read_corpus([text], [language])
    flags = getattr(corpus, flag) if flag else [True] * len(corpus.form)
    return [corpus.forms[form] for form, has_flag in zip(corpus.form, flags, strict=True) if has_flag]


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("Buy grandma's oven at 10am", "en", ["buy", "grandma", "oven", "at", "10am"]),
        ("l'assurance du vélo", "fr", ["l", "assurance", "du", "vélo"]),
        ("スマホの写真をパソコンに移す", "ja", ["スマホ", "写真", "パソコン"]),
        ("mail ann@example.com today", "en", ["mail", "today"]),
        ("🎂🎈", "en", []),
    ],
)
def test_words(text: str, language: str, found: Sequence[str]) -> None:
    """Words are runs of letters and digits without the English genitive; of Japanese runs of kanji or katakana."""
    assert words(text, language) == found


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("take the new shoes back on monday", "en", ["shoes"]),
        ("neue Schuhe am Montag", "de", ["schuhe"]),
        ("quem leva o amplificador que comprei?", "en", ["leva", "amplificador", "comprei"]),
        ("2 kg of 00 flour", "en", ["flour"]),
    ],
)
def test_content(text: str, language: str, found: Sequence[str]) -> None:
    """Stop words, numbers, days and words that fit any thing are no content, in the language of the text."""
    assert words(text, language, "is_content") == found


@pytest.mark.parametrize(
    ("text", "language", "verbs"),
    [("buy milk, soon", "en", ["buy"]), ("Milch kaufen, bald", "de", ["kaufen"]), ("milk", "en", [])],
)
def test_verbs(text: str, language: str, verbs: Sequence[str]) -> None:
    """The verb is the first word, or the last one before a separator in German; a word alone is none."""
    assert words(text, language, "is_verb") == verbs


def test_parts() -> None:
    """The head ends at the first separator, and words are joined by a blank, a hyphen or an apostrophe."""
    assert words("rear light: cable or bulb?", flag="is_head") == ["rear", "light"]
    assert words("rear light: tail-end bulb", flag="is_joined") == ["light", "end", "bulb"]


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text() | st.sampled_from(["buy oat milk", "牛乳を買う"]), max_size=4))
def test_any_texts(texts: list[str]) -> None:
    """Each text has the words that it has alone, and ASCII texts those of `split_words` but for the genitive."""
    corpus = read_corpus(texts, ["en"] * len(texts))
    assert corpus.n_words.sum() == len(corpus.text)
    for number, text in enumerate(texts):
        found = [corpus.forms[form] for form in corpus.form[corpus.text == number]]
        assert found == words(text)
        if text.isascii() and "'" not in text:
            assert found == list(split_words(text))
