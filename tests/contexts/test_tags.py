"""What themes are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.tags import MAX_LABEL, N_TAGS, ThemeWords, label_of, short, tags_of
from contexts.words import MAX_WORD, words


def theme(user: str, *texts: str, language: str = "en") -> ThemeWords:
    return ThemeWords(user, language, [words(text) for text in texts])


def tags(themes: Mapping[str, Sequence[str]], language: str = "en") -> dict[str, list[str]]:
    """The tags of one user's themes."""
    found = tags_of([theme("ann", *texts, language=language) for texts in themes.values()])
    return dict(zip(themes, found, strict=True))


class TestTags:
    def test_shared_words(self) -> None:
        """A tag is a word that two tasks of the theme share."""
        assert tags({"a": ["scan the receipts", "sort receipts by month", "call the bank"]}) == {"a": ["receipts"]}

    def test_telling_words(self) -> None:
        """A word that only one theme has tells more than one that stands in all of them."""
        found = tags({"a": ["paint garden shed", "paint garden fence"], "b": ["paint kitchen", "paint hall"]})
        assert found == {"a": ["garden", "paint"], "b": ["paint"]}

    def test_best_first(self) -> None:
        """The more often a theme says a word, the more it tells; of equals the alphabet decides."""
        assert tags({"a": ["hedge garden shed", "shed garden hedge", "garden"]}) == {"a": ["garden", "hedge", "shed"]}

    def test_formula(self) -> None:
        """A rare word of a theme outweighs a frequent one that the others have more often."""
        found = tags({"a": ["plan mum plan", "plan mum"], "b": ["plan " * 50, "plan"], "c": ["walk"]})
        assert found["a"] == ["mum", "plan"]

    def test_forms_of_a_word(self) -> None:
        """Forms of a word count as one, and the one that the theme has most often is shown."""
        assert tags({"a": ["running shoes", "long run", "easy run"]}) == {"a": ["run"]}

    @pytest.mark.parametrize(
        ("language", "texts"), [("en", ["buy the cake", "the pan"]), ("de", ["die Milch", "die Wurst"])]
    )
    def test_stop_words(self, language: str, texts: list[str]) -> None:
        """Stop words of the user's language are no tags."""
        assert tags({"a": texts}, language) == {"a": []}

    def test_english_among_others(self) -> None:
        """English stop words are no tags of anybody's, as many write English tasks, too."""
        assert tags({"a": ["back up the photos", "sort the slides"]}, "fr") == {"a": []}

    def test_users_are_told_apart(self) -> None:
        """What tells a theme depends on its user's other themes, not on somebody else's."""
        ann, ben = theme("ann", "paint garden", "paint garden"), theme("ben", "garden", "garden hose")
        more = theme("ann", "garden", "garden hose")
        assert tags_of([ann, ben])[0] == ["garden", "paint"]
        assert tags_of([ann, more])[0] == ["paint", "garden"]

    @pytest.mark.parametrize("texts", [[], [""], ["12 34", "12 34"], ["🧹 🧹"], ["a an of"]])
    def test_no_words(self, texts: list[str]) -> None:
        """A theme without a word has no tags, and the others keep theirs."""
        assert tags({"a": texts, "b": ["milk", "oat milk"]}) == {"a": [], "b": ["milk"]}

    def test_no_themes(self) -> None:
        """No theme, no tags."""
        assert tags_of([]) == []

    @settings(max_examples=60, deadline=None)
    @given(
        themes=st.dictionaries(
            st.sampled_from("abcd"),
            st.lists(st.sampled_from(["milk", "oat milk", "the ox", "İx ßy", ""]) | st.text()),
        ),
        language=st.sampled_from(["en", "de", "ja", "tr", "", "xx"]),
        random=st.randoms(use_true_random=False),
    )
    def test_any_texts(self, themes: dict[str, list[str]], language: str, random: Any) -> None:
        """Tags are a few short words of the theme itself, in whatever order its tasks and the themes come."""
        found = tags(themes, language)
        for name, own in found.items():
            assert len(own) == len(set(own)) <= N_TAGS
            assert set(own) <= {word for text in themes[name] for word in words(text)}
            assert all(len(tag) <= MAX_WORD for tag in own)
        shuffled = {name: random.sample(texts, len(texts)) for name, texts in reversed(themes.items())}
        assert tags(shuffled, language) == found


class TestShort:
    @pytest.mark.parametrize(
        ("text", "label"),
        [
            ("setlist for the street festival, 40 min", "setlist for the street festival"),
            ("backup everything to the external disk!!", "backup everything to the external disk"),
            ("rear light: cable or bulb?", "rear light"),
            ("old camcorder tapes -> digitise before they rot", "old camcorder tapes"),
            ("bananas (not too green)", "bananas"),
            ("milk, eggs, oat flakes", "milk, eggs"),
            ("who takes the piano 🎹", "who takes the piano"),
            ("raise prices by 5 %?", "raise prices by 5 %"),
            ("book 2.5 hours", "book 2.5 hours"),
            ("call mum", "call mum"),
            ("?!", "?!"),
        ],
    )
    def test_first_part(self, text: str, label: str) -> None:
        """What follows the first part that says something is left out, with signs at the ends."""
        assert short(text) == label

    @pytest.mark.parametrize("sign", "!.( -")
    def test_a_text_of_signs(self, sign: str) -> None:
        """A description of a hundred thousand signs is looked at no longer than any other."""
        assert len(short(sign * 100_000)) <= MAX_LABEL

    @given(text=st.text(max_size=200))
    def test_any_text(self, text: str) -> None:
        """No label is longer than allowed, and none is empty but that of an empty text."""
        assert len(short(text)) <= MAX_LABEL
        assert bool(short(text)) == bool(text)

    def test_long_texts_are_cut_between_words(self) -> None:
        """A long text without a first part ends after a whole word, and shows that it was cut."""
        text = "reply to the tax office letter about the missing page"
        assert short(text) == "reply to the tax office letter about the…"


class TestLabel:
    def label(self, *texts: str, language: str = "en") -> str:
        """Of texts that are a little less central from one to the next."""
        return label_of(texts, np.array([0.5 - 0.02 * n for n in range(len(texts))], np.float32), language)

    def test_most_central(self) -> None:
        """The theme is called by its most central task."""
        assert self.label("sort receipts", "scan receipts") == "sort receipts"

    def test_no_person(self) -> None:
        """No theme is called by a task that names a person where another stands nearly as central."""
        assert self.label("ask Priya for a reference", "update the cv") == "update the cv"
        assert self.label("ask Priya for a reference", "thank Leo") == "ask Priya for a reference"

    def test_german_nouns_are_no_names(self) -> None:
        """In German every noun has a capital, so none is taken for a person."""
        assert self.label("neue Kette bestellen", "kette ölen", language="de") == "neue Kette bestellen"

    def test_no_half_sentence(self) -> None:
        """A task that is short enough is preferred to one that would have to be cut."""
        long = "reply to the tax office letter about the missing page"
        assert self.label(long, "find last year's tax notice") == "find last year's tax notice"
        assert self.label(long) == short(long)
