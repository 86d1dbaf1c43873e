"""Texts that are safe and plain to print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contexts.text import counted, cut, plain, quoted, truncate, width, without_addresses


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("Call Bob", "Call Bob"),
        ("  two \n\t lines\r\n", "two lines"),
        ("\x1b[31mred\x07", "[31mred"),
        ("a\u202eb\u2066c\u2028d", "a b c d"),
        ("👩\u200d🚀 می\u200cخواهم", "👩\u200d🚀 می\u200cخواهم"),
        ("zero\u200bwidth", "zero width"),
        ("", ""),
    ],
)
def test_plain(text: str, printed: str) -> None:
    """Control characters, line ends and changes of text direction become spaces; joiners stay."""
    assert plain(text) == printed
    assert quoted(text) == f"'{printed}'"


@given(st.text())
def test_any_text_is_printable(text: str) -> None:
    """Every text becomes one printable line, apart from joiners, and a plain text stays as it is."""
    line = plain(text)
    assert line.replace("\u200c", "").replace("\u200d", "").isprintable()
    assert plain(line) == line


@pytest.mark.parametrize(("n", "phrase"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (1000, "1000 tasks")])
def test_counted(n: int, phrase: str) -> None:
    """The noun is in the plural unless there is exactly one."""
    assert counted(n, "task") == phrase


def test_counted_with_thousands() -> None:
    """A caller can ask for commas between thousands."""
    assert counted(1000, "task", ",") == "1,000 tasks"


FAMILY = "👨\u200d👩\u200d👧"
"""An emoji of five code points."""


@pytest.mark.parametrize(
    ("text", "max_chars", "expected"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "abc"),
        (FAMILY * 3, 12, FAMILY * 2),
        ("ae\u0301b", 2, "a"),
        ("🇩🇪🇺🇳", 3, "🇩🇪"),
        (FAMILY, 3, FAMILY[:3]),
        ("a" + "\u0301" * 1000, 5, "a" + "\u0301" * 4),
        ("", 0, ""),
    ],
)
def test_cut(text: str, max_chars: int, expected: str) -> None:
    """A text is cut between graphemes; only a first grapheme that is too long itself is cut inside."""
    assert cut(text, max_chars) == expected


@given(st.text(), st.integers(1, 20))
def test_truncate(text: str, max_chars: int) -> None:
    """Any text becomes one line of at most the given length, which ends with an ellipsis if something is missing."""
    line = " ".join(text.split())
    short = truncate(text, max_chars)
    assert len(short) <= max_chars
    assert short == line if len(line) <= max_chars else short.endswith("…")


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("read https://example.com/a(b)?c=d#e now", "read now"),
        ("see www.example.com, or docs.example.com/d/1", "see or"),
        ("mail ann.b+c@mail.example.com please", "mail please"),
        ("call app://open/7", "call"),
        ("order at example.com", "order at example.com"),
        ("and/or 1/2 w/o @home 3.5 e.g. 24/7", "and/or 1/2 w/o @home 3.5 e.g. 24/7"),
        ("https://example.com", ""),
        ("Www.example.com and wwW.example.org", "and"),
        ("看https://example.com/a 牛奶, 买www.example.com 茶", "看 牛奶, 买 茶"),
        ("看docs.example.com/d/1 茶", "看 茶"),
    ],
)
def test_without_addresses(text: str, rest: str) -> None:
    """URLs, hosts with a path and e-mail addresses are no words; slashes and at signs of other texts stay."""
    assert " ".join(without_addresses(text).split()) == rest


@pytest.mark.parametrize("part", ["a.", "a@", "a/", "x" * 50, "://", "www.", "a.b/"])
def test_hostile_addresses(part: str) -> None:
    """A text of a hundred thousand parts of addresses takes no longer than other texts of its length."""
    assert isinstance(without_addresses(part * 100_000 + "/@"), str)


@pytest.mark.parametrize(("text", "length"), [("milk", 4), ("牛乳", 4), ("우유 x", 6), ("é", 1), ("น้ำ", 3), ("", 0)])
def test_width(text: str, length: int) -> None:
    """A Chinese, Japanese or Korean character is as wide as two letters, and no other one is shorter than one."""
    assert width(text) == length
