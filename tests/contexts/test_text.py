"""Texts that are safe and plain to print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contexts.text import counted, plain, quoted


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
