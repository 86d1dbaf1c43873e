"""Embeddings of texts by a sentence-transformers model, loaded when the first text is embedded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from contexts.themes.arrays import Vectors
from contexts.themes.fingerprints import fingerprint
from contexts.themes.model_loading import Device, EmbeddingError, load_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

_T = TypeVar("_T")

BATCH_TOKENS = {"cpu": 512, "cuda": 32_768}
"""Tokens per batch, including padding: enough to keep the device busy, few enough for its caches."""


class Embedder:
    """One model: a name on the hub with a pinned commit, or a folder written by `save_pretrained`.

    prompt: prefix of every text (nomic needs `clustering: `).
    dim: length of the vectors.
    n_threads: number of CPU threads; None lets torch decide. Use 1 if every core runs a process of its own.
    batch_tokens: tokens per batch; None selects `BATCH_TOKENS` of the device.
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
        """The model's identity, equal for equal vectors; the path of a model's folder is not part of it."""
        folder = Path(self.model)
        if not folder.is_dir() and self.revision is None:
            raise EmbeddingError(
                f"EMBEDDING_MODEL={self.model} is not pinned: a new upload would mix different vectors with the"
                f" stored ones. Set EMBEDDING_REVISION to a commit of it (40 hex digits), or name an existing folder."
            )
        name = f"saved-model@{fingerprint(folder)}" if folder.is_dir() else f"{self.model}@{self.revision}"
        return f"{name} prompt={self.prompt!r} dim={self.dim}"

    def encode(self, texts: Sequence[str], on_batch: Callable[[int], None] = lambda _: None) -> Vectors:
        """Return unit vectors, shape (len(texts), dim).

        on_batch: called after each batch with its number of texts.

        A thread pads the next batches while the model works on the current one, and a GPU has the next batch queued.
        Raises EmbeddingError if the model cannot be loaded; the message says how to get it.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        if not texts:
            return vectors
        tokens = self._tokenize(texts)
        batches = self._batches(tokens)
        with ThreadPoolExecutor(max_workers=1) as thread:
            features = thread.map(lambda batch: self._pad([tokens[position] for position in batch]), batches)
            outputs = zip(batches, map(self.forward, features), strict=True)
            for batch, output in _delay_by_one(outputs):
                vectors[batch] = matryoshka(output, self.dim).cpu().numpy()
                on_batch(len(batch))
        return vectors

    def features(self, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        """Return the model's inputs for some texts, in the batches of `encode`."""
        tokens = self._tokenize(texts)
        return [self._pad([tokens[position] for position in batch]) for batch in self._batches(tokens)]

    @cached_property
    def loaded(self) -> SentenceTransformer:
        """The loaded model."""
        model = load_model(self.model, self.revision, self._device, self._n_threads)
        max_dim = model.get_embedding_dimension()
        if max_dim is None or max_dim < self.dim:
            raise EmbeddingError(
                f"EMBEDDING_DIM={self.dim}, but the vectors of {self.model} have {max_dim} dimensions."
                f" Set it to {max_dim} or less."
            )
        return model

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return the model's own vectors of one batch, on its device, without waiting for a GPU to finish."""
        import torch

        device = self.loaded.device
        with torch.inference_mode():
            on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in features.items()}
            vectors: Tensor = self.loaded(on_device)["sentence_embedding"]
        return vectors

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        # The library under transformers' tokenizer takes half the time of the tokenizer's own call.
        tokenizer = self.loaded.tokenizer.backend_tokenizer
        tokenizer.enable_truncation(self.loaded.max_seq_length)
        tokenizer.no_padding()  # the model's own `encode` turns it on
        encodings = tokenizer.encode_batch_fast([self.prompt + text for text in texts])
        return [encoding.ids for encoding in encodings]

    def _batches(self, tokens: Sequence[Sequence[int]]) -> list[list[int]]:
        max_tokens = self._batch_tokens or BATCH_TOKENS[self.loaded.device.type]
        return list(batch_by_length([len(text_tokens) for text_tokens in tokens], max_tokens))

    def _pad(self, tokens: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        import torch

        lengths = np.array([len(text_tokens) for text_tokens in tokens])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.loaded.tokenizer.pad_token_id, np.int64)
        ids[mask] = np.concatenate(tokens)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def batch_by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield batches of text positions with similar lengths, the longest texts first.

    lengths: tokens per text.
    max_tokens: upper bound of a batch, padding included; a batch has at least one text.
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    start = 0
    while start < len(order):
        end = start + max(1, max_tokens // max(1, lengths[order[start]]))
        yield order[start:end]
        start = end


def matryoshka(full: Tensor, dim: int) -> Tensor:
    """Shorten each row to `dim` by the recipe of nomic's model card: layer norm, slice, L2 norm; float32.

    Only the mean of the layer norm matters, because the L2 norm cancels its scale. Rows of full length are only
    normalised. Source: https://huggingface.co/nomic-ai/nomic-embed-text-v1.5
    """
    rows: Tensor = full.float()
    if dim < rows.shape[1]:
        rows = (rows - rows.mean(dim=1, keepdim=True))[:, :dim]
    unit_rows: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit_rows


def _delay_by_one(items: Iterable[_T]) -> Iterator[_T]:
    """Yield each item after the next one was requested, and its computation thereby started."""
    delayed: list[_T] = []
    for item in items:
        yield from delayed
        delayed = [item]
    yield from delayed
