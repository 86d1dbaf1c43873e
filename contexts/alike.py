"""Tasks of one user that say the same, as "milk" and "buy milk" do. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from contexts.cluster import Clusterer, Vectors
from contexts.words import ARTICLES, stem, verb_at

NEAR = 0.6
"""How near the vectors of two tasks must be that say the same, from the threshold of themes (0) to identity (1)."""

Terms = frozenset[str]


def same_as(said: Sequence[Sequence[str]], vectors: Vectors, language: str, clusterer: Clusterer) -> list[int]:
    """For each text the position of the first one that says the same, its own where none stands before it.

    said: the words of each text (see `contexts.words`). Two texts say the same when their vectors are near and they
    have the same words, in whatever form and order and but for articles; one of them may have a verb that the other
    lacks, where verbs stand in this language. A word with a digit is no verb: "2 eggs" are not "eggs".
    Of many that have something in common each is compared with the first only: time grows with the number of texts.
    """
    whole: dict[Terms, int] = {}
    without_verb: dict[Terms, int] = {}
    found: list[int] = []
    for at, own in enumerate(said):
        stems = [stem(word, language) for word in own if word not in ARTICLES]
        terms, thing = frozenset(stems), _without_verb(stems, language)
        before = [
            whole.setdefault(terms, at) if terms else at,  # the same words
            without_verb.get(terms, at),  # with a verb more
            whole.get(thing, at) if thing else at,  # without the verb
        ]
        if thing:
            without_verb.setdefault(thing, at)
        near = (found[each] for each in before if each != at and _is_near(vectors[at], vectors[each], clusterer))
        found.append(min(near, default=at))
    return found


def _without_verb(stems: Sequence[str], language: str) -> Terms:
    """What is left without the word that may be a verb; nothing where there is none."""
    place = verb_at(language)
    if not stems or any(map(str.isnumeric, stems[place])):
        return frozenset()
    return frozenset(stems[1:] if place == 0 else stems[:-1])


def _is_near(one: Vectors, other: Vectors, clusterer: Clusterer) -> bool:
    return round(float(one @ other), 5) >= clusterer.share(NEAR)
