"""Untrusted texts made safe for a prompt: plain words only, and instructions to a model withheld. Pure."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from unicodedata import normalize

from tips.texts import plain_words, visible_text

WITHHELD = "(a text that is not shown)"

_LINK = re.compile(r"\b[a-z][a-z0-9+.-]*://\S*|\bwww\.\S*|\S+@\S+\.\S+|\b(?:javascript|data):\S*", re.IGNORECASE)
_CODE = re.compile(r"(?=\S*[\d=]|\S*[a-z][A-Z])[A-Za-z0-9+/=_-]{16,}|[A-Za-z+/]{40,}")
_SYNTAX = re.compile(r"[<>{}\[\]|\\`*~^\"#=]+|(?<![^\W_])_+|_+(?![^\W_])")
_REPEATED_SIGN = re.compile(r"([^\w\s])\1+")
_ROLE_PREFIX = re.compile(r"\W*(?:system|assistant|developer|user|human)\s*[:>\]|]", re.IGNORECASE)
_SPELLED_OUT = re.compile(r"(?: [a-z]\b){5,}")


def sanitize(text: str) -> str:
    """A text of the context as a prompt shows it: plain words, or `WITHHELD` for an instruction to a model."""
    visible = normalize("NFKC", visible_text(text))
    if _ROLE_PREFIX.match(visible) or _is_instruction(visible):
        return WITHHELD
    without_links = _CODE.sub("(code)", _LINK.sub("(link)", visible))
    return visible_text(_REPEATED_SIGN.sub(r"\1", _SYNTAX.sub(" ", without_links)))


def _is_instruction(text: str) -> bool:
    """Whether a text reads like an instruction to a model, or spells a word letter by letter."""
    words = _padded(text)
    if _SPELLED_OUT.search(words) or any(phrase in words for phrase in _ADDRESSED_TO_A_MODEL):
        return True
    return sum(any(phrase in words for phrase in phrases) for phrases in _INSTRUCTION_PARTS) > 1


def _padded(text: str) -> str:
    """The plain words of a text with a blank around each, so that a substring test compares whole words."""
    return f" {' '.join(plain_words(text))} "


def _pattern(entry: str) -> str:
    """An entry of the file as it occurs in `_padded` text; an entry that ends with a star matches any ending."""
    return _padded(entry) if entry[-1] != "*" else _padded(entry)[:-1]


def _patterns(section: str) -> list[str]:
    return [_pattern(entry) for entries in _FILE[section].values() for entry in entries]


_FILE = tomllib.loads((Path(__file__).parent / "injection_patterns.toml").read_text("utf-8"))
_ADDRESSED_TO_A_MODEL = _patterns("addressed_to_a_model")
_INSTRUCTION_PARTS = [_patterns(section) for section in ("override_verbs", "model_nouns", "speech_verbs")]
