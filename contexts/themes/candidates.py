"""The phrases that may name themes: near the middle of the theme, in many of its tasks, in few others. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contexts.themes.arrays import Flags, Numbers, gather
from contexts.themes.phrases import Phrases
from contexts.themes.themed import ThemedTasks

_SHARED = 0.12
"""Gain, in cosine, of a phrase for each doubling of the number of the theme's tasks that have it."""

_COMMON_VERB_LOSS = 0.1
"""Loss of a title whose verb other titles of the theme share, so that "rent" is better than "pay rent" if the theme
has "pay bills", too."""

_LONG_LOSS, _MAX_LONG = 0.04, 3
"""Loss of a single word from one task for each word by which the text is too long for a title, and the number of
words that count at most.

"closes" says little of "apply here before it closes", and "milk" says all of "buy milk".
"""

_MIN_LONE_SHARE = 1 / 3
"""A single word names a theme only if at least this share of its tasks have it: "new" or "folder" says little."""

_N_SHARED, _N_OWN = 4, 6
"""Numbers of phrases of a theme that are returned."""

_SCORE_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class _Occurrences:
    """Phrases in tasks that may name a theme; the arrays have one element per occurrence.

    group: equal for occurrences of the same words in a theme.
    """

    task: Numbers
    theme: Numbers
    phrase: Numbers
    group: Numbers


@dataclass(frozen=True, eq=False)
class _Groups:
    """The same words in the tasks of a theme; the arrays have one element per group.

    n_tasks: the number of tasks that have the words. centrality: their mean.
    share: n_tasks as a share of the tasks that may name the theme.
    """

    theme: Numbers
    key: Numbers
    n_tasks: Numbers
    centrality: NDArray[np.float64]
    share: NDArray[np.float64]


def rank_phrases(
    tasks: ThemedTasks, phrases: Phrases, may_name: Flags
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Return the best phrases by theme: first the phrases that several tasks share, then single tasks' phrases.

    The second mapping has the themes without a shared phrase, with at most one phrase of each task.
    may_name: whether a task's phrases may name its theme.

    A phrase has no vector, so the tasks that contain it represent it: its score is their mean centrality. The gain
    for each doubling of their number is weighted by the share of them that lie in this theme, which is the idea of
    c-TF-IDF (see `contexts.themes.tags`).
    """
    found, groups = _group_phrases(tasks, phrases, may_name)
    n_all = np.maximum(_n_tasks_of_users(tasks, phrases, groups), groups.n_tasks)
    worth = groups.centrality + _SHARED * np.log2(groups.n_tasks) * groups.n_tasks / n_all
    gain, is_label = phrases.gain[found.phrase], phrases.is_label[found.phrase]
    is_clear = (groups.share >= _MIN_LONE_SHARE)[found.group] | ~phrases.is_lone[found.phrase]
    is_shared = is_label & is_clear & phrases.is_pure[found.phrase] & (groups.n_tasks > 1)[found.group]
    has_shared = np.zeros(tasks.n_themes, bool)
    has_shared[found.theme[is_shared]] = True
    losses = _COMMON_VERB_LOSS * _have_common_verbs(found, phrases)
    losses += _LONG_LOSS * np.minimum(phrases.n_excess[found.phrase], _MAX_LONG)
    own_scores = tasks.centrality[found.task] + gain - losses
    return (
        _best(found, worth[found.group] + gain, is_shared, found.group, _N_SHARED),
        _best(found, own_scores, is_label & ~has_shared[found.theme], found.task, _N_OWN),
    )


def _have_common_verbs(found: _Occurrences, phrases: Phrases) -> Flags:
    """Return whether each phrase contains a verb that several tasks of the theme have."""
    titles = np.flatnonzero(phrases.is_title[found.phrase] & (phrases.verb[found.phrase] >= 0))
    verbs = found.theme[titles] * len(phrases.corpus.stems) + phrases.verb[found.phrase[titles]]
    _, verb, counts = np.unique(verbs, return_inverse=True, return_counts=True)
    are_common = np.zeros(len(found.phrase), bool)
    are_common[titles] = counts[verb] > 1
    return are_common


def _group_phrases(tasks: ThemedTasks, phrases: Phrases, may_name: Flags) -> tuple[_Occurrences, _Groups]:
    rows = np.flatnonzero(may_name)
    phrase, row = gather(phrases.n_phrases, tasks.text[rows])
    task, key = rows[row], phrases.key[phrase]
    theme = tasks.theme[task]
    codes, group = np.unique(theme * phrases.n_keys + key, return_inverse=True)
    is_counted = ~phrases.is_repeated[phrase]
    n_tasks = np.bincount(group, is_counted, len(codes))
    centrality = np.bincount(group, is_counted * tasks.centrality[task], len(codes)) / n_tasks
    themes, keys = np.divmod(codes, phrases.n_keys)
    share = n_tasks / np.bincount(tasks.theme[rows], minlength=tasks.n_themes)[themes]
    groups = _Groups(themes, keys, n_tasks.astype(np.int64), centrality, share)
    return _Occurrences(task, theme, phrase, group), groups


def _n_tasks_of_users(tasks: ThemedTasks, phrases: Phrases, groups: _Groups) -> Numbers:
    """Return the number of all tasks of the user with the words of each group; 0 if the theme has only one."""
    shared = np.flatnonzero(groups.n_tasks > 1)
    is_wanted = np.zeros(phrases.n_keys, bool)
    is_wanted[groups.key[shared]] = True
    is_wanted = is_wanted[phrases.key] & ~phrases.is_repeated
    n_wanted = np.bincount(phrases.text[is_wanted], minlength=len(phrases.n_phrases))
    phrase, task = gather(n_wanted, tasks.text)
    keys = phrases.key[is_wanted][phrase]
    codes, counts = np.unique(tasks.user[task] * phrases.n_keys + keys, return_counts=True)
    n_tasks = np.zeros(len(groups.key), np.int64)
    wanted = tasks.theme_users[groups.theme[shared]] * phrases.n_keys + groups.key[shared]
    n_tasks[shared] = counts[np.searchsorted(codes, wanted)]
    return n_tasks


def _best(
    found: _Occurrences, scores: NDArray[np.float64], is_wanted: Flags, part: Numbers, n: int
) -> dict[int, list[int]]:
    """Return the `n` best wanted phrases of each theme, the best first, and only the best one of each part."""
    wanted = np.flatnonzero(is_wanted)
    wanted = wanted[np.lexsort((-scores[wanted].round(_SCORE_DECIMALS), found.theme[wanted]))]
    wanted = wanted[np.sort(np.unique(part[wanted], return_index=True)[1])]
    themes, starts, counts = np.unique(found.theme[wanted], return_index=True, return_counts=True)
    best = found.phrase[wanted].tolist()
    spans = zip(themes.tolist(), starts.tolist(), np.minimum(counts, n).tolist(), strict=True)
    return {theme: best[start : start + count] for theme, start, count in spans}
