"""The title of a task inside a sentence."""

from __future__ import annotations

import pytest
import regex

from contexts.assembly.model import TaskView
from tips.languages import LANGUAGES
from tips.titles import MAX_QUOTED_CHARS, neutral_title, quoted_title


def quoted(title: str, language: str = "en") -> str:
    return quoted_title(TaskView(id="t", title=title), language)


def test_quoted() -> None:
    """A title stands between isolates, inside the quotation marks of the language."""
    assert quoted("Buy milk") == "“\u2068Buy milk\u2069”"
    assert quoted("Milch kaufen", "de") == "„\u2068Milch kaufen\u2069“"
    assert quoted("اتصل بالبنك") == "“\u2068اتصل بالبنك\u2069”"


@pytest.mark.parametrize("title", ["x\u202ey", "x\u2069y", "x\u2068y", "x\u200fy", "x\ny", "x\u0000y"])
def test_no_way_out(title: str) -> None:
    """A title cannot end its isolate, turn the direction of the sentence or begin a line."""
    assert quoted(title).count("\u2068") == quoted(title).count("\u2069") == 1
    assert quoted(title).strip("“”\u2068\u2069").replace(" ", "") == "xy"


def test_shortened() -> None:
    """A long title is cut between graphemes and ends with an ellipsis."""
    family = "👨‍👩‍👧‍👦"
    made = quoted(family * 40).strip("“”\u2068\u2069")
    assert len(made) <= MAX_QUOTED_CHARS
    assert set(regex.findall(r"\X", made)) == {family, "…"}


@pytest.mark.parametrize("title", ["", " ", "\u200b"])
def test_nothing_to_see(title: str) -> None:
    """A title without a visible character is an ellipsis."""
    assert quoted(title) == "“\u2068…\u2069”"


def test_placeholders_are_text() -> None:
    """A title that looks like a placeholder or a reference is shown as it is."""
    assert quoted("{task} t3 %s {0}") == "“\u2068{task} t3 %s {0}\u2069”"


def test_neutral() -> None:
    """A task of others is a noun phrase in a language with a catalog, and a quoted ellipsis in any other."""
    assert neutral_title("en") == "one of your shared tasks"
    assert neutral_title("es_MX") == "una de tus tareas compartidas"
    assert len({neutral_title(each) for each in LANGUAGES}) == len(LANGUAGES)
    assert neutral_title("pl") == "„\u2068…\u2069”"
