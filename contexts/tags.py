"""What a theme is called: its label, the text of one of its tasks made short; its tags, words that tasks share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from contexts.words import stem, stop_words_of

N_TAGS = 3
MAX_LABEL = 48

_NAME_COSTS, _CUT_COSTS = 0.1, 0.05
"""Of cosine to the theme's tasks: so much further from the middle may a text be that has no name, or needs no cut."""

_SHORTEST, _SHORTEST_TAG = 7, 3
"""Of characters that say something, as a label and as a tag."""

_LOOKED_AT = 200
"""Characters of a text that may make its label: it can be a description of many thousands."""

_PARTS = re.compile(r"\s+[-–—>/|→]+\s+|[:;,.!?]+\s+|\s*->\s*|\s*\([^)]*\)\s*|\s*[\n/]\s*(?=\D)")
_ENDS = re.compile(r"^[^\w\"'«„“¿¡#&@$€£]+|[^\w\"'»“”%]+$")
_NAME = re.compile(r"(?<=[^\W\d_] )[A-ZÀ-ÖØ-ÞΑ-ΩА-Я][a-zß-öø-ÿα-ωа-я]+")
_NOUNS_IN_CAPITALS = ("de", "lb")


@dataclass(frozen=True)
class ThemeWords:
    """The words of each of a theme's tasks (see `contexts.words`), and the language of their user; `user` tells users
    apart.
    """

    user: str
    language: str
    said: Sequence[Sequence[str]]


def label_of(texts: Sequence[str], centrality: NDArray[np.float32], language: str) -> str:
    """The theme's most central text, made short; one a little further out where that one names a person or is long.

    centrality: the mean cosine of each text to all, shape (len(texts),). A capital inside a text counts as a name,
    but not in German.
    """
    best, best_worth = "", -2.0
    rounded = [round(each, 4) for each in centrality.tolist()]
    for at in sorted(range(len(texts)), key=lambda at: -rounded[at]):
        if rounded[at] <= best_worth:
            break  # whatever its text is
        label = short(texts[at])
        worth = rounded[at] - _cost(texts[at], label, language)
        if worth > best_worth:
            best, best_worth = label, worth
    return best


def short(text: str) -> str:
    """The first part of a text that says something, at most `MAX_LABEL` characters."""
    text = text[:_LOOKED_AT]
    heads = (_ENDS.sub("", text[: found.start()]) for found in _PARTS.finditer(text))
    head = next((each for each in heads if len(each) >= _SHORTEST), None) or _ENDS.sub("", text) or text
    if len(head) <= MAX_LABEL:
        return head
    return head[: MAX_LABEL - 1].rsplit(" ", 1)[0].rstrip(" ,;:-") + "…"


def tags_of(themes: Sequence[ThemeWords]) -> list[list[str]]:
    """For each theme up to `N_TAGS` words that two or more of its tasks share, first those that best tell it from the
    user's other themes. Forms of a word count as one, and the most frequent is shown.

    Weight of a word in a theme: its share there times log(1 + mean words a theme / its count in all of the user's).
    Source: c-TF-IDF of Grootendorst, "BERTopic", 2022, arXiv 2203.05794, section 3.3.
    """
    tasks = [_stems(own, theme.language) for theme in themes for own in theme.said]
    if not any(tasks):
        return [[] for _ in themes]
    owners = np.repeat(np.arange(len(themes)), [len(theme.said) for theme in themes])
    counts, stems = _counted(tasks)
    by_theme = csr_matrix((np.ones(len(tasks)), (owners, np.arange(len(tasks)))), (len(themes), len(tasks)))
    in_theme, n_tasks = _sorted(by_theme @ counts), _sorted(by_theme @ (counts > 0))
    rows = np.repeat(np.arange(len(themes)), np.diff(in_theme.indptr))
    users = _numbered([theme.user for theme in themes])
    weights = _weights(in_theme.data, rows, in_theme.indices, users, len(stems))
    best = np.lexsort((in_theme.indices, -np.round(weights, 9), rows))
    chosen: list[list[str]] = [[] for _ in themes]
    for at in best[n_tasks.data[best] > 1]:
        if len(chosen[rows[at]]) < N_TAGS:
            chosen[rows[at]].append(stems[in_theme.indices[at]])
    return [_as_written(found, theme) for found, theme in zip(chosen, themes, strict=True)]


def _cost(text: str, label: str, language: str) -> float:
    is_named = bool(_NAME.search(text)) and not language.startswith(_NOUNS_IN_CAPITALS)
    return _NAME_COSTS * is_named + _CUT_COSTS * label.endswith("…")


def _stems(said: Sequence[str], language: str) -> list[str]:
    return [found for word in said if (found := _tag(word, language))]


@lru_cache(2**16)
def _tag(word: str, language: str) -> str:
    """The stem of a word that may be a tag, else nothing."""
    is_tag = len(word) >= _SHORTEST_TAG and not word[0].isnumeric() and word not in stop_words_of(language)
    return stem(word, language) if is_tag else ""


def _counted(tasks: Sequence[Sequence[str]]) -> tuple[Any, Sequence[str]]:
    """How often each task says each stem, shape (tasks, stems), and the stems in order of the alphabet."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=lambda stems: stems)
    counts = vectorizer.fit_transform(tasks)
    return counts, vectorizer.get_feature_names_out().tolist()


def _weights(
    counts: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any], users: NDArray[Any], n_stems: int
) -> NDArray[np.float64]:
    """c-TF-IDF of each count. rows, columns: of its theme and stem; users: the number of each theme's user."""
    n_words = np.bincount(rows, counts, len(users))
    mean_words = np.bincount(users, n_words) / np.bincount(users)
    keys, at = np.unique(users[rows].astype(np.int64) * n_stems + columns, return_inverse=True)
    in_all = np.bincount(at, counts, len(keys))[at]
    return np.asarray(counts / n_words[rows] * np.log1p(mean_words[users[rows]] / in_all))


def _as_written(stems: Sequence[str], theme: ThemeWords) -> list[str]:
    """For each stem the word that a theme says most often for it; of equals the first of the alphabet."""
    if not stems:
        return []
    times = Counter(word for own in theme.said for word in own)
    forms = sorted(times, key=lambda word: (-times[word], word))
    return [next(word for word in forms if _tag(word, theme.language) == each) for each in stems]


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def _sorted(matrix: Any) -> Any:
    """The matrix in one order of its entries."""
    found = matrix.tocsr()
    found.sort_indices()
    return found
