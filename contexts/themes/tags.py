"""Names of themes: the label, a shortened task of the theme, and the tags, words that its tasks share."""

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

from contexts.text import cut
from contexts.themes.words import stem, stop_words_of

MAX_TAGS = 3
MAX_LABEL_CHARS = 48

_NAME_PENALTY = 0.1
"""Loss of centrality, in cosine, of a text with a person's name."""

_CUT_PENALTY = 0.05
"""Loss of centrality, in cosine, of a text that is too long for a label."""

_MIN_LABEL_CHARS = 7
_MIN_TAG_CHARS = 3

_MAX_SCANNED_CHARS = 200
"""Number of characters of a text that are searched for a label; descriptions can have many thousands."""

_CENTRALITY_DECIMALS = 4
_WEIGHT_DECIMALS = 9

_SEPARATOR = re.compile(r"\s+[-–—>/|→]+\s+|[:;,.!?]+\s+|\s*->\s*|\s*\([^)]*\)\s*|\s*[\n/]\s*(?=\D)")
_EDGE_SIGNS = re.compile(r"^[^\w\"'«„“¿¡#&@$€£]+|[^\w\"'»“”%]+$")
_PERSON_NAME = re.compile(r"(?<=[^\W\d_] )[A-ZÀ-ÖØ-ÞΑ-ΩА-Я][a-zß-öø-ÿα-ωа-я]+")
_LANGUAGES_WITH_CAPITAL_NOUNS = ("de", "lb")


@dataclass(frozen=True)
class ThemeWords:
    """The words of each task of a theme (see `contexts.themes.words.split_words`), its user and their language."""

    user_id: str
    language: str
    task_words: Sequence[Sequence[str]]


def label_of(texts: Sequence[str], centrality: NDArray[np.float32], language: str) -> str:
    """Return the shortened text of the most central task, preferring texts without a name and short texts.

    centrality: the mean cosine of each text to all texts of the theme, shape (len(texts),).
    A capitalised word inside a text counts as a name, except in German and Luxembourgish.
    """
    best_label, best_score = "", -2.0
    scores = [round(value, _CENTRALITY_DECIMALS) for value in centrality.tolist()]
    for position in sorted(range(len(texts)), key=lambda position: -scores[position]):
        if scores[position] <= best_score:
            break  # a penalty only lowers a score
        label = shorten(texts[position])
        score = scores[position] - _penalty(texts[position], label, language)
        if score > best_score:
            best_label, best_score = label, score
    return best_label


def shorten(text: str) -> str:
    """Return the first meaningful part of a text, at most `MAX_LABEL_CHARS` characters."""
    text = text[:_MAX_SCANNED_CHARS]
    heads = (_EDGE_SIGNS.sub("", text[: separator.start()]) for separator in _SEPARATOR.finditer(text))
    long_heads = (head for head in heads if len(head) >= _MIN_LABEL_CHARS)
    head = next(long_heads, None) or _EDGE_SIGNS.sub("", text) or text
    if len(head) <= MAX_LABEL_CHARS:
        return head
    return cut(head, MAX_LABEL_CHARS - 1).rsplit(" ", 1)[0].rstrip(" ,;:-") + "…"


def tags_of(themes: Sequence[ThemeWords]) -> list[list[str]]:
    """Return for each theme up to `MAX_TAGS` words that at least two of its tasks share, the most specific first.

    Forms of a word count as one word, and the most frequent form is returned. A word is specific if its share of the
    theme's words is high compared with the user's other themes:
    weight = share * log(1 + mean number of words per theme / number of occurrences in all of the user's themes).
    Source: c-TF-IDF of Grootendorst, "BERTopic", 2022, arXiv 2203.05794, section 3.3.
    """
    task_stems = [_tag_stems(words, theme.language) for theme in themes for words in theme.task_words]
    if not any(task_stems):
        return [[] for _ in themes]
    theme_of_task = np.repeat(np.arange(len(themes)), [len(theme.task_words) for theme in themes])
    counts, stems = _count_stems(task_stems)
    n_tasks = len(task_stems)
    membership = csr_matrix((np.ones(n_tasks), (theme_of_task, np.arange(n_tasks))), (len(themes), n_tasks))
    counts_by_theme = _sort_entries(membership @ counts)
    tasks_by_theme = _sort_entries(membership @ (counts > 0))
    rows = np.repeat(np.arange(len(themes)), np.diff(counts_by_theme.indptr))
    columns = counts_by_theme.indices
    users = _enumerate_distinct([theme.user_id for theme in themes])
    weights = _tf_idf(counts_by_theme.data, rows, columns, users, len(stems))
    by_weight = np.lexsort((columns, -np.round(weights, _WEIGHT_DECIMALS), rows))
    tag_stems: list[list[str]] = [[] for _ in themes]
    for entry in by_weight[tasks_by_theme.data[by_weight] > 1]:
        if len(tag_stems[rows[entry]]) < MAX_TAGS:
            tag_stems[rows[entry]].append(stems[columns[entry]])
    return [_as_written(stems, theme) for stems, theme in zip(tag_stems, themes, strict=True)]


def _penalty(text: str, label: str, language: str) -> float:
    has_name = bool(_PERSON_NAME.search(text)) and not language.startswith(_LANGUAGES_WITH_CAPITAL_NOUNS)
    return _NAME_PENALTY * has_name + _CUT_PENALTY * label.endswith("…")


def _tag_stems(words: Sequence[str], language: str) -> list[str]:
    return [tag_stem for word in words if (tag_stem := _tag_stem(word, language))]


@lru_cache(2**16)
def _tag_stem(word: str, language: str) -> str:
    """Return the stem of a word that can be a tag, or an empty string for other words."""
    is_tag = len(word) >= _MIN_TAG_CHARS and not word[0].isnumeric() and word not in stop_words_of(language)
    return stem(word, language) if is_tag else ""


def _count_stems(task_stems: Sequence[Sequence[str]]) -> tuple[Any, Sequence[str]]:
    """Return the number of occurrences of each stem in each task, shape (tasks, stems), and the sorted stems."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=lambda stems: stems)
    counts = vectorizer.fit_transform(task_stems)
    return counts, vectorizer.get_feature_names_out().tolist()


def _tf_idf(
    counts: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any], users: NDArray[Any], n_stems: int
) -> NDArray[np.float64]:
    """Return the c-TF-IDF weight of each count.

    rows, columns: the theme and the stem of each count.
    users: the number of each theme's user.
    """
    n_words = np.bincount(rows, counts, len(users))
    mean_words = np.bincount(users, n_words) / np.bincount(users)
    keys, position = np.unique(users[rows].astype(np.int64) * n_stems + columns, return_inverse=True)
    user_counts = np.bincount(position, counts, len(keys))[position]
    return np.asarray(counts / n_words[rows] * np.log1p(mean_words[users[rows]] / user_counts))


def _as_written(stems: Sequence[str], theme: ThemeWords) -> list[str]:
    """Return the theme's most frequent form of each stem; the alphabet decides between equally frequent forms."""
    if not stems:
        return []
    counts = Counter(word for words in theme.task_words for word in words)
    forms = sorted(counts, key=lambda word: (-counts[word], word))
    return [next(word for word in forms if _tag_stem(word, theme.language) == wanted) for wanted in stems]


def _enumerate_distinct(names: Sequence[str]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def _sort_entries(matrix: Any) -> Any:
    """Sort the entries of a sparse matrix, so that matrices with the same pattern align entry by entry."""
    rows = matrix.tocsr()
    rows.sort_indices()
    return rows
