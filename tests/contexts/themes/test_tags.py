"""Tags of themes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.themes.corpus import read_corpus
from contexts.themes.tags import MAX_TAGS, tags_of
from contexts.themes.themed import ThemedTasks
from contexts.themes.words import MAX_WORD_CHARS


def tags_of_users(*users: Sequence[Sequence[str]], language: str = "en") -> list[list[str]]:
    """Return the tags of each theme, given the texts of each theme of each user."""
    themes = [(user, texts) for user, its_themes in enumerate(users) for texts in its_themes]
    rows = [(user, number, text) for number, (user, texts) in enumerate(themes) for text in texts]
    texts = list(dict.fromkeys(text for *_, text in rows))
    tasks = ThemedTasks(
        user=np.array([user for user, _, _ in rows], np.int64),
        theme=np.array([number for _, number, _ in rows], np.int64),
        text=np.array([texts.index(text) for *_, text in rows], np.int64),
        centrality=np.zeros(len(rows), np.float32),
        project=np.full(len(rows), -1),
        projects=[],
        languages=[language] * len(users),
    )
    return tags_of(tasks, read_corpus(texts, [language] * len(texts)))


def tags(themes: Mapping[str, Sequence[str]], language: str = "en") -> dict[str, list[str]]:
    """Return the tags of one user's themes."""
    return dict(zip(themes, tags_of_users(list(themes.values()), language=language), strict=True))


class TestTags:
    def test_shared_words(self) -> None:
        """A tag is a word that at least two tasks of the theme share."""
        assert tags({"a": ["scan the receipts", "sort receipts by month", "call the bank"]}) == {"a": ["receipts"]}

    def test_specific_words(self) -> None:
        """A word of only one theme ranks before a word of several themes."""
        found = tags({"a": ["paint garden shed", "paint garden fence"], "b": ["paint kitchen", "paint hall"]})
        assert found == {"a": ["garden", "paint"], "b": ["paint"]}

    def test_best_first(self) -> None:
        """More frequent words rank first; the alphabet decides between equally frequent words."""
        assert tags({"a": ["hedge garden shed", "shed garden hedge", "garden"]}) == {"a": ["garden", "hedge", "shed"]}

    def test_formula(self) -> None:
        """A word that is rare elsewhere ranks before a frequent word that other themes use more often."""
        found = tags({"a": ["plan mum plan", "plan mum"], "b": ["plan " * 50, "plan"], "c": ["walk"]})
        assert found["a"] == ["mum", "plan"]

    def test_forms_of_a_word(self) -> None:
        """Forms of a word count as one word, and the theme's most frequent form is returned."""
        assert tags({"a": ["running shoes", "long run", "easy run"]}) == {"a": ["run"]}

    @pytest.mark.parametrize(
        ("language", "texts"), [("en", ["buy the cake", "the pan"]), ("de", ["die Milch", "die Wurst"])]
    )
    def test_stop_words(self, language: str, texts: list[str]) -> None:
        """Stop words of the user's language are not tags."""
        assert tags({"a": texts}, language) == {"a": []}

    def test_english_stop_words(self) -> None:
        """English stop words are not tags in any language."""
        assert tags({"a": ["back up the photos", "sort the slides"]}, "fr") == {"a": []}

    def test_users_are_separate(self) -> None:
        """The rank of a word depends on the same user's other themes only."""
        ann, ben = ["paint garden", "paint garden"], ["garden", "garden hose"]
        assert tags_of_users([ann], [ben])[0] == ["garden", "paint"]
        assert tags_of_users([ann, ben])[0] == ["paint", "garden"]

    @pytest.mark.parametrize("texts", [[""], ["12 34", "12 34"], ["🧹 🧹"], ["a an of"]])
    def test_no_words(self, texts: list[str]) -> None:
        """A theme without words has no tags, and other themes keep theirs."""
        assert tags({"a": texts, "b": ["milk", "oat milk"]}) == {"a": [], "b": ["milk"]}

    def test_no_themes(self) -> None:
        """No themes have no tags."""
        assert tags_of_users([]) == []

    @settings(max_examples=60, deadline=None)
    @given(
        themes=st.dictionaries(
            st.sampled_from("abcd"),
            st.lists(
                st.sampled_from(["milk", "oat milk", "the ox", "İx ßy", "牛乳を買う", ""]) | st.text(), min_size=1
            ),
        ),
        language=st.sampled_from(["en", "de", "ja", "tr", "", "xx"]),
        random=st.randoms(use_true_random=False),
    )
    def test_any_texts(self, themes: dict[str, list[str]], language: str, random: Any) -> None:
        """Tags are a few short words of the theme, independent of the order of tasks and themes."""
        tags_by_theme = tags(themes, language)
        for name, theme_tags in tags_by_theme.items():
            assert len(theme_tags) == len(set(theme_tags)) <= MAX_TAGS
            assert set(theme_tags) <= set(read_corpus(themes[name], [language] * len(themes[name])).forms)
            assert all(len(tag) <= MAX_WORD_CHARS for tag in theme_tags)
        shuffled = {name: random.sample(texts, len(texts)) for name, texts in reversed(themes.items())}
        assert tags(shuffled, language) == tags_by_theme
