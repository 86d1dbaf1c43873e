"""The words that tell a user's themes apart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.tags import MAX_TAG, N_TAGS, tags_of, words


class TestTags:
    def test_telling_words(self) -> None:
        """A word that only one theme has tells more than one that stands in all of them."""
        tags = tags_of({"a": ["buy milk", "buy bread"], "b": ["buy stamps", "buy paper"]})
        assert tags == {"a": ["bread", "milk", "buy"], "b": ["paper", "stamps", "buy"]}

    def test_best_first(self) -> None:
        """The more often a theme says a word, the more it tells; of equals the alphabet decides."""
        assert tags_of({"a": ["garden hedge", "garden shed", "garden hedge"]}) == {"a": ["garden", "hedge", "shed"]}
        assert tags_of({"a": ["cherry banana apple date"]}) == {"a": ["apple", "banana", "cherry"]}

    def test_formula(self) -> None:
        """A rare word of a theme outweighs a frequent one that the others have more often."""
        themes = {"a": ["call call mum"], "b": ["call " * 50], "c": ["walk"]}
        assert tags_of(themes)["a"] == ["mum", "call"]

    @pytest.mark.parametrize("texts", [[], [""], ["12 34"], ["🧹 🧹"], ["a an of"]])
    def test_no_words(self, texts: list[str]) -> None:
        """A theme without a word has no tags, and the others keep theirs."""
        assert tags_of({"a": texts, "b": ["milk"]}) == {"a": [], "b": ["milk"]}

    def test_no_themes(self) -> None:
        """No theme, no tags."""
        assert tags_of({}) == {}

    @settings(max_examples=80, deadline=None)
    @given(
        themes=st.dictionaries(st.sampled_from("abcd"), st.lists(st.text(max_size=20), max_size=4)),
        random=st.randoms(use_true_random=False),
    )
    def test_any_texts(self, themes: dict[str, list[str]], random: Any) -> None:
        """Tags are a few short words of the theme itself, in whatever order its tasks and the themes come."""
        tags = tags_of(themes)
        assert tags.keys() == themes.keys()
        for theme, own in tags.items():
            assert len(own) == len(set(own)) <= N_TAGS
            assert set(own) <= {word for text in themes[theme] for word in words(text)}
            assert all(len(tag) <= MAX_TAG for tag in own)
        shuffled = {theme: random.sample(texts, len(texts)) for theme, texts in reversed(themes.items())}
        assert tags_of(shuffled) == tags


class TestWords:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("Call ANN at 10am, e-mail Bob!", ["call", "ann", "mail", "bob"]),
            ("Größe prüfen", ["größe", "prüfen"]),
            ("Купить молоко", ["купить", "молоко"]),
            ("πλήρωσε λογαριασμό", ["πλήρωσε", "λογαριασμό"]),
            ("לקנות חלב", ["לקנות", "חלב"]),
            ("اتصل بالطبيب", ["اتصل", "بالطبيب"]),
            ("买牛奶", ["买牛奶"]),
            ("snake_case x2y2 42", ["snake", "case"]),
            ("x" * 50, ["x" * 24]),
        ],
    )
    def test_scripts(self, text: str, found: list[str]) -> None:
        """Words of three letters or more are found in any script, in lower case and cut to a length."""
        assert words(text) == found

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("हिन्दी सीखना", ["हिन्दी", "सीखना"]),
            ("Cafe\u0301s suchen", ["cafés", "suchen"]),
            ("İstanbul", ["istanbul"]),
        ],
        ids=["Hindi", "decomposed", "Turkish"],
    )
    def test_combining_marks(self, text: str, found: list[str]) -> None:
        """A word stays whole when its letters carry marks of their own."""
        assert words(text) == found
