"""Labels of themes: the project of most of its tasks, else the short phrase that is nearest to its middle. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log2

import numpy as np
from numpy.typing import NDArray

from contexts.text import cut
from contexts.themes.phrases import MAX_GAIN, head_of, phrases_of, stems_of, verb_of

MAX_LABEL_CHARS = 48

INBOX_NAMES = frozenset(
    {
        *("inbox", "eingang", "boîte de réception", "bandeja de entrada", "caixa de entrada", "entrada", "in arrivo"),
        *("postvak in", "indbakke", "innboks", "inkorg", "saapuneet", "skrzynka odbiorcza", "gelen kutusu"),
        *("входящие", "インボックス", "受信箱", "收件箱", "收件匣", "관리함", "صندوق الوارد", "البريد الوارد"),
    }
)
"""Names of the inbox in Todoist's languages, in lower case. It collects what belongs nowhere, so it names nothing."""

Stems = frozenset[str]
"""The stems of a text's words."""

_MAX_NAMING_TASKS = 8
"""Number of most central tasks whose phrases may become a label."""

_SHARED = 0.12
"""Gain, in cosine, of a phrase that twice as many tasks of the theme have."""

_VERB_PENALTY = 0.15
"""Loss of a single word that is the verb of another task: "update" says little."""

_CENTRALITY_DECIMALS = 4
_SCORE_DECIMALS = 6


@dataclass(frozen=True)
class ThemeTasks:
    """The tasks of a theme.

    centrality: the mean cosine of each task to all tasks of the theme, shape (n,).
    projects: the name of each task's project if the user alone worded it, or None.
    """

    texts: Sequence[str]
    centrality: NDArray[np.float32]
    projects: Sequence[str | None]


def label_themes(themes: Sequence[ThemeTasks], user_texts: Sequence[str], language: str) -> list[str]:
    """Return a label of at most `MAX_LABEL_CHARS` characters for each theme of one user; no two look alike.

    user_texts: the texts of all tasks of the user; a phrase whose words other tasks have, too, is less specific.
    A project that several themes are in names none of them alone: a phrase follows it.
    """
    user_stems = [stems_of(text, language) for text in user_texts]
    projects = [main_project(theme) for theme in themes]
    claims = Counter(project for project in projects if project)
    labels, used = [""] * len(themes), set[frozenset[str]]()
    for number in sorted(range(len(themes)), key=lambda number: -len(themes[number].texts)):
        candidates = _candidates(themes[number], projects[number], claims, user_stems, language)
        labels[number] = _first_unused(candidates, used, language)
        used.add(_look(labels[number], language))
    return labels


def main_project(theme: ThemeTasks) -> str | None:
    """Return the project in which more than half of the theme's tasks lie; None for the inbox, or without one."""
    names = [_one_line(project) for project in theme.projects]
    name = max(set(names), key=names.count)
    is_main = name and 2 * names.count(name) > len(names) and name.lower() not in INBOX_NAMES
    return name if is_main else None


def shorten(text: str) -> str:
    """Return the first meaningful part of a text, at most `MAX_LABEL_CHARS` characters."""
    return _cut_to_words(head_of(text), MAX_LABEL_CHARS)


@lru_cache(2**14)
def _one_line(project: str | None) -> str:
    return " ".join((project or "").split())


def _within(theme: ThemeTasks, project: str) -> ThemeTasks:
    """Return the tasks of a theme that lie in a project."""
    rows = [row for row, name in enumerate(theme.projects) if _one_line(name) == project]
    return ThemeTasks([theme.texts[row] for row in rows], theme.centrality[rows], [project] * len(rows))


def _candidates(
    theme: ThemeTasks, project: str | None, claims: Mapping[str, int], user_stems: Sequence[Stems], language: str
) -> Iterator[str]:
    """Yield possible labels, the best first."""
    if project and claims[project] == 1:
        yield project
    if project:
        for phrase in _phrases_by_score(_within(theme, project), user_stems, language):
            yield f"{project}: {phrase}"
    else:
        yield from _phrases_by_score(theme, user_stems, language)


def _phrases_by_score(theme: ThemeTasks, user_stems: Sequence[Stems], language: str) -> Iterator[str]:
    """Yield the theme's phrases, the best first, then its shortened texts, the most central first."""
    centrality = theme.centrality.round(_CENTRALITY_DECIMALS).tolist()
    order = sorted(range(len(centrality)), key=lambda position: (-centrality[position], theme.texts[position]))
    naming = order[:_MAX_NAMING_TASKS]
    scores: dict[str, float] = {}
    best = -1.0
    for position in naming:
        if centrality[position] + MAX_GAIN < best:
            break
        for phrase in phrases_of(theme.texts[position], language)[:1]:  # the best of the text's own
            best = max(best, centrality[position] + phrase.gain)
            scores.setdefault(phrase.text, round(centrality[position] + phrase.gain, _SCORE_DECIMALS))
    scores |= _shared_phrases(theme, centrality, naming, user_stems, language)
    yield from sorted(scores, key=scores.__getitem__, reverse=True)
    yield from (shorten(theme.texts[position]) for position in order)


def _shared_phrases(
    theme: ThemeTasks,
    centrality: Sequence[float],
    naming: Sequence[int],
    user_stems: Sequence[Stems],
    language: str,
) -> dict[str, float]:
    """Return the scores of the phrases of which all words are shared by tasks of the theme.

    The phrase itself has no vector; the tasks that contain it stand in for it: the score is their mean centrality.
    The gain for each doubling of their number is weighted by the share of them that lie in this theme, which is the
    idea of c-TF-IDF (see `contexts.themes.tags`).
    """
    stems = [stems_of(text, language) for text in theme.texts]
    shared = _shared(stems)
    if not shared:
        return {}
    verbs = frozenset(verb_of(text, language) for text in theme.texts)
    scores: dict[str, float] = {}
    sharing = [theme.texts[position] for position in naming if not shared.isdisjoint(stems[position])]
    for phrase in (each for text in sharing for each in phrases_of(text, language)):
        if phrase.text in scores or not phrase.stems <= shared:
            continue
        values = [centrality[row] for row, words in enumerate(stems) if phrase.stems <= words]
        if len(values) > 1:
            n_all = sum([phrase.stems <= words for words in user_stems])
            gain = phrase.gain + _SHARED * log2(len(values)) * len(values) / max(n_all, len(values))
            gain -= _VERB_PENALTY * (len(phrase.stems) == 1 and phrase.stems <= verbs)
            scores[phrase.text] = round(sum(values) / len(values) + gain, _SCORE_DECIMALS)
    return scores


def _shared(task_stems: Iterable[frozenset[str]]) -> frozenset[str]:
    """Return the stems that at least two tasks have."""
    seen, shared = frozenset[str](), frozenset[str]()
    for stems in task_stems:
        shared |= seen & stems
        seen |= stems
    return shared


def _first_unused(candidates: Iterable[str], used: Container[frozenset[str]], language: str) -> str:
    """Return the first candidate that looks like no used label; a number is added if all do."""
    first = None
    for candidate in candidates:
        label = _cut_to_words(candidate, MAX_LABEL_CHARS)
        if label and _look(label, language) not in used:
            return label
        first = label if first is None else first
    stub, number = cut(first or "", MAX_LABEL_CHARS - 5), 2
    while _look(f"{stub} {number}", language) in used:
        number += 1
    return f"{stub} {number}"


def _look(label: str, language: str) -> frozenset[str]:
    """Return the words that a reader compares: labels with the same ones look alike."""
    return stems_of(label, language) or frozenset({label.lower()})


def _cut_to_words(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    return cut(text, max_chars - 1).rsplit(" ", 1)[0].rstrip(" ,;:-") + "…"
