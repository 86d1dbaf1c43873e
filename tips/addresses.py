"""Links, addresses, numbers to call and markup in a text, also if they are disguised or spelled out. Pure.

No such check is complete. A disguise that a person reads at a glance should not pass; an honest sentence has to.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from unicodedata import category, digit, normalize

from tips.texts import LOOKALIKES, visible_text

_ADDRESS = re.compile(
    r"\b(?:https?|hxxps?|ftp|file|data|mailto|tel|sms|javascript|vbscript):(?=\S)|//|\b(?:https?|hxxps?|www)\b|www\."
    r"|@|[\w-]\.[^\W\d_]{2,}|[a-z0-9]\u3002[a-z]{2,}|(?:\d{1,3}\.){3}\d|[\w-]\s?\u2022\s?[a-z]{2,10}\b"
    r"|\w,(?:com|net|org|io)\b|\w\.(?:c0m|n3t|0rg)\b|\(\s*(?:dot|at|\.)\s*\)|\w \u0307",
    re.IGNORECASE,
)
"""A URL scheme, two words with a dot between them, an IP address, and common disguises of these."""

_SPACED_LETTER = r"[^\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]"
"""A letter or digit, but none of a script without blanks, whose sentences are no codes."""

_PHONE_OR_CODE = re.compile(
    r"(?:\d[\s()+./·•_~*=:;'’\-–—−]{0,3}){6,}\d|(?:\d\s?,\s?){6,}\d\b"
    rf"|(?<!{_SPACED_LETTER})(?={_SPACED_LETTER}*\d){_SPACED_LETTER}{{16,}}"
)
"""A telephone number (seven digits with only separators between them) or a code (a long word with a digit)."""

_DATE = r"(?:19|20)\d\d[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.](?:19|20)\d\d|(?:19|20)\d\d[-/–](?:19|20)?\d\d"
_TIME = r"(?:[01]?\d|2[0-4])[.:][0-5]\d"
_DATE_OR_TIME = re.compile(rf"(?<![\d./-])(?:{_DATE}|{_TIME}(?:\s?[-–]\s?{_TIME})?)(?![\d/-]|\.\d)")
"""A date, a pair of years, a time or a span of time: digits that are not a telephone number."""

_MARKUP = re.compile(r"[<>`\[\]{}|\\]|(?<!\w)[*_]|[*_](?!\w)|\*\*|__|~~|==|#(?!\d)|&#?\w+;")

_SPELLED = re.compile(r"(?<![^\s(])[^\W_](?:(?: ?[-_~'*.@:/] ?| )[^\W_]){2,}(?![^\W_])")
"""Single characters with blanks or signs between them: `e v i l . c o m`, `e-v-i-l`."""

_DOTTED = re.compile(r"(?<!\w)(?:[^\W\d_][.,]\s?){3,}(?:c[.,]\s?o[.,]\s?m|n[.,]\s?e[.,]\s?t|o[.,]\s?r[.,]\s?g)(?!\w)")
_DIGIT_LETTERS = str.maketrans("oOlIiSsBzZ|", "00111558221")
_DISGUISED_NUMBER = re.compile(r"(?<!\w)(?:(?:(?=[oOlIiSsBzZ|]*\d)[\doOlIiSsBzZ|]++|[OI])[\s()+./-]{0,3})+(?!\w)")
"""Digits, some of which are letters that look like digits, in groups as of a telephone number.

A run is matched as a whole (`++`): otherwise the time grows exponentially with its length."""

_LETTER = re.compile(r"[^\W\d_]")
_MIN_DIGITS = 7
_MIN_TRUE_DIGITS = 4
_MIN_NUMBER_WORDS = 6

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2027\u2219\u22c5", "•"),
        **dict.fromkeys("\u30fb\u2e31\u2e33\u06d4", "·"),
        **dict.fromkeys("\ua789\u02d0\u2236\u05c3", ":"),
        **dict.fromkeys("\u2044\u2215\u29f8\u27cb", "/"),
        **dict.fromkeys("\u201a\u060c\u3001", ","),
        **dict.fromkeys("\u2010\u2011\u2012\u2015\u2212", "-"),
        **dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnoprstuvwyz", strict=True)),
        **{chr(0x2680 + n): str(n + 1) for n in range(6)},  # dice
        **{chr(first + n): chr(ord("a") + n) for first in (0x1F150, 0x1F170, 0x1F1E6) for n in range(26)},
    }
)
"""Signs and letters that look like others, although Unicode does not call them compatible."""


def has_links_or_markup(text: str) -> bool:
    """Whether a text holds a link, an address, a telephone number, a code or markup, common disguises included."""
    compatible = normalize("NFKC", visible_text(text))
    if _MARKUP.search(_DATE_OR_TIME.sub("", compatible)):
        return True
    forms = _undisguised(compatible)
    return any(_has_address(form) or _has_number(form) for form in forms)


def _undisguised(text: str) -> Iterable[str]:
    """The forms in which an address or a number may be recognised: with usual signs, and with Latin letters only."""
    usual = "".join(map(_usual, text)).translate(_SIGNS)
    joined = _SPELLED.sub(lambda match: re.sub(r"[\s\-_~'*]", "", match[0]), usual)
    latin = joined.casefold().translate(LOOKALIKES)
    return dict.fromkeys((usual, joined, latin))


def _usual(character: str) -> str:
    """A character, with a digit of any script, circled or not, as that of ASCII, and without an enclosing mark."""
    value = None if character.isascii() else digit(character, None)
    if value is not None:
        return str(value)
    return "" if category(character) == "Me" else character


def _has_address(text: str) -> bool:
    without_dates = _DATE_OR_TIME.sub("", text)
    patterns = (_ADDRESS, _DOTTED, _SPELLED_ADDRESS, _SPELLED_MAIL)
    return any(pattern.search(without_dates) for pattern in patterns)


def _has_number(text: str) -> bool:
    without_dates = _DATE_OR_TIME.sub("", text)
    spelled = _SPELLED_NUMBER.finditer(without_dates.casefold())
    if _PHONE_OR_CODE.search(without_dates) or any(_LETTER.search(match[0]) for match in spelled):
        return True
    return any(_is_number(match[0]) for match in _DISGUISED_NUMBER.finditer(without_dates))


def _is_number(text: str) -> bool:
    n_digits = sum(character.isdigit() for character in text.translate(_DIGIT_LETTERS))
    return n_digits >= _MIN_DIGITS and sum(map(str.isdigit, text)) >= _MIN_TRUE_DIGITS


def _words(section: str) -> str:
    """The alternatives of a section of the file, the longest first, as one group."""
    words = {word for words in _FILE[section].values() for word in words}
    return f"(?:{'|'.join(sorted(map(re.escape, words), key=lambda word: (-len(word), word)))})"


_FILE = tomllib.loads((Path(__file__).parent / "address_words.toml").read_text("utf-8"))
_UNSPACED = "[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]"
_UNSPACED_OR_KOREAN = "[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_START = rf"(?:(?<![^\W\d_])|(?<={_UNSPACED_OR_KOREAN})|(?={_UNSPACED_OR_KOREAN}))"
_END = rf"(?:(?![^\W\d_])|(?={_UNSPACED_OR_KOREAN}))"
_GAP = r"[\s\-_.,()'\"“”‘’•·:]"
_LINK_GAP = r"[\s\-_–—()'\"“”‘’•·]"
"""Signs inside a spelled address: none that ends a sentence or a part of one."""

_SPELLED_ADDRESS = re.compile(
    rf"{_START}{_words('dot')}{_LINK_GAP}{{0,3}}{_words('ending')}{_END}|[^\W_]dot(?:com|net|org)\b"
    rf"|\b(?:dot|d0t){_LINK_GAP}{{1,3}}(?!(?:it|is|in|at|me|my|us|so|to|as|be|by|am|no|do|if|or|on|an|of|up|we|he)\b)[a-z]{{2}}\b"
    rf"|\w(?: \.| ?[•·])\s?{_words('ending')}{_END}|\w['\"“”‘’]\.['\"“”‘’]\w",
    re.IGNORECASE,
)
_SPELLED_MAIL = re.compile(rf"{_START}{_words('at')}{_END}{_GAP}+\w+{_GAP}+{_words('dot')}{_GAP}+\w\w", re.IGNORECASE)

_NUMBER_WORD = _words("number")
_NUMBER_END = rf"(?:(?![^\W\d_]){_GAP}{{1,3}}|(?<={_UNSPACED}){_GAP}{{0,3}})"
_SPELLED_NUMBER = re.compile(
    rf"{_START}(?:(?:{_NUMBER_WORD}|(?<!\w)\d{{1,2}}(?!\w)){_NUMBER_END}){{{_MIN_NUMBER_WORDS - 1},}}"
    rf"(?:{_NUMBER_WORD}|\d{{1,2}}(?!\w))"
)
