"""The words that tell one of a user's themes from the others: class-based TF-IDF. Pure."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from math import log

N_TAGS = 3
MAX_TAG = 24

_SHORTEST = 3


def tags_of(themes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """For each theme (id -> texts of its tasks) its `N_TAGS` most telling words, the best first.

    Weight of a word in a theme: its share there times log(1 + mean words a theme / its count in all).
    Source: c-TF-IDF of Grootendorst, "BERTopic", 2022, arXiv 2203.05794, section 3.3.
    """
    counts = {theme: Counter(word for text in texts for word in words(text)) for theme, texts in themes.items()}
    overall = sum(counts.values(), Counter[str]())
    mean = overall.total() / max(1, len(counts))
    return {
        theme: _best({word: n / own.total() * log(1 + mean / overall[word]) for word, n in own.items()})
        for theme, own in counts.items()
    }


def words(text: str) -> list[str]:
    """Words of three letters or more, of any script, in lower case."""
    plain = unicodedata.normalize("NFC", text.lower().replace("i\u0307", "i"))
    letters = "".join(each if unicodedata.category(each)[0] in "LM" else " " for each in plain)
    return [word[:MAX_TAG] for word in letters.split() if len(word) >= _SHORTEST]


def _best(weights: Mapping[str, float]) -> list[str]:
    return [word for word, _ in sorted(weights.items(), key=lambda each: (-round(each[1], 9), each[0]))][:N_TAGS]
