"""Tags of themes: words that several tasks of a theme share. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contexts.themes.arrays import Flags, Numbers, gather
from contexts.themes.corpus import Corpus
from contexts.themes.themed import ThemedTasks

MAX_TAGS = 3

_WEIGHT_DECIMALS = 9


@dataclass(frozen=True, eq=False)
class _Occurrences:
    """Words that can be tags in the tasks of themes; the arrays have one element per occurrence.

    word: its position in the corpus. group: equal for the same stem in a theme.
    """

    theme: Numbers
    word: Numbers
    group: Numbers
    is_repeated: Flags


def tags_of(tasks: ThemedTasks, corpus: Corpus) -> list[list[str]]:
    """Return for each theme up to `MAX_TAGS` words that at least two of its tasks share, the most specific first.

    Forms of a word count as one word, and the most frequent form is returned. A word is specific if its share of the
    theme's words is high compared with the user's other themes:
    weight = share * log(1 + mean number of words per theme / number of occurrences in all of the user's themes).
    Source: c-TF-IDF of Grootendorst, "BERTopic", 2022, arXiv 2203.05794, section 3.3.
    """
    tags: list[list[str]] = [[] for _ in range(tasks.n_themes)]
    found, codes = _occurrences(tasks, corpus)
    if not len(codes):
        return tags
    themes, stems = np.divmod(codes, len(corpus.stems))
    weights = _tf_idf(np.bincount(found.group), themes, stems, tasks, len(corpus.stems))
    is_tag = np.bincount(found.group, ~found.is_repeated) > 1
    ranked = np.flatnonzero(is_tag)
    names = {group: corpus.stems[stems[group]] for group in ranked.tolist()}
    by_name = sorted(ranked.tolist(), key=names.__getitem__)
    ranked = np.array(by_name, np.int64)
    ranked = ranked[np.lexsort((-weights[ranked].round(_WEIGHT_DECIMALS), themes[ranked]))]
    forms = _forms(found, corpus, is_tag)
    for theme, group in zip(themes[ranked].tolist(), ranked.tolist(), strict=True):
        if len(tags[theme]) < MAX_TAGS:
            tags[theme].append(forms[group])
    return tags


def _occurrences(tasks: ThemedTasks, corpus: Corpus) -> tuple[_Occurrences, Numbers]:
    """Return the words of themes, and theme * number of stems + stem for each group."""
    words = np.flatnonzero(corpus.is_tag)
    text, stem = corpus.text[words], corpus.stem[words]
    is_repeated = np.ones(len(words), bool)
    is_repeated[np.unique(text * len(corpus.stems) + stem, return_index=True)[1]] = False
    position, row = gather(np.bincount(text, minlength=len(corpus.texts)), tasks.text[tasks.rows])
    theme = tasks.theme[tasks.rows][row]
    codes, group = np.unique(theme * len(corpus.stems) + stem[position], return_inverse=True)
    return _Occurrences(theme, words[position], group, is_repeated[position]), codes


def _tf_idf(
    counts: Numbers, themes: Numbers, stems: Numbers, tasks: ThemedTasks, n_stems: int
) -> NDArray[np.float64]:
    """Return the c-TF-IDF weight of each count of a stem in a theme."""
    users = tasks.theme_users
    n_words = np.bincount(themes, counts, tasks.n_themes)
    mean_words = np.bincount(users, n_words) / np.maximum(np.bincount(users), 1)
    keys, position = np.unique(users[themes] * n_stems + stems, return_inverse=True)
    user_counts = np.bincount(position, counts, len(keys))[position]
    return np.asarray(counts / n_words[themes] * np.log1p(mean_words[users[themes]] / user_counts))


def _forms(found: _Occurrences, corpus: Corpus, is_wanted: Flags) -> dict[int, str]:
    """Return the most frequent form of each wanted group; the alphabet decides between equally frequent forms."""
    rows = np.flatnonzero(is_wanted[found.group])
    codes, counts = np.unique(
        found.group[rows] * len(corpus.forms) + corpus.form[found.word[rows]], return_counts=True
    )
    groups, forms = np.divmod(codes, len(corpus.forms))
    entries = zip(groups.tolist(), (-counts).tolist(), [corpus.forms[form] for form in forms.tolist()], strict=True)
    return {group: form for group, _, form in sorted(entries, reverse=True)}
