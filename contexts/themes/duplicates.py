"""Near-duplicates among one user's tasks, such as "milk" and "buy milk". Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from contexts.themes.arrays import Vectors
from contexts.themes.cluster import Clusterer
from contexts.themes.words import ARTICLES, split_words, stem, verb_position

MIN_SIMILARITY = 0.6
"""Minimum similarity of duplicates, on a scale from the threshold of themes (0) to identity (1)."""

_COSINE_DECIMALS = 5

_Stems = frozenset[str]
_Key = tuple[str | None, _Stems]
"""A parent task and the stems of a text."""


def find_duplicates(
    texts: Sequence[str],
    parent_ids: Sequence[str | None],
    vectors: Vectors,
    language: str,
    clusterer: Clusterer,
) -> list[int]:
    """Return for each text the position of the first text that it duplicates, or its own if it duplicates none.

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
    for position, (text, parent_id) in enumerate(zip(texts, parent_ids, strict=True)):
        stems, stems_without_verb = _stems_of(text, language)
        all_stems, without_verb = (parent_id, stems), (parent_id, stems_without_verb)
        same = first_by_stems.setdefault(all_stems, position) if stems else position  # the same words
        longer = first_by_stems_without_verb.get(all_stems, position)  # the other text has an additional verb
        shorter = position
        if stems_without_verb:
            shorter = first_by_stems.get(without_verb, position)  # this text has an additional verb
            first_by_stems_without_verb.setdefault(without_verb, position)
        if same == longer == shorter == position:
            duplicate_of.append(position)
            continue
        candidates = {same, longer, shorter} - {position}
        similar = (other for other in candidates if _is_similar(vectors[position], vectors[other], clusterer))
        duplicate_of.append(min(similar, default=position))
    return duplicate_of


@lru_cache(2**16)
def _stems_of(text: str, language: str) -> tuple[_Stems, _Stems]:
    """Return the stems of a text's words without articles, and those without its verb."""
    stems = [stem(word, language) for word in split_words(text) if word not in ARTICLES]
    return frozenset(stems), _without_verb(stems, language)


def _without_verb(stems: Sequence[str], language: str) -> _Stems:
    """Return the stems without the one at the verb's position, or none if it cannot be a verb."""
    position = verb_position(language)
    if not stems or any(map(str.isnumeric, stems[position])):
        return frozenset()
    return frozenset(stems[1:] if position == 0 else stems[:-1])


def _is_similar(one: Vectors, other: Vectors, clusterer: Clusterer) -> bool:
    return round(float(one @ other), _COSINE_DECIMALS) >= clusterer.cosine_at(MIN_SIMILARITY)
