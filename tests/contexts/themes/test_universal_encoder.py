"""The multilingual model of a package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contexts.themes.embed import Embedder
from contexts.themes.model_loading import EmbeddingError
from contexts.themes.universal_encoder import UNIVERSAL_DIM, UNIVERSAL_ENCODER, UniversalEncoder, new_embedder


@pytest.fixture(scope="module")
def encoder() -> UniversalEncoder:
    return UniversalEncoder(n_threads=1)


def test_meaning_across_languages(encoder: UniversalEncoder) -> None:
    """A text is more similar to its translations than to another text of its own language."""
    texts = ["buy milk", "Milch kaufen", "comprar leche", "牛乳を買う", "شراء الحليب", "call the tax office"]
    cosines = encoder.encode(texts) @ encoder.encode(texts[:1])[0]
    assert min(cosines[1:5]) > cosines[5] + 0.2


@pytest.mark.parametrize("text", ["", " ", "🧹", "\u200d", "a" * 100_000, "привет " * 5000, "İx ßy", "\x00\ud7ff"])
def test_any_text(encoder: UniversalEncoder, text: str) -> None:
    """Every text has a unit vector, however long or odd it is."""
    vectors = encoder.encode([text])
    assert vectors.shape == (1, UNIVERSAL_DIM)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-4)


def test_progress(encoder: UniversalEncoder) -> None:
    """Batches are reported with their numbers of texts, and equal texts have equal vectors in any batch."""
    reported: list[int] = []
    vectors = encoder.encode(["buy milk", *["call mum"] * 300], reported.append)
    assert sum(reported) == 301
    assert len(reported) > 1
    np.testing.assert_allclose(vectors[1], vectors[300], atol=1e-5)
    assert encoder.encode([]).shape == (0, UNIVERSAL_DIM)


def test_version(encoder: UniversalEncoder) -> None:
    """The version names the model and the release of its package."""
    assert encoder.version.startswith(f"{UNIVERSAL_ENCODER}@0.2.")


def test_selection(tmp_path: Path) -> None:
    """The setting selects the packaged model by its name, and every other name is one on the hub or a folder."""
    packaged = new_embedder(UNIVERSAL_ENCODER, revision=None, prompt="", dim=UNIVERSAL_DIM, device="auto")
    other = new_embedder(str(tmp_path), revision=None, prompt="", dim=64, device="cpu")
    assert isinstance(packaged, UniversalEncoder)
    assert type(other) is Embedder


@pytest.mark.parametrize(("name", "value"), [("dim", 256), ("prompt", "query: "), ("device", "cuda")])
def test_settings_that_do_not_fit(name: str, value: object) -> None:
    """The packaged model has one length, no prompt, and runs on CPUs; other settings are errors that name them."""
    values = {"revision": None, "prompt": "", "dim": UNIVERSAL_DIM, "device": "cpu", name: value}
    with pytest.raises(EmbeddingError, match=f"EMBEDDING_DIM={UNIVERSAL_DIM}"):
        new_embedder(UNIVERSAL_ENCODER, **values)  # type: ignore[arg-type]
