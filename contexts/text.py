"""Words and texts for sentences that people read on a terminal. Pure."""

from __future__ import annotations

_JOINERS = "\u200c\u200d"
"""Invisible characters that belong to the text around them, as in an emoji of several parts."""


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
