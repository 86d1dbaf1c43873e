"""Words beside a model's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.themes.corpus import read_corpus
from contexts.themes.word_vectors import WORDS_WEIGHT, word_vectors


def rows(texts: Sequence[str], projects: Sequence[str] = (), language: str = "en") -> Any:
    """Return one row per task. projects: the project of each task; without them all are in the inbox."""
    names = projects or ["Inbox"] * len(texts)
    listed = list(dict.fromkeys(names))
    corpus = read_corpus(texts, [language] * len(texts))
    project = np.array([listed.index(name) for name in names], np.int64)
    return word_vectors(corpus, np.arange(len(texts)), project, listed)


def gain(one: str, other: str, *projects: str, language: str = "en") -> float:
    """Return how much more similar words make two tasks, as a share of the largest gain."""
    first, second = rows([one, other], projects, language)
    return float(first @ second) / WORDS_WEIGHT


@pytest.mark.parametrize(
    ("one", "other", "language", "share"),
    [
        ("call the dentist", "dentist", "en", 1),
        ("call the dentist", "new date for dentists, and insurance card", "en", 0.5),
        ("buy milk", "buy bread", "en", 0.2),
        ("Milch kaufen", "Brot kaufen", "de", 0.2),
        ("new phone today", "new shoes today", "en", 0),
        ("🎂", "🎂", "en", 0),
    ],
)
def test_shared_words(one: str, other: str, language: str, share: float) -> None:
    """Tasks gain by the share of words in common, in any form; a verb counts half, and empty words do not count."""
    assert gain(one, other, language=language) == pytest.approx(share, abs=1e-3)


def test_projects() -> None:
    """A common project counts more than one common word; the inbox does not count."""
    assert gain("flour", "candles", "Cake", "Cake") == pytest.approx(1.5**2 / (1.5**2 + 1), abs=1e-3)
    assert gain("flour", "candles", "Cake", "Move") == pytest.approx(0, abs=1e-3)
    assert gain("flour", "candles", "Inbox", "Inbox") == pytest.approx(0, abs=1e-3)
    assert gain("🎂", "🎈", "Cake", "Cake") == pytest.approx(1, abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(
    tasks=st.lists(
        st.tuples(st.text(max_size=20) | st.just("milk and bread"), st.sampled_from(["", "Cake", "Inbox"])),
        min_size=1,
    )
)
def test_alone_or_with_others(tasks: list[tuple[str, str]]) -> None:
    """The row of a task does not depend on the tasks of others."""
    texts, projects = ([task[part] for task in tasks] for part in (0, 1))
    found = rows(texts, projects)
    assert np.isfinite(found).all()
    for number, (text, project) in enumerate(tasks):
        np.testing.assert_array_equal(found[number], rows([text], [project])[0])


def test_no_tasks() -> None:
    """No tasks have no rows."""
    assert len(rows([])) == 0
