"""Labels of themes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.themes.corpus import read_corpus
from contexts.themes.labels import MAX_LABEL_CHARS, label_themes, shorten
from contexts.themes.phrases import find_phrases
from contexts.themes.themed import ThemedTasks


@dataclass(frozen=True)
class Theme:
    """The texts of a theme, the most central first, with their projects. step: from one centrality to the next."""

    texts: Sequence[str]
    projects: Sequence[str]
    step: float


def theme(*texts: str, projects: Sequence[str] = (), step: float = 0.02) -> Theme:
    """Return a theme whose tasks are in no project, unless projects are given."""
    return Theme(texts, projects or [""] * len(texts), step)


def labels(*themes: Theme, others: Sequence[str] = (), language: str = "en") -> list[str | None]:
    """Return the labels of one user's themes. others: texts of tasks without a theme."""
    return labels_of_users([(themes, others)], [language])[0]


def labels_of_users(
    users: Sequence[tuple[Sequence[Theme], Sequence[str]]], languages: Sequence[str]
) -> list[list[str | None]]:
    """Return the labels of all themes of each user."""
    rows: list[tuple[int, int, str, float, str]] = []
    n_themes = 0
    for user, (themes, others) in enumerate(users):
        for each in themes:
            spots = zip(each.texts, each.projects, strict=True)
            rows += [(user, n_themes, text, 0.5 - each.step * n, project) for n, (text, project) in enumerate(spots)]
            n_themes += 1
        rows += [(user, -1, text, 0.0, "") for text in others]
    projects = list(dict.fromkeys(" ".join(project.split()) for *_, project in rows))
    tasks = ThemedTasks(
        user=np.array([row[0] for row in rows], np.int64),
        theme=np.array([row[1] for row in rows], np.int64),
        text=np.arange(len(rows)),
        centrality=np.array([row[3] for row in rows], np.float32),
        project=np.array([projects.index(" ".join(row[4].split())) for row in rows], np.int64),
        projects=projects,
        languages=languages,
    )
    corpus = read_corpus([row[2] for row in rows], [languages[row[0]] for row in rows])
    found = iter(label_themes(tasks, find_phrases(corpus)))
    return [list(islice(found, len(themes))) for themes, _ in users]


class TestProjects:
    def test_most_tasks_in_one_project(self) -> None:
        """A theme is called by the project of more than half of its tasks."""
        assert labels(theme("flour", "sugar", "paint", projects=["Cake", "Cake", "Flat"])) == ["Cake"]
        assert labels(theme("flour", "paint", projects=["Cake", "Flat"])) == ["flour, paint"]

    @pytest.mark.parametrize("inbox", ["Inbox", "Eingang", "インボックス", "  INBOX "])
    def test_inbox(self, inbox: str) -> None:
        """The inbox names no theme."""
        assert labels(theme("buy flour", "buy sugar", projects=[inbox] * 2)) == ["flour, sugar"]

    def test_several_themes_in_a_project(self) -> None:
        """Themes of one project are told apart by a phrase of their tasks in it."""
        first = theme("order the cake", "taste the cake", "call mum", projects=["Wedding", "Wedding", ""])
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
        """A phrase that tasks outside of the theme have, too, says little about it."""
        texts = ["garden shed with a wooden door", "roof of the wooden garden shed", "nails"]
        assert labels(theme(*texts, step=0), others=["sell the garden shed"] * 5) == ["wooden"]
        assert labels(theme(*texts, step=0)) == ["garden shed"]

    def test_two_phrases(self) -> None:
        """Without shared words, phrases of the two most central tasks name the theme."""
        assert labels(theme("sort receipts", "bank statement", "stamps")) == ["sort receipts, bank statement"]

    def test_words_of_few_tasks(self) -> None:
        """A single word names a theme only if a third of its tasks have it."""
        others = ["rough mixes", "offline maps", "phone photos", "drum skins", "travel insurance"]
        assert labels(theme("a folder for the mixes", "the folder of 2014", *others[:2])) == ["folder"]
        assert labels(theme("a folder for the mixes", "the folder of 2014", *others)) == ["rough mixes, offline maps"]

    @pytest.mark.parametrize(
        ("language", "texts"),
        [
            ("en", ["clean the kitchen", "clean the backyard"]),
            ("en", ["ring mum on monday", "bank, monday"]),
            ("en", ["new hammock", "a new printer"]),
            ("de", ["Reifen wechseln", "Birne wechseln"]),
        ],
    )
    def test_words_that_say_little(self, language: str, texts: list[str]) -> None:
        """No theme is called by a verb alone, a day alone, or a word that fits any thing."""
        (label,) = labels(theme(*texts), language=language)
        assert ", " in str(label)

    def test_long_text(self) -> None:
        """Of a long task only a phrase of two or three words becomes part of a label."""
        text = "reply to the tax office letter about the missing page"
        assert labels(theme(text, "find a stamp", step=0.2)) == ["tax office letter, stamp"]

    def test_wide_letters(self) -> None:
        """Chinese and Japanese letters count twice: a label has half as many, and no title of more than 14."""
        first, second = "买面包和黄油和很多水果", "给爸爸妈妈打电话问生日"
        assert labels(theme(first, second), language="zh_CN") == [f"{first}、{second}"]
        assert labels(theme(first + "吃吃", second + "快乐"), language="zh_CN") == [first + "吃吃"]
        assert labels(theme("ネットの開通工事を予約してもらう", "段ボール"), language="ja") == ["段ボール、ネット"]

    def test_one_word_of_many(self) -> None:
        """A single word of a long task names a theme worse than a short task that is nearly as central."""
        assert labels(theme("apply here before it closes", "cover letter", "stamps")) == ["cover letter, stamps"]

    def test_names_of_people(self) -> None:
        """A phrase without a person's name is preferred if its task is nearly as central."""
        assert labels(theme("ask about Priya again", "update the cv", "stamps")) == ["stamps, update the cv"]
        assert labels(theme("die Kette bei Anna", "die Reifen bei Ben"), language="de") == ["Kette, Reifen"]

    def test_a_text_in_a_different_language(self) -> None:
        """The stop words of the language that a text is written in are no part of a label."""
        texts = ["quem leva o amplificador que comprei?", "rough mixes"]
        (label,) = labels(theme(*texts, step=0.01), language="en")
        assert label is not None
        assert not {"o", "que", "quem"} & set(label.replace(",", "").split())

    def test_without_words(self) -> None:
        """A theme of which fewer than two tasks have words has no label."""
        assert labels(theme("🎂🎈", "👩‍👩‍👧", "cake"), theme("milk", "bread")) == [None, "milk, bread"]

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
        project=st.just("") | st.text(max_size=60),
        language=st.sampled_from(["en", "de", "ja", "ar", "", "xx"]),
    )
    def test_any_texts(self, texts: list[list[str]], project: Any, language: str) -> None:
        """Labels are short, none is empty, and no two are equal."""
        themes = [theme(*each, projects=[project] * len(each)) for each in texts]
        found = labels(*themes, language=language)
        assert len(found) == len(themes)
        named = [label for label in found if label is not None]
        assert all(0 < len(label) <= MAX_LABEL_CHARS for label in named)
        assert len(set(named)) == len(named)

    def test_users_are_separate(self) -> None:
        """Two users may have the same label, and the tasks of one do not change the labels of the other."""
        ann = ([theme("milk", "oat milk")], ["sell the milk"])
        alone = labels_of_users([ann], ["en"])[0]
        ben = ([theme("Milch", "Hafermilch"), theme("milk", "oat milk")], [])
        assert labels_of_users([ben, ann, ann], ["de", "en", "en"])[1:] == [alone, alone]


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
            ("milk (oat)", "milk (oat)"),
            ("tea [green]!", "tea [green]"),
            ("卵（10個）", "卵（10個）"),
            ("tea :)", "tea"),
            ("दूध लेना!", "दूध लेना"),
            ("ซื้อยาให้แม่", "ซื้อยาให้แม่"),
            ("น้ำ", "น้ำ"),
            ("call mum", "call mum"),
            ("?!", "?!"),
        ],
    )
    def test_first_part(self, text: str, label: str) -> None:
        """A text is cut after its first meaningful part, without punctuation at its ends but a closing bracket."""
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
