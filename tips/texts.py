"""Properties of a text: its visible characters and its plain words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from unicodedata import category, normalize

_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks without a glyph; Unicode calls most of them default ignorable."""

_JOINERS = re.compile("(?<=[\u0600-\u0dff])[\u200c\u200d](?=[\u0600-\u0dff])")
"""Zero-width characters between two letters, as Persian and the scripts of India need them."""

_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
"""Letters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""

LOOKALIKES = str.maketrans("аеорсухіјѕԁԛԝһкмтвнαορυνκτχι", "aeopcyxijsdqwhkmtbhaopuvktxi")
"""Cyrillic and Greek letters that look like Latin ones."""


def visible_text(text: str) -> str:
    """A text on one line, without control, format (zero-width, bidi), private, unassigned and blank characters."""
    joiners = {match.start() for match in _JOINERS.finditer(text)}
    characters = (
        character
        for index, character in enumerate(text)
        if character.isspace() or category(character)[0] != "C" or index in joiners
    )
    return " ".join(_BLANK.sub("", "".join(characters)).split())


def plain_words(text: str) -> list[str]:
    """The words of a text without case, width, accents, punctuation and look-alike letters.

    Each letter of a script without spaces is a word of its own.
    """
    folded = normalize("NFKD", visible_text(text)).casefold().translate(LOOKALIKES)
    plain = "".join(each if each.isalnum() else "" if _is_part_of_word(each) else " " for each in folded)
    return _UNSPACED.sub(r" \g<0> ", plain).split()


def word_length(word: str) -> float:
    """The length of a plain word in words: a letter of a script without spaces counts as half a word."""
    return 0.5 if _UNSPACED.match(word) else 1.0


def padded(words: Sequence[str]) -> str:
    """The words with a blank around each, so that a substring test compares whole words."""
    return f" {' '.join(words)} "


def word_runs(words: Sequence[str], n_words: int, fewest: int) -> Iterator[Sequence[str]]:
    """Yield the runs of `n_words` plain words, or all words if there are fewer, but no fewer than `fewest`.

    Lengths are those of `word_length`.
    """
    sizes = [word_length(word) for word in words]
    run_size = min(n_words, sum(sizes))
    start, size = 0, 0.0
    for end, word_size in enumerate(sizes, 1):
        size += word_size
        while size - sizes[start] >= run_size:
            start, size = start + 1, size - sizes[start]
        if size >= run_size >= fewest:
            yield words[start:end]


def _is_part_of_word(character: str) -> bool:
    """Whether a character that is not a letter belongs to the word around it, as apostrophes and accents do."""
    return character in "'’" or category(character) in ("Mn", "Mc", "Me", "Cf")
