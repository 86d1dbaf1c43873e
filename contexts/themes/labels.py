"""Labels of themes: the project of most of its tasks, else a phrase that several of them share, else two phrases.

The themes of many users are named at once. Pure.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from functools import cache, lru_cache

import numpy as np

from contexts.text import cut, width
from contexts.themes.arrays import Flags, Numbers
from contexts.themes.candidates import rank_phrases
from contexts.themes.corpus import head_of
from contexts.themes.phrases import Phrases
from contexts.themes.projects import are_sole, main_projects
from contexts.themes.themed import ThemedTasks
from contexts.themes.words import empty_words_of, split_words, stem, stop_words_of

MAX_LABEL_CHARS = 48

_COMMAS = {"ar": "، ", "fa": "، ", "ja": "、", "zh": "、"}
"""Commas by language."""

Stems = frozenset[str]


def label_themes(tasks: ThemedTasks, phrases: Phrases) -> list[str | None]:
    """Return a label of at most `MAX_LABEL_CHARS` characters for each theme; no two of a user look alike.

    The label is None if fewer than two tasks of the theme have words.
    If several themes of a user are in the same project, a phrase follows its name.
    """
    projects = main_projects(tasks)
    is_sole = are_sole(tasks, projects)
    shared, own = rank_phrases(tasks, phrases, _may_name(tasks, projects, is_sole))
    central, has_words = _central_texts(tasks, phrases)
    names = [tasks.projects[each] if each >= 0 else "" for each in projects.tolist()]
    sole, users, texts = is_sole.tolist(), tasks.theme_users.tolist(), central.tolist()
    written = cache(phrases.written)
    labels: list[str | None] = [None] * tasks.n_themes
    used: dict[int, set[Stems]] = {}
    is_named = has_words | (projects >= 0)
    for theme in np.lexsort((-tasks.sizes, ~is_sole)).tolist():
        if is_named[theme]:
            language = tasks.languages[users[theme]]
            candidates = _candidates(
                names[theme] if sole[theme] else "",
                f"{names[theme]}: " if names[theme] else "",
                map(written, shared.get(theme, ())),
                map(written, own.get(theme, ())),
                phrases.corpus.texts[texts[theme]],
                language,
            )
            used_by_user = used.setdefault(users[theme], set())
            labels[theme], stems = _first_unused(candidates, used_by_user, language)
            used_by_user.add(stems)
    return labels


def shorten(text: str) -> str:
    """Return the first meaningful part of a text, at most `MAX_LABEL_CHARS` characters."""
    return _cut_to_words(head_of(text), MAX_LABEL_CHARS)


def _may_name(tasks: ThemedTasks, projects: Numbers, is_sole: Flags) -> Flags:
    """Return whether each task's phrases may name its theme.

    They may not if the theme is called by its project alone, or if the task is not in the theme's project.
    """
    may_name = np.zeros(len(tasks.theme), bool)
    project, themes = tasks.project[tasks.rows], tasks.theme[tasks.rows]
    may_name[tasks.rows] = ~is_sole[themes] & ((projects[themes] < 0) | (projects[themes] == project))
    return may_name


def _central_texts(tasks: ThemedTasks, phrases: Phrases) -> tuple[Numbers, Flags]:
    """Return the text of each theme's most central task, and whether two or more of its tasks have words."""
    order = tasks.rows[np.lexsort((tasks.rows, -tasks.centrality[tasks.rows], tasks.theme[tasks.rows]))]
    themes = tasks.theme[order]
    n_with_words = np.bincount(themes, phrases.corpus.n_words[tasks.text[order]] > 0, tasks.n_themes)
    return tasks.text[order[np.flatnonzero(np.diff(themes, prepend=-1))]], n_with_words > 1


def _candidates(
    sole_project: str, prefix: str, shared: Iterator[str], own: Iterator[str], central_text: str, language: str
) -> Iterator[str]:
    """Yield possible labels, the best first; a prefix is put before all phrases."""
    if sole_project:
        yield sole_project
    yield from (prefix + phrase for phrase in shared)
    yield from (prefix + pair for pair in _pairs(own, language, MAX_LABEL_CHARS - width(prefix)))
    yield prefix + shorten(central_text)


def _pairs(names: Iterator[str], language: str, max_width: int) -> Iterator[str]:
    """Yield the first name with each other one that fits and shares no word with it, then the first name alone."""
    for first in names:
        for other in names:
            pair = f"{first}{_COMMAS.get(language[:2], ', ')}{other}"
            stems = stems_of_label(first, language)
            if width(pair) <= max_width and stems.isdisjoint(stems_of_label(other, language)):
                yield pair
        yield first


def _first_unused(candidates: Iterable[str], used: Container[Stems], language: str) -> tuple[str, Stems]:
    """Return the first candidate that looks like no used label, with its stems; a number is added if all do."""
    first = None
    for candidate in candidates:
        label = _cut_to_words(candidate, MAX_LABEL_CHARS)
        if label and (stems := stems_of_label(label, language)) not in used:
            return label, stems
        first = label if first is None else first
    stub, number = cut(first or "", MAX_LABEL_CHARS - 5), 2
    while (stems := stems_of_label(f"{stub} {number}", language)) in used:
        number += 1
    return f"{stub} {number}", stems


@lru_cache(2**14)
def stems_of_label(label: str, language: str) -> Stems:
    """Return the stems that a reader compares: labels with the same ones look alike."""
    ignored = stop_words_of(language) | empty_words_of(language)
    stems = frozenset(stem(word, language) for word in split_words(label) if word not in ignored)
    return stems or frozenset({label.lower()})


def _cut_to_words(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    return cut(text, max_chars - 1).rsplit(" ", 1)[0].rstrip(" ,;:-") + "…"
