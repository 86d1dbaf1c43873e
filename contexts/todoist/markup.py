"""Texts of Todoist without escapes, invisible characters and Markdown. Pure."""

from __future__ import annotations

import html
import re
from functools import cache
from html.entities import html5
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

HEADER_MARK = "* "
"""The beginning of an item that is a header: Todoist gives it no checkbox, so it cannot be completed."""

_MAX_PARSED_CHARS = 2000
"""Number of characters of a text that are read; Todoist allows 500 in a title and 16,383 in a description."""

_MAX_ESCAPES = 3
"""Number of times that a text can have been escaped: `&amp;amp;` is an escaped `&amp;`."""

_ESCAPE = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Directional marks and other characters without a glyph; joiners stay, which belong to emoji and to letters."""

_MARKS = re.compile(r"\*\*|__|~~|`")


def clean_text(value: object) -> str:
    """Return a text without HTML escapes, directional marks, control characters and lone surrogates.

    Postgres, Arrow or a prompt cannot hold the last two. A value that is not a text gives an empty text.
    """
    text = value if isinstance(value, str) else ""
    if "&" in text:
        text = _unescape(text)
    if not text.isascii():
        text = _INVISIBLE.sub("", text).encode("utf-8", "replace").decode()
    return _CONTROL.sub(" ", text)


def plain_text(markdown: str) -> str:
    """Return a text on one line without Markdown: of a link only its words stay, not its target."""
    text = markdown[:_MAX_PARSED_CHARS]
    if "](" in text:
        text = "".join(_words(_parser().parseInline(text)))
    return " ".join(_MARKS.sub("", text).split())


def _unescape(text: str) -> str:
    for _ in range(_MAX_ESCAPES):
        unescaped = _ESCAPE.sub(_character, text)
        if unescaped == text:
            break
        text = unescaped
    return text


def _character(escape: re.Match[str]) -> str:
    """Return the character of an escape; an unknown name stays, even if it begins with a known one, as `&ltd;`."""
    text = escape[0]
    return html.unescape(text) if text[1] == "#" else html5.get(text[1:], text)


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt  # only texts with a link need it

    parser = MarkdownIt("zero").enable(["link", "image", "escape"])
    parser.validateLink = lambda url: True  # type: ignore[method-assign]  # the target is dropped, whatever it is
    return parser


def _words(tokens: list[Token]) -> list[str]:
    """Return the texts of tokens; links are pairs of tokens without a text around the words."""
    return [text for token in tokens for text in (_words(token.children) if token.children else [_word(token)])]


def _word(token: Token) -> str:
    return "\n" if token.type in ("softbreak", "hardbreak") else token.content
