"""Centred vectors: the mean of a model's vectors is subtracted, so that a cosine of 0 means "as similar as chance".

The vectors of a model lie in a narrow cone, and in a narrower one for each language if the model separates languages:
any two texts then look similar. Source: Mu and Viswanath, "All-but-the-Top", 2018, arXiv 1702.01417, section 2; their
second step, removing the largest principal components, lowers the agreement with labels (`benchmarks.themes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from contexts.themes.arrays import HalfVectors, Vectors

MIN_LANGUAGE_SHARE = 0.05
"""Share of the vectors' variance between languages from which on each language has a mean of its own.

Measured on the sample texts: 1 % for a model that maps languages onto each other (Universal Sentence Encoder), 9 %
for multilingual-e5-small, 15 % for the English MiniLM.
"""

MIN_LANGUAGE_TEXTS = 40
"""A language with fewer texts has no mean of its own: its texts take the nearest of the other means."""

_STORED_FLOAT = "<f4"
_DIGEST_HEX_DIGITS = 12
_MIN_NORM = np.float32(1e-6)


@dataclass(frozen=True, eq=False)
class Centering:
    """The means of a model's vectors, shape (n, dim): none, one for all texts, or one for each large language."""

    means: Vectors

    @classmethod
    def none(cls) -> Centering:
        """Return a centering that leaves vectors as they are."""
        return cls(np.empty((0, 0), np.float32))

    @classmethod
    def from_bytes(cls, stored: bytes, n_means: int) -> Centering:
        """Return the centering that `to_bytes` wrote."""
        return cls(np.frombuffer(stored, _STORED_FLOAT).reshape(n_means, -1).astype(np.float32))

    def to_bytes(self) -> bytes:
        """Return the means as little-endian float32, row by row."""
        return self.means.astype(_STORED_FLOAT).tobytes()

    @property
    def version(self) -> str:
        """The means' identity: a hash, or an empty string without means."""
        return sha256(self.to_bytes()).hexdigest()[:_DIGEST_HEX_DIGITS] if len(self.means) else ""

    def apply(self, vectors: Vectors | HalfVectors) -> Vectors:
        """Return unit rows: each vector minus the mean that is nearest to it.

        The nearest mean is that of the text's own language for 96-99 % of texts, without knowing the language.
        """
        if not len(self.means) or not len(vectors):
            return vectors.astype(np.float32, copy=False)
        means = self.means if len(self.means) == 1 else self.means[self._nearest(vectors)]
        centred = np.subtract(vectors, means, dtype=np.float32)
        centred /= np.maximum(np.sqrt(np.einsum("ij,ij->i", centred, centred)), _MIN_NORM)[:, None]
        return np.asarray(centred, np.float32)

    def _nearest(self, vectors: Vectors | HalfVectors) -> np.ndarray:
        closeness = vectors.astype(np.float32, copy=False) @ self.means.T - 0.5 * np.einsum(
            "ij,ij->i", self.means, self.means
        )
        return np.asarray(closeness.argmax(axis=1))


def fit_centering(vectors: Vectors, languages: Sequence[str]) -> Centering:
    """Return the centering of a model: one mean, or means by language if these explain enough of the variance.

    vectors: one or more unit rows of distinct texts. languages: the language of each text's user.
    """
    large = [
        rows
        for language in sorted(set(languages))
        if len(rows := np.flatnonzero([each == language for each in languages])) >= MIN_LANGUAGE_TEXTS
    ]
    if language_share(vectors, large) < MIN_LANGUAGE_SHARE:
        return Centering(vectors.mean(axis=0, keepdims=True, dtype=np.float32))
    return Centering(np.array([vectors[rows].mean(axis=0) for rows in large], np.float32))


def language_share(vectors: Vectors, languages: Sequence[np.ndarray]) -> float:
    """Return the share of the vectors' variance between languages, without the part that chance explains.

    languages: the rows of each language. Source: the unbiased estimate of a variance component in a one-way analysis
    of variance, omega squared; Hays, "Statistics for Psychologists", 1963.
    """
    if len(languages) < 2:
        return 0.0
    rows = np.concatenate(languages)
    mean = vectors[rows].mean(axis=0)
    total = float(((vectors[rows] - mean) ** 2).sum())
    between = sum(len(each) * float(((vectors[each].mean(axis=0) - mean) ** 2).sum()) for each in languages)
    n_degrees, within = len(languages) - 1, (total - between) / max(1, len(rows) - len(languages))
    return (between - n_degrees * within) / (total + within) if total else 0.0
