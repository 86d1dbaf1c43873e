"""Texts for people: one line, safe to print, cut between graphemes, without addresses. Pure."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from rich.cells import cell_len

if TYPE_CHECKING:
    import regex

_JOINERS = "\u200c\u200d"
"""Invisible characters that belong to the text around them, as in an emoji of several parts."""

_WORD_START = r"(?<![^\W\u0e00-\u0e7f\u3040-\u9fff])"
"""No letter or digit before, except for Thai, Japanese and Chinese, which have no blanks between words."""

_ADDRESS = re.compile(
    rf"{_WORD_START}(?:[a-z][a-z0-9+.-]{{1,20}}://\S+|www\.\S+|(?:[a-z0-9-]{{1,63}}\.){{1,8}}[a-z]{{2,24}}/\S*)"
    r"|(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}",
    re.IGNORECASE,
)
"""A URL, a host with a path, or an e-mail address."""


def plain(text: str) -> str:
    """Return a text on one line, without control characters and other characters that a terminal cannot show."""
    printable = (character if character.isprintable() or character in _JOINERS else " " for character in text)
    return " ".join("".join(printable).split())


def quoted(text: str) -> str:
    """Return a user's text in quotes, safe to print."""
    return f"'{plain(text)}'"


def counted(n: int, noun: str, format_spec: str = "") -> str:
    """Return a number with its noun, in the plural unless the number is one; `","` separates thousands."""
    return f"{n:{format_spec}} {noun}" if n == 1 else f"{n:{format_spec}} {noun}s"


def cut(text: str, max_chars: int) -> str:
    """Return the first `max_chars` characters at most, and no part of a grapheme.

    A grapheme is what a reader takes for one character: an emoji of several parts, a letter with its accents. Only a
    first grapheme that is longer than `max_chars` is cut itself.
    """
    if len(text) <= max_chars:
        return text
    end = 0
    for grapheme in _grapheme().finditer(text):
        if grapheme.end() > max_chars:
            break
        end = grapheme.end()
    return text[: end or max_chars]


@cache
def _grapheme() -> regex.Pattern[str]:
    import regex  # only long texts need it

    return regex.compile(r"\X")


def truncate(text: str, max_chars: int) -> str:
    """Return a text on one line of at most `max_chars` characters; a longer text ends with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= max_chars else cut(line, max_chars - 1).rstrip() + "…"


def width(text: str) -> int:
    """Return the length of a text, in which a Chinese, Japanese or Korean character is as wide as two letters."""
    return len(text) if text.isascii() else max(len(text), cell_len(text))


def without_addresses(text: str) -> str:
    """Return a text without URLs and e-mail addresses, which are no words."""
    may_have_address = "/" in text or "@" in text or "www." in text.lower()
    return _ADDRESS.sub(" ", text) if may_have_address else text
