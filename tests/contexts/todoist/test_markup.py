"""Texts of Todoist: escapes, characters, Markdown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.todoist.markup import clean_text, plain_text


@pytest.mark.parametrize(
    ("dirty", "plain"),
    [
        ("nul\x00byte", "nul byte"),
        ("bell\x07 escape\x1b[31m", "bell  escape [31m"),
        ("delete\x7f", "delete "),
        ("lone \ud83d surrogate", "lone ? surrogate"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("family 👨‍👩‍👧 🇩🇪 ❤️", "family 👨‍👩‍👧 🇩🇪 ❤️"),
        ("קנה חלב \u200fב-5 ₪", "קנה חלב ב-5 ₪"),
        ("pay \u202egnp.exe\u202c", "pay gnp.exe"),
        ("\ufeffsoft\u00adhyphen\u2066x\u2069", "softhyphenx"),
        ("क्‍ष می‌خواهم", "क्‍ष می‌خواهم"),
        ("اشترِ الحليب", "اشترِ الحليب"),
    ],
)
def test_characters(dirty: str, plain: str) -> None:
    """Control characters are replaced and directional marks removed; emoji and right-to-left text are unchanged."""
    assert clean_text(dirty) == plain


@given(st.text(st.characters(exclude_categories=())))
@settings(max_examples=100, deadline=None)
def test_any_text_can_be_stored(text: str) -> None:
    """A clean text can be encoded and has no control characters; cleaning it again changes nothing."""
    cleaned = clean_text(text)
    assert cleaned.encode().decode() == cleaned
    assert "\x00" not in cleaned
    assert not [each for each in cleaned if ord(each) < 32 and each not in "\t\n"]
    assert clean_text(cleaned) == cleaned


@pytest.mark.parametrize("control", ["\x80", "\x85", "\x9b", "\x9f"], ids=ascii)
def test_control_characters_beyond_ascii(control: str) -> None:
    """Control characters beyond ASCII, such as the terminal's CSI, are replaced as well."""
    assert not [each for each in clean_text(f"a{control}b") if unicodedata.category(each) == "Cc"]


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        ("Q&amp;A", "Q&A"),
        ("https:&#x2F;&#x2F;example.com&#47;a", "https://example.com/a"),
        ("&amp;amp;lt;b&amp;gt;", "<b>"),
        ("R&D, AT&T &copy=2 &nosuch;", "R&D, AT&T &copy=2 &nosuch;"),
        ("Smith &ltd; tips&regeln; &Eacute;", "Smith &ltd; tips&regeln; É"),
        ("a&#0;b&#x202E;c&#10;d", "a\ufffdbc\nd"),
        ("&#9999999; &#xfffffff;", "\ufffd &#xfffffff;"),
    ],
)
def test_escapes(escaped: str, text: str) -> None:
    """HTML escapes are undone, also those of escaped escapes; what they hid is cleaned like the rest."""
    assert clean_text(escaped) == text


@pytest.mark.parametrize("value", [None, 5, ["a"], {"a": "b"}, True])
def test_no_text(value: object) -> None:
    """A value that is no text gives an empty text."""
    assert clean_text(value) == ""


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("Call **Ann** about `tax`", "Call Ann about tax"),
        ("See [the page](https://x.org/a_b?c)", "See the page"),
        ("[a [nested] b](https://x.org/y(z)) and [c](u)", "a [nested] b and c"),
        ('[titled](https://x.org "a title")', "titled"),
        ("![image](https://x.org/i.png) of it", "image of it"),
        ("[run](javascript:alert(1))", "run"),
        ("[not a link](two words) [x]", "[not a link](two words) [x]"),
        ("~~old~~ __new__", "old new"),
        ("  two   blanks\n and\ttabs ", "two blanks and tabs"),
    ],
)
def test_markdown(markdown: str, text: str) -> None:
    """A text loses its marks and the targets of its links, and keeps all words."""
    assert plain_text(markdown) == text


@pytest.mark.parametrize("part", ["[", "[a](", "![", "](", "[](", "\\["])
def test_hostile_markdown(part: str) -> None:
    """A text of many thousand brackets is read like any other, up to a limit."""
    assert len(plain_text(part * 100_000)) <= 2000


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_plain_text_of_any_text(text: str) -> None:
    """Any text becomes a single line that is not longer."""
    plain = plain_text(text)
    assert plain == " ".join(plain.split())
    assert len(plain) <= len(text)
