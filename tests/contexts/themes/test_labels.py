"""Labels of themes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.themes.labels import MAX_LABEL_CHARS, ThemeTasks, label_themes, main_project, shorten


def theme(*texts: str, projects: Sequence[str | None] = (), step: float = 0.02) -> ThemeTasks:
    """Return a theme of texts with decreasing centrality; all in no project, unless projects are given."""
    centrality = np.array([0.5 - step * n for n in range(len(texts))], np.float32)
    return ThemeTasks(texts, centrality, projects or [None] * len(texts))


def labels(*themes: ThemeTasks, others: Sequence[str] = (), language: str = "en") -> list[str]:
    return label_themes(themes, [*others, *(text for each in themes for text in each.texts)], language)


class TestProjects:
    def test_most_tasks_in_one_project(self) -> None:
        """A theme is called by the project of more than half of its tasks."""
        assert labels(theme("flour", "sugar", "paint", projects=["Cake", "Cake", "Flat"])) == ["Cake"]
        assert labels(theme("flour", "paint", projects=["Cake", "Flat"])) == ["flour"]

    @pytest.mark.parametrize("inbox", ["Inbox", "Eingang", "インボックス", "  INBOX "])
    def test_inbox(self, inbox: str) -> None:
        """The inbox names no theme."""
        assert labels(theme("buy flour", "buy sugar", projects=[inbox] * 2)) == ["buy flour"]

    def test_unknown_projects(self) -> None:
        """A project that others may have named is not known here, and names nothing."""
        assert main_project(theme("a", "b", "c", projects=[None, None, "Cake"])) is None

    def test_several_themes_in_a_project(self) -> None:
        """Themes of one project are told apart by a phrase of their tasks in it."""
        first = theme("order the cake", "taste the cake", "call mum", projects=["Wedding", "Wedding", None])
        second = theme("choose flowers", "fresh flowers", projects=["Wedding"] * 2)
        assert labels(first, second) == ["Wedding: cake", "Wedding: flowers"]

    def test_long_names(self) -> None:
        """A long project name is cut, and stays on one line."""
        name = "everything that has to be done\nbefore we can move into the new flat"
        assert labels(theme("a", "b", projects=[name] * 2)) == ["everything that has to be done before we can…"]


class TestPhrases:
    def test_shared_words(self) -> None:
        """Words that several tasks share name the theme better than its most central task."""
        texts = "find last year's form", "send the tax return", "tax return: ask about the deadline"
        assert labels(theme(*texts)) == ["tax return"]

    def test_words_of_other_tasks(self) -> None:
        """A word that tasks outside of the theme have, too, says little about it."""
        others = ["call the plumber", "call the bank", "call the school", "call about the car"]
        assert labels(theme("call the dentist", "call about teeth"), others=others) == ["call the dentist"]

    def test_short_title(self) -> None:
        """Without shared words the title of the most central task is the label if it is short."""
        assert labels(theme("sort receipts", "bank statement")) == ["sort receipts"]

    def test_long_title(self) -> None:
        """Of a long task only a phrase of two or three words becomes a label."""
        text = "reply to the tax office letter about the missing page"
        assert labels(theme(text, "find a stamp", step=0.2)) == ["tax office letter"]

    def test_names_of_people(self) -> None:
        """A task without a person's name is preferred if it is nearly as central."""
        assert labels(theme("ask Priya again", "update the cv")) == ["update the cv"]
        assert labels(theme("neue Kette bestellen", "öl kaufen"), language="de") == ["neue Kette bestellen"]

    @pytest.mark.parametrize(
        ("language", "texts", "label"),
        [
            ("de", ["Termin beim Zahnarzt machen", "Zahnarzt anrufen wegen Dienstag"], "Zahnarzt"),
            ("es", ["llamar a mamá por lo del audífono", "revisar con mamá las cartas del banco"], "mamá"),
            ("ja", ["2014年の重複写真を消して整理", "スマホの写真をパソコンに移してから消す", "写真"], "写真"),
            ("ar", ["حجز موعد عند طبيب الأسنان يوم الخميس", "إلغاء موعد الخميس عند طبيب الأسنان"], "طبيب الأسنان"),
        ],
    )
    def test_languages(self, language: str, texts: list[str], label: str) -> None:
        """A label is in the language of the tasks, also in one without blanks."""
        assert labels(theme(*texts), language=language) == [label]

    def test_as_written(self) -> None:
        """A label is written as in a task."""
        texts = "renew the BahnCard for Lyon", "the BahnCard is in the drawer of the desk"
        assert labels(theme(*texts)) == ["BahnCard"]


class TestLabels:
    def test_no_two_look_alike(self) -> None:
        """Themes of the same tasks have different labels, also if only the order of words or an ending differs."""
        found = labels(theme("oat milk", "bread"), theme("milk oats", "rice"), theme("oat milk", "bread"))
        assert len(set(found)) == 3
        assert not {"milk oats", "oat milk"} <= set(found)

    def test_no_themes(self) -> None:
        """A user without themes has no labels."""
        assert labels() == []

    @settings(max_examples=100, deadline=None)
    @given(
        texts=st.lists(
            st.lists(
                st.text(max_size=60) | st.sampled_from(["milk", "oat milk", "🧹", "牛乳を買う"]),
                min_size=2,
                max_size=5,
            ),
            max_size=5,
        ),
        project=st.none() | st.text(max_size=60),
        language=st.sampled_from(["en", "de", "ja", "ar", "", "xx"]),
    )
    def test_any_texts(self, texts: list[list[str]], project: Any, language: str) -> None:
        """Labels are short, no two are equal, and only one of empty texts may be empty."""
        themes = [theme(*each, projects=[project] * len(each)) for each in texts]
        found = labels(*themes, language=language)
        assert len(found) == len(themes)
        assert all(len(label) <= MAX_LABEL_CHARS for label in found)
        assert len({label for label in found if label}) == len([label for label in found if label])


class TestShorten:
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
        """A text is cut after its first meaningful part, and punctuation at its ends is removed."""
        assert shorten(text) == label

    @pytest.mark.parametrize("sign", "!.( -")
    def test_punctuation_only(self, sign: str) -> None:
        """A hundred thousand punctuation characters are shortened as quickly as any text."""
        assert len(shorten(sign * 100_000)) <= MAX_LABEL_CHARS

    @given(text=st.text(max_size=200))
    def test_any_text(self, text: str) -> None:
        """No label exceeds the maximum length, and only the label of an empty text is empty."""
        assert len(shorten(text)) <= MAX_LABEL_CHARS
        assert bool(shorten(text)) == bool(text)

    def test_long_texts_are_cut_between_words(self) -> None:
        """A long text without separators is cut after a whole word and ends with an ellipsis."""
        text = "reply to the tax office letter about the missing page"
        assert shorten(text) == "reply to the tax office letter about the…"
