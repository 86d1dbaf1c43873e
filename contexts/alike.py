"""Tasks of one user that say the same, as "milk" and "buy milk" do. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from contexts.cluster import Clusterer, Vectors
from contexts.words import stem, verb_at

ONE_VERB, TWO_VERBS = 0.6, 0.8
"""How near two texts must be, from the threshold of themes (0) to identity (1): where at most one of them has a verb
that the other lacks, as "milk" and "buy milk"; where each has one of its own, as "buy milk" and "fetch milk".
"""


def same_as(said: Sequence[Sequence[str]], vectors: Vectors, language: str, clusterer: Clusterer) -> list[int]:
    """For each text the position of the first one that says the same, its own where none stands before it.

    said: the words of each text (see `contexts.words`). Two texts say the same when their vectors are near and they
    have the same words, in whatever form and order, but for the verb. So numbers and names must be the same: "pay
    invoice 12" is not "pay invoice 13". A text without a word is like no other. Of many that have something in common
    each is compared with the first only: time grows with the number of texts.
    """
    first: dict[frozenset[str], tuple[int, frozenset[str]]] = {}
    found: list[int] = []
    for at, own in enumerate(said):
        stems = [stem(word, language) for word in own]
        whole, thing = frozenset(stems), frozenset(stems[1:] if verb_at(language) == 0 else stems[:-1])
        before = [(about, *first.setdefault(about, (at, whole))) for about in (whole, thing) if about]
        found.append(
            min(
                (
                    found[other]
                    for about, other, theirs in before
                    if other != at and _is_near(vectors, at, other, clusterer, (about != whole) + (about != theirs))
                ),
                default=at,
            )
        )
    return found


def _is_near(vectors: Vectors, one: int, other: int, clusterer: Clusterer, n_verbs: int) -> bool:
    cosine = round(float(vectors[one] @ vectors[other]), 5)
    return cosine >= clusterer.share(TWO_VERBS if n_verbs > 1 else ONE_VERB)
