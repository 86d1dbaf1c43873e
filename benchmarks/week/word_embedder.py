"""A cheap embedder without a model, because the week does not measure embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from contexts.themes.arrays import Vectors
from contexts.themes.embed import Embedder


class WordEmbedder(Embedder):
    """Embeds a text as the sum of random vectors of its words, so that texts with common words are similar."""

    def __init__(self) -> None:
        super().__init__("words", revision="1", dim=64)

    def encode(self, texts: Sequence[str], on_batch: Callable[[int], None] = lambda _: None) -> Vectors:
        """Return unit vectors, shape (len(texts), dim)."""
        sums = [
            np.sum([_word_vector(word, self.dim) for word in text.lower().split() or [""]], axis=0) for text in texts
        ]
        rows = np.array(sums, np.float32).reshape(len(texts), self.dim)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12), np.float32)


@cache
def _word_vector(word: str, dim: int) -> Vectors:
    seed = [ord(letter) for letter in word] or [0]
    return np.random.default_rng(seed).normal(size=dim).astype(np.float32)
