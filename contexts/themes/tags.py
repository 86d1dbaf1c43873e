"""Tags of themes: words that several tasks of a theme share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from contexts.themes.words import split_words, stem, stop_words_of

MAX_TAGS = 3

_MIN_TAG_CHARS = 3
_WEIGHT_DECIMALS = 9

_Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ThemeTexts:
    """The texts of a theme's tasks, its user and their language."""

    user_id: str
    language: str
    texts: Sequence[str]


def tags_of(themes: Sequence[ThemeTexts]) -> list[list[str]]:
    """Return for each theme up to `MAX_TAGS` words that at least two of its tasks share, the most specific first.

    Forms of a word count as one word, and the most frequent form is returned. A word is specific if its share of the
    theme's words is high compared with the user's other themes:
    weight = share * log(1 + mean number of words per theme / number of occurrences in all of the user's themes).
    Source: c-TF-IDF of Grootendorst, "BERTopic", 2022, arXiv 2203.05794, section 3.3.
    """
    tasks, columns, stems = _occurrences(themes)
    if not stems:
        return [[] for _ in themes]
    theme_of_task = np.repeat(np.arange(len(themes)), [len(theme.texts) for theme in themes])
    entries, counts = np.unique(theme_of_task[tasks] * len(stems) + columns, return_counts=True)
    n_tasks = _tasks_per_entry(tasks * len(stems) + columns, theme_of_task, len(stems))
    rows, columns = np.divmod(entries, len(stems))
    users = _enumerate_distinct([theme.user_id for theme in themes])
    weights = _tf_idf(counts, rows, columns, users, len(stems))
    by_weight = np.lexsort((columns, -np.round(weights, _WEIGHT_DECIMALS), rows))
    by_weight = by_weight[n_tasks[by_weight] > 1]
    tag_stems: list[list[str]] = [[] for _ in themes]
    for row, column in zip(rows[by_weight].tolist(), columns[by_weight].tolist(), strict=True):
        if len(tag_stems[row]) < MAX_TAGS:
            tag_stems[row].append(stems[column])
    return [_as_written(stems, theme) for stems, theme in zip(tag_stems, themes, strict=True)]


def _occurrences(themes: Sequence[ThemeTexts]) -> tuple[_Numbers, _Numbers, list[str]]:
    """Return the task and the stem of each word that can be a tag, as numbers, and the sorted stems."""
    stems_by_task = [_tag_stems(text, theme.language) for theme in themes for text in theme.texts]
    occurring = list(chain.from_iterable(stems_by_task))
    stems = sorted(set(occurring))
    column_of = {each: column for column, each in enumerate(stems)}
    columns = np.fromiter(map(column_of.__getitem__, occurring), np.int64, len(occurring))
    n_words = np.fromiter(map(len, stems_by_task), np.int64, len(stems_by_task))
    return np.repeat(np.arange(len(n_words)), n_words), columns, stems


def _tasks_per_entry(task_entries: _Numbers, theme_of_task: _Numbers, n_stems: int) -> _Numbers:
    """Return the number of tasks with each theme's stem, in the order of themes and stems."""
    tasks, columns = np.divmod(np.unique(task_entries), n_stems)
    return np.asarray(np.unique(theme_of_task[tasks] * n_stems + columns, return_counts=True)[1])


@lru_cache(2**16)
def _tag_stems(text: str, language: str) -> tuple[str, ...]:
    """Return the stems of a text's words that can be tags, in order."""
    return tuple(tag_stem for word in split_words(text) if (tag_stem := _tag_stem(word, language)))


@lru_cache(2**16)
def _tag_stem(word: str, language: str) -> str:
    """Return the stem of a word that can be a tag, or an empty string for other words."""
    is_tag = len(word) >= _MIN_TAG_CHARS and not word[0].isnumeric() and word not in stop_words_of(language)
    return stem(word, language) if is_tag else ""


def _tf_idf(
    counts: _Numbers, rows: _Numbers, columns: _Numbers, users: _Numbers, n_stems: int
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


def _as_written(stems: Sequence[str], theme: ThemeTexts) -> list[str]:
    """Return the theme's most frequent form of each stem; the alphabet decides between equally frequent forms."""
    if not stems:
        return []
    language = theme.language
    words = [word for text in theme.texts for word in split_words(text) if _tag_stem(word, language) in stems]
    counts = Counter(words)
    by_rank = sorted(sorted(counts, reverse=True), key=counts.__getitem__)  # the last one of a stem counts
    form_of = {_tag_stem(word, language): word for word in by_rank}
    return [form_of[wanted] for wanted in stems]


def _enumerate_distinct(names: Sequence[str]) -> _Numbers:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])
