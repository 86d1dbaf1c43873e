"""Properties of a text: its visible characters, its plain words, and the links and markup in it."""

from __future__ import annotations

from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tips.texts import has_links_or_markup, plain_words, visible_text

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

LINKS_AND_MARKUP = [
    "see http://evil.example/x",
    "see https:evil",
    "see HXXPS://evil",
    "ftp://evil",
    "see //evil/x",
    "www.evil",
    "go to evil.example",
    "go to EVIL.COM now",
    "bit.ly/3xYz",
    "evil.shop",
    "пример.рф",
    "例え.jp",
    "münchen.de",
    "evil\uff0ecom",
    "evil\u2024com",
    "evil。com",
    "evil\u200b.com",
    "evil dot com",
    "evil . com",
    "evil (dot) com",
    "evil[.]com",
    "evil (.) com",
    "192.168.0.1",
    "bob@evil",
    "bob\uff20evil",
    "bob (at) evil",
    "mailto:bob",
    "javascript:alert(1)",
    "data:text/html,x",
    "tel:112",
    "call +49 30 1234567",
    "call 0800 123 456 7",
    "call 555-0123-44",
    "call (030) 12 34 56 78",
    "call 06.12.34.56.78",
    "call 0049/30/123456",
    "call 2026-555-1234",
    "call ５５５０１２３４",
    "call ٠٥٥١٢٣٤٥٦٧",
    "send to bc1qar0srrr7xfkvy5l643",
    "[read more](evil)",
    "<b>now</b>",
    "＜b＞now",
    "&lt;b&gt;",
    "**now**",
    "*now*",
    "_now_",
    "__now__",
    "~~now~~",
    "`now`",
    "# Now",
    "#now",
    "{now}",
    "[now]",
    "now | then",
    "back\\slash",
]

ORDINARY = [
    "Call at 10:30, not at 10.30 p.m.",
    "From 9:00-17:30, or 10.30-11.45 Uhr.",
    "Half past 9 (or 10) is fine.",
    "3 tasks, 2/3 done, 75 % to go.",
    "Due 2026-11-24, 24.12.2026, 24/12/2026 or 12/24/2026.",
    "On 2026/11/24 at 10:30.",
    "The plan for 2026/2027, or 2026-27.",
    "1,500 € or 1.500 € or $20?",
    "That is 10 000 steps.",
    "24/7, 9-5, 50-60 minutes, 1-2-3.",
    "z.B. heute, d.h. jetzt, u.a. auch usw.",
    "E.g. now, i.e. today; a.k.a. soon...",
    "Wait…then go on.",
    "Don't stop – it's your friend's idea: go!",
    "“Later” isn't ‘never’; «maintenant» ou jamais ?",
    "Kolleg*innen und Kolleg:innen fragen.",
    "Make it your #1, then #2.",
    "Rock & roll, this and/or that.",
    "Ph.D., U.S., e.V. and St. Gallen.",
    "Dr. Miller: ask him (today).",
    "Ready? Set! Go.",
    "+10 minutes, -5 °C, 2 × 3 = 6",
    "提示：今天先做一件事。然后休息。",
    "「今日」やる。次に休む！",
    "ابدأ بمهمة واحدة الآن، ثم استرح.",
    "आज एक काम चुनें। फिर आराम करें।",
]


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


@pytest.mark.parametrize("text", LINKS_AND_MARKUP)
def test_links_and_markup(text: str) -> None:
    """Links, addresses, telephone numbers, codes and markup are found, common disguises included."""
    assert has_links_or_markup(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary(text: str) -> None:
    """Dates, times, amounts, abbreviations and ordinary punctuation are not taken for links or markup."""
    assert not has_links_or_markup(text)
