"""The means that are subtracted from a model's vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contexts.themes.centering import MIN_LANGUAGE_TEXTS, Centering, fit_centering, language_share

RNG_SEED = 0
N_DIMS = 32


def unit(rows: Any) -> Any:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def texts_of_languages(n: int, languages: str, apart: float) -> tuple[Any, list[str]]:
    """Return `n` vectors for each language: a cone that all share, and an offset of each language."""
    rng = np.random.default_rng(RNG_SEED)
    offsets = apart * rng.normal(size=(len(languages), N_DIMS))
    rows = rng.normal(size=(n * len(languages), N_DIMS)) + 2.0 + np.repeat(offsets, n, axis=0)
    return unit(rows), [language for language in languages for _ in range(n)]


def mean_cosine(vectors: Any) -> float:
    return float((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)].mean())


def test_random_texts_have_a_cosine_of_zero() -> None:
    """Vectors in a narrow cone look similar, and random pairs of the centred ones do not."""
    vectors, languages = texts_of_languages(200, "e", 0.0)
    centred = fit_centering(vectors, languages).apply(vectors)
    assert mean_cosine(vectors) > 0.5
    assert abs(mean_cosine(centred)) < 0.02
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("apart", "n_means"), [(0.0, 1), (1.0, 3)])
def test_languages_that_lie_apart_have_means_of_their_own(apart: float, n_means: int) -> None:
    """A model that maps languages onto each other has one mean; one that separates them has a mean for each."""
    vectors, languages = texts_of_languages(MIN_LANGUAGE_TEXTS, "dej", apart)
    centering = fit_centering(vectors, languages)
    assert len(centering.means) == n_means
    centred = centering.apply(vectors)
    for number in range(3):
        own = centred[number * MIN_LANGUAGE_TEXTS :][:MIN_LANGUAGE_TEXTS]
        assert abs(mean_cosine(own)) < 0.1


def test_the_language_of_a_text_is_found_by_its_vector() -> None:
    """A German text of an English user is centred as a German text."""
    vectors, languages = texts_of_languages(80, "de", 1.0)
    mislabelled = ["e" if number < 5 else language for number, language in enumerate(languages)]
    centred = fit_centering(vectors, mislabelled).apply(vectors)
    assert mean_cosine(np.concatenate([centred[:5], centred[5:80]])) < 0.1


def test_small_languages() -> None:
    """A language with few texts has no mean of its own."""
    vectors, languages = texts_of_languages(MIN_LANGUAGE_TEXTS, "dej", 1.0)
    few = [*range(MIN_LANGUAGE_TEXTS), *range(MIN_LANGUAGE_TEXTS, 2 * MIN_LANGUAGE_TEXTS), 2 * MIN_LANGUAGE_TEXTS]
    centering = fit_centering(vectors[few], [languages[number] for number in few])
    assert len(centering.means) == 2


def test_share_without_languages_is_near_zero() -> None:
    """Random groups explain no variance, however small they are."""
    vectors, _ = texts_of_languages(120, "e", 0.0)
    assert abs(language_share(vectors, np.array_split(np.arange(120), 12))) < 0.02


def test_stored_form() -> None:
    """The stored means are the same means, and different means have different versions."""
    vectors, languages = texts_of_languages(50, "de", 1.0)
    centering = fit_centering(vectors, languages)
    stored = Centering.from_bytes(centering.to_bytes(), len(centering.means))
    np.testing.assert_array_equal(stored.means, centering.means)
    assert stored.version == centering.version != fit_centering(vectors[1:], languages[1:]).version


def test_no_means() -> None:
    """Without means vectors stay as they are, and there is no version."""
    vectors, _ = texts_of_languages(5, "e", 0.0)
    np.testing.assert_array_equal(Centering.none().apply(vectors), vectors)
    assert Centering.none().version == ""


@pytest.mark.parametrize("n", [0, 1])
def test_the_mean_itself(n: int) -> None:
    """No vector, and a vector that equals the mean, are centred without an error."""
    vectors = unit(np.ones((n, 4)) if n else np.empty((0, 4)))
    assert np.isfinite(Centering(unit(np.ones((1, 4)))).apply(vectors)).all()
