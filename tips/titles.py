"""The title of a task inside a sentence: shortened, isolated and in quotation marks. Pure."""

from __future__ import annotations

from contexts.assembly.model import TaskView
from contexts.text import plain, truncate
from tips.languages import ENGLISH, LANGUAGES, primary_language, quotation_marks, translations

MAX_QUOTED_CHARS = 60
"""The maximum length of a title in a sentence; a longer one ends with an ellipsis."""

_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"
"""First strong isolate and its end: the title's direction of writing does not change that of the sentence."""

_UNTITLED = "…"


def quoted_title(view: TaskView, language: str) -> str:
    """The title of a task as a sentence in a language quotes it."""
    title = truncate(plain(view.title), MAX_QUOTED_CHARS) or _UNTITLED
    return _quoted(title, language)


def neutral_title(language: str) -> str:
    """A noun phrase for a task whose title may be somebody else's, for texts without marks."""
    if primary_language(language) in LANGUAGES or not language:
        return translations(language or ENGLISH).gettext("one of your shared tasks")
    return _quoted(_UNTITLED, language)


def _quoted(title: str, language: str) -> str:
    opening, closing = quotation_marks(language)
    return f"{opening}{_ISOLATE}{title}{_POP_ISOLATE}{closing}"
