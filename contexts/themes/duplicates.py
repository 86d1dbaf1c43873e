"""Near-duplicates among one user's tasks, such as "milk" and "buy milk". Pure."""

from __future__ import annotations

from collections.abc import Sequence

from contexts.themes.arrays import Vectors
from contexts.themes.cluster import Clusterer
from contexts.themes.words import ARTICLES, stem, verb_position

MIN_SIMILARITY = 0.6
"""Minimum similarity of duplicates, on a scale from the threshold of themes (0) to identity (1)."""

_COSINE_DECIMALS = 5

_Stems = frozenset[str]
_Key = tuple[str | None, _Stems]
"""A parent task and the stems of a text."""


def find_duplicates(
    task_words: Sequence[Sequence[str]],
    parent_ids: Sequence[str | None],
    vectors: Vectors,
    language: str,
    clusterer: Clusterer,
) -> list[int]:
    """Return for each text the position of the first text that it duplicates, or its own if it duplicates none.

    task_words: the words of each text, see `contexts.themes.words.split_words`.
    parent_ids: the parent task of each text's task; equal words below two parents are not duplicates.
    vectors: unit rows, one per text.

    Two texts are duplicates if their vectors are similar and they consist of the same words, ignoring articles,
    endings and order. One of them may have an additional verb at the verb's position in this language. A word with a
    digit is not a verb: "2 eggs" is not a duplicate of "eggs".
    A text is only compared with the first text that has the same words: time is linear in the number of texts.
    """
    first_by_stems: dict[_Key, int] = {}
    first_by_stems_without_verb: dict[_Key, int] = {}
    duplicate_of: list[int] = []
    for position, (words, parent_id) in enumerate(zip(task_words, parent_ids, strict=True)):
        stems = [stem(word, language) for word in words if word not in ARTICLES]
        all_stems, without_verb = (parent_id, frozenset(stems)), (parent_id, _without_verb(stems, language))
        candidates = [
            first_by_stems.setdefault(all_stems, position) if stems else position,  # the same words
            first_by_stems_without_verb.get(all_stems, position),  # the other text has an additional verb
            first_by_stems.get(without_verb, position)
            if without_verb[1]
            else position,  # this text has an additional verb
        ]
        if without_verb[1]:
            first_by_stems_without_verb.setdefault(without_verb, position)
        similar = (
            duplicate_of[other]
            for other in candidates
            if other != position and _is_similar(vectors[position], vectors[other], clusterer)
        )
        duplicate_of.append(min(similar, default=position))
    return duplicate_of


def _without_verb(stems: Sequence[str], language: str) -> _Stems:
    """Return the stems without the one at the verb's position, or none if it cannot be a verb."""
    position = verb_position(language)
    if not stems or any(map(str.isnumeric, stems[position])):
        return frozenset()
    return frozenset(stems[1:] if position == 0 else stems[:-1])


def _is_similar(one: Vectors, other: Vectors, clusterer: Clusterer) -> bool:
    return round(float(one @ other), _COSINE_DECIMALS) >= clusterer.cosine_at(MIN_SIMILARITY)
