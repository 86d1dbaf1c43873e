"""Texts to vectors with sentence-transformers; the model is loaded at the first text, never before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from contexts.loading import Device, EmbeddingError, load

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

__all__ = ["Embedder", "EmbeddingError", "Vectors", "batches", "matryoshka"]

Vectors = NDArray[np.float32]
T = TypeVar("T")

BATCH_TOKENS = {"cpu": 512, "cuda": 32_768}
"""Tokens that go through the model at once, padding counted: so many keep the device busy, and stay in its caches."""


class Embedder:
    """One model: a name on the hub with a pinned commit, or a folder that `save_pretrained` wrote.

    prompt stands before every text (nomic wants `clustering: `); dim is the length of the vectors. n_threads: on a
    CPU, 1 where every core has a process of its own, None for what torch chooses.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        prompt: str = "",
        dim: int,
        device: Device = "auto",
        n_threads: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.model = model
        self.revision = revision
        self.prompt = prompt
        self.dim = dim
        self._device: Device = device
        self._n_threads = n_threads
        self._batch_tokens = batch_tokens

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

    def encode(self, texts: Sequence[str], done: Callable[[int], None] = lambda _: None) -> Vectors:
        """Unit vectors, shape (len(texts), dim). done: is told after each batch how many texts it had.

        Batches are made ready, and the next one handed to a GPU, while the model works on the one before.
        EmbeddingError says how to get the model when it cannot be had.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        if not texts:
            return vectors
        tokens = self._tokens(texts)
        groups = self._groups(tokens)
        with ThreadPoolExecutor(max_workers=1) as beside:
            features = beside.map(lambda group: self._features([tokens[at] for at in group]), groups)
            for group, part in _one_behind(zip(groups, map(self.forward, features), strict=True)):
                vectors[group] = matryoshka(part, self.dim).cpu().numpy()
                done(len(group))
        return vectors

    def features(self, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        """What the model is given for some texts, batch by batch as `encode` makes them."""
        tokens = self._tokens(texts)
        return [self._features([tokens[at] for at in group]) for group in self._groups(tokens)]

    @cached_property
    def loaded(self) -> SentenceTransformer:
        """The model itself, for whoever measures it."""
        model = load(self.model, self.revision, self._device, self._n_threads)
        width = model.get_embedding_dimension()
        if width is None or width < self.dim:
            raise EmbeddingError(
                f"EMBEDDING_DIM={self.dim}, but {self.model} gives vectors of {width}. Set it to {width} or less."
            )
        return model

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """The model's own vectors of a batch, on its device; a GPU is not waited for."""
        import torch

        device = self.loaded.device
        with torch.inference_mode():
            moved = {name: each.to(device, non_blocking=True) for name, each in features.items()}
            found: Tensor = self.loaded(moved)["sentence_embedding"]
        return found

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """By the library under transformers' tokenizer, whose own call takes twice as long."""
        tokenizer = self.loaded.tokenizer.backend_tokenizer
        tokenizer.enable_truncation(self.loaded.max_seq_length)
        tokenizer.no_padding()  # whoever called the model's own `encode` before has left it on
        return [found.ids for found in tokenizer.encode_batch_fast([self.prompt + text for text in texts])]

    def _groups(self, tokens: Sequence[Sequence[int]]) -> list[list[int]]:
        limit = self._batch_tokens or BATCH_TOKENS[self.loaded.device.type]
        return list(batches([len(each) for each in tokens], limit))

    def _features(self, tokens: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        import torch

        sizes = np.array([len(each) for each in tokens])
        mask = np.arange(sizes.max()) < sizes[:, None]
        ids = np.full(mask.shape, self.loaded.tokenizer.pad_token_id, np.int64)
        ids[mask] = np.concatenate(tokens)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def batches(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Positions of texts of so many tokens, in batches of like size, the longest first: at most `limit` tokens each,
    counted as if all were as long as the longest, but one text at least.
    """
    order = sorted(range(len(sizes)), key=lambda at: -sizes[at])
    start = 0
    while start < len(order):
        end = start + max(1, limit // max(1, sizes[order[start]]))
        yield order[start:end]
        start = end


def matryoshka(full: Tensor, dim: int) -> Tensor:
    """The first `dim` of each row by the recipe of nomic's model card: layer norm, slice, L2 norm; float32.

    Of the layer norm only the mean matters, as L2 undoes the scale. At full length rows are only normalised.
    Source: https://huggingface.co/nomic-ai/nomic-embed-text-v1.5
    """
    rows: Tensor = full.float()
    if dim < rows.shape[1]:
        rows = (rows - rows.mean(dim=1, keepdim=True))[:, :dim]
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """Each item after the next one was asked for, and with it begun."""
    waiting: list[T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _fingerprint(folder: Path) -> str:
    """12 hex digits over the files that make a saved model what it is."""
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".json", ".safetensors", ".bin", ".txt"}:
            digest.update(f"{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
