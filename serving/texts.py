"""What a text holds: what can be seen of it, its words, and what is more than words. Pure."""

from __future__ import annotations

import re
from unicodedata import category, normalize

_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks that show nothing; Unicode calls most of them default ignorable."""

_JOINERS = re.compile("(?<=[\u0600-\u0dff])[\u200c\u200d](?=[\u0600-\u0dff])")
"""Zero-width characters where Persian and the scripts of India need them: between two letters."""

_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
"""Letters of scripts that put no space between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""

_LOOKALIKES = str.maketrans("аеорсухіјѕԁԛԝһкмтвнαορυνκτχι", "aeopcyxijsdqwhkmtbhaopuvktxi")
"""Letters of Cyrillic and Greek that pass for Latin ones."""

_ADDRESS = re.compile(
    r"\b(?:https?|hxxps?|ftp|file|data|mailto|tel|sms|javascript|vbscript):(?=\S)|//|www\.|@"
    r"|[\w-]\.[^\W\d_]{2,}|[a-z0-9]\u3002[a-z]{2,}|(?:\d{1,3}\.){3}\d"
    r"|\bd[o0]t\s+[a-z]{2,10}\b|[\w-]\s?[\u2022\u2027\u2219\u22c5]\s?[a-z]{2,10}\b|\w,(?:com|net|org|io)\b"
    r"| \.\s?(?:com|net|org|io|example)\b|\(\s*(?:dot|at|\.)\s*\)",
    re.IGNORECASE,
)
"""A scheme, two words with a dot between them, digits of the internet, and how these are disguised."""

_NUMBER = re.compile(r"(?:\d[\s()+./-]{0,3}){6,}\d|\b(?=\w*\d)\w{16,}")
"""Seven digits with nothing to speak of between them: a number to call. A long word with a digit in it: a code."""

_DATE = r"(?:19|20)\d\d[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.](?:19|20)\d\d|(?:19|20)\d\d[-/–](?:19|20)?\d\d"
_TIME = r"(?:[01]?\d|2[0-4])[.:][0-5]\d"
_WHEN = re.compile(rf"(?<![\d./-])(?:{_DATE}|{_TIME}(?:\s?[-–]\s?{_TIME})?)(?![\d/-]|\.\d)")
"""A date, two years, a time or two: digits that nobody can call."""

_MARKUP = re.compile(r"[<>`\[\]{}|\\]|(?<!\w)[*_]|[*_](?!\w)|\*\*|__|~~|==|#(?!\d)|&#?\w+;")


def visible(text: str) -> str:
    """A text on one line, without control, format (zero-width, bidi), private, unassigned and blank characters."""
    joined = {found.start() for found in _JOINERS.finditer(text)}
    seen = (each for at, each in enumerate(text) if each.isspace() or category(each)[0] != "C" or at in joined)
    return " ".join(_BLANK.sub("", "".join(seen)).split())


def words(text: str) -> list[str]:
    """A text's words in their plainest form: no case, width, accents, punctuation, no letters that pass for others.

    Each letter of a script without spaces is a word of its own.
    """
    folded = normalize("NFKD", visible(text)).casefold().translate(_LOOKALIKES)
    plain = "".join(each if each.isalnum() else "" if _is_silent(each) else " " for each in folded)
    return _UNSPACED.sub(r" \g<0> ", plain).split()


def length(word: str) -> float:
    """How much of a word one of `words` is: two letters of a script without spaces make about one."""
    return 0.5 if _UNSPACED.match(word) else 1.0


def more_than_words(text: str) -> bool:
    """Whether a text holds a link, an address, a number to call, a code or markup, also in a common disguise."""
    plain = _WHEN.sub("", normalize("NFKC", visible(text)))
    return any(each.search(plain) for each in (_ADDRESS, _NUMBER, _MARKUP))


def _is_silent(character: str) -> bool:
    """Whether a character belongs to the word in which it stands, and is no letter of it."""
    return character in "'’" or category(character) in ("Mn", "Mc", "Me", "Cf")
