"""Properties of a text: its visible characters and its plain words."""

from __future__ import annotations

from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tips.texts import plain_words, visible_text

INVISIBLE = {
    "zero-width space": "\u200b",
    "zero-width joiner": "\u200d",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "soft hyphen": "\u00ad",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "right-to-left mark": "\u200f",
    "null": "\0",
    "escape": "\x1b",
    "delete": "\x7f",
    "tag letter": "\U000e0041",
    "variation selector": "\ufe0f",
    "one of 240 more": "\U000e0123",
    "Hangul filler": "\u3164",
    "blank braille": "\u2800",
    "grapheme joiner": "\u034f",
    "private use": "\ue000",
    "unassigned": "\u0378",
}


@pytest.mark.parametrize("character", INVISIBLE.values(), ids=INVISIBLE)
def test_invisible(character: str) -> None:
    """Invisible characters are removed without a gap in the word around them."""
    assert visible_text(f"mi{character}lk and b{character}read") == "milk and bread"


@pytest.mark.parametrize(
    "space", ["\n", "\r\n", "\t", "\v", "\x1d", "\x85", "\u2028", "\u2029", "\u00a0", "\u202f", "  "]
)
def test_one_line(space: str) -> None:
    """Line breaks and any other whitespace become single blanks; the ends have none."""
    assert visible_text(f"{space}milk{space}bread{space}") == "milk bread"


@pytest.mark.parametrize("text", ["می‌خواهم", "क्‍ष", "Grüße, señor!", "今日は", "naïve cafe\u0301", "👩 💻"])
def test_visible(text: str) -> None:
    """Text in any script is unchanged, with the joiners that Persian and the scripts of India need."""
    assert visible_text(text) == text


@given(st.text())
def test_any_text(text: str) -> None:
    """The visible text of any text is one line without control characters, and its own visible text."""
    seen = visible_text(text)
    assert len(seen.splitlines()) <= 1
    assert not [each for each in seen if category(each)[0] == "C" and each not in "\u200c\u200d"]
    assert visible_text(seen) == seen


@pytest.mark.parametrize(
    "disguised",
    [
        "BUY milk!",
        "b\u200buy milk",
        "Buy  milk",
        "ｂｕｙ ｍｉｌｋ",
        "búy mìlk",
        "𝐛𝐮𝐲 𝖒𝖎𝖑𝖐",
        "вυу mіlк",
        "“buy”, milk…",
        "b'uy milk",
    ],
)
def test_disguised_words(disguised: str) -> None:
    """Case, width, accents, punctuation, invisible characters and look-alike letters do not change a word."""
    assert plain_words(disguised) == ["buy", "milk"]


@pytest.mark.parametrize(
    ("text", "n"),
    [("don't forget", 2), ("किताब पढ़ना", 2), ("لِلْبَيْتِ غدا", 2), ("책을 읽기", 2), ("牛乳を買う", 5), ("... !", 0)],
)
def test_words_of_scripts(text: str, n: int) -> None:
    """Vowel signs and apostrophes do not split a word; in scripts without spaces each letter is a word."""
    assert len(plain_words(text)) == n
