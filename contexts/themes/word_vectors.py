"""Words beside a model's vectors: tasks that share words, or a project, are more similar than the model says. Pure.

A model knows little about short texts with names or abbreviations, and nothing about projects.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from contexts.themes.arrays import Numbers, Vectors
from contexts.themes.corpus import Corpus
from contexts.themes.projects import is_named

WORDS_WEIGHT = 0.2
"""Gain, in cosine, of two tasks with the same words, see `benchmarks.themes`."""

_VERB_WEIGHT, _PROJECT_WEIGHT = 0.5, 1.5
"""Weights of a word at the verb's position, which is a noun in "dentist, tuesday", and of a project; nouns have 1."""

_DIM = 128


def word_vectors(corpus: Corpus, text: Numbers, project: Numbers, projects: Sequence[str]) -> Vectors:
    """Return one row per task, shape (n, 128), for `numpy.hstack` with the model's unit rows.

    The inner product of two tasks grows by `WORDS_WEIGHT` times the cosine of their words.

    text: the number of each task's text in the corpus. project: the number of each task's project in `projects`,
    which counts as a word unless it is the inbox.

    Words are hashed to columns, and to a sign, so that two words with the same column add nothing on average. Source:
    Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009, arXiv 0902.2206.
    """
    bags, squares = _bags(corpus)
    has_project = np.array([*map(is_named, projects)], bool)[project]
    column, sign = _columns([f"project {name}" for name in projects])
    rows, placed = bags[text], np.flatnonzero(has_project)
    rows[placed, column[project[placed]]] += _PROJECT_WEIGHT * sign[project[placed]]
    lengths = squares[text] + _PROJECT_WEIGHT**2 * has_project
    rows *= np.sqrt(WORDS_WEIGHT / np.where(lengths > 0, lengths, 1))[:, None].astype(np.float32)
    return np.asarray(rows, np.float32)


def _bags(corpus: Corpus) -> tuple[Vectors, NDArray[np.float64]]:
    """Return the sum of the hashed content words of each text, shape (n, 128), and that of their squared weights."""
    words = np.flatnonzero(corpus.is_content)
    codes, word = np.unique(corpus.text[words] * len(corpus.stems) + corpus.stem[words], return_inverse=True)
    weights = np.where(np.bincount(word, ~corpus.is_verb[words]) > 0, 1.0, _VERB_WEIGHT)
    text, stem = np.divmod(codes, max(1, len(corpus.stems)))
    column, sign = _columns(corpus.stems)
    bags = np.zeros((len(corpus.texts), _DIM), np.float32)
    np.add.at(bags, (text, column[stem]), weights.astype(np.float32) * sign[stem])
    return bags, np.asarray(np.bincount(text, weights**2, len(corpus.texts)), np.float64)


def _columns(words: Sequence[str]) -> tuple[Numbers, Vectors]:
    """Return the column of each word and its sign, 1 or -1."""
    hashes = np.fromiter((crc32(word.encode()) for word in words), np.int64, len(words))
    return hashes % _DIM, np.where(hashes // _DIM % 2, 1.0, -1.0).astype(np.float32)
