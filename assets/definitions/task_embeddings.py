"""A vector for every open task."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.engine.asset import Output, WorkUnit, asset
from assets.engine.checks import changed_users_under, is_unit, same_rows_as, unit_vectors
from assets.engine.vectors import to_lists, to_matrix
from contexts.progress import ProgressLogger
from contexts.themes.embed import Embedder
from contexts.themes.vector_cache import VectorCache

log = logging.getLogger(__name__)

CHUNK_TEXTS = 512
"""Texts claimed, embedded and cached at a time: a run that dies loses at most one chunk.

Each claim takes a place in Postgres's table of locks, which has 64 for each possible connection.
"""

_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("text_hash", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float16()), nullable=False),  # unit length
    ]
)


@asset(
    step="embed_tasks",
    schema=_SCHEMA,
    code_version="1",
    opaque=("embedding",),
    work=WorkUnit("texts_embedded", per="row"),
    checks=(
        same_rows_as("todoist_tasks", where="text_hash"),
        unit_vectors("embedding"),
        changed_users_under(0.95),  # if nearly all users reword tasks at once, the source is at fault
    ),
)
def task_embeddings(
    todoist_tasks: Annotated[pa.Table, "user_id", "task_id", "text", "text_hash"],
    previous: pa.Table,
    now: datetime,
    embedder: Embedder,
    cache: VectorCache,
) -> Output:
    """One row per task of the user. A text is embedded only if neither the shard nor the cache has a vector of it."""
    tasks = todoist_tasks.filter(pc.is_valid(todoist_tasks["text_hash"]))
    texts = _Texts.from_tasks(tasks, embedder.dim)
    texts.fill_from_rows(previous.filter(pc.equal(previous["model"], embedder.version)))
    n_shared, n_embedded = _fill_missing(texts, embedder, cache, now.astimezone(UTC).date())
    table = pa.table(
        [
            tasks["user_id"],
            tasks["task_id"],
            tasks["text_hash"],
            pa.array([embedder.version], pa.string()).take(pa.array(np.zeros(len(tasks), np.int32))),
            to_lists(texts.vectors[texts.of_row]),
        ],
        schema=_SCHEMA,
    )
    return Output(table, counts={"texts_embedded": n_embedded, "texts_shared": n_shared})


def _fill_missing(texts: _Texts, embedder: Embedder, cache: VectorCache, today: date) -> tuple[int, int]:
    """Set the missing vectors; return the number of texts found in the cache and the number of those embedded.

    Texts that another worker is embedding come last, when their vectors are probably cached.
    """
    n_shared, n_embedded, pending = 0, 0, texts.missing()
    progress = ProgressLogger("texts", len(pending), log.info)
    while len(pending):
        for chunk in _chunks(pending):
            with cache.claimed(embedder.version, texts.hashes(chunk)) as claimed:
                n_cached = texts.fill_from_cache(cache.get(embedder.version, texts.hashes(chunk), today))
                progress.add(n_cached)
                own = chunk[[hash_ in claimed for hash_ in texts.hashes(chunk)] & ~texts.has_vector[chunk]]
                vectors = embedder.encode(texts.texts(own), progress.add).astype(np.float16)
                is_valid = is_unit(vectors)  # the asset check refuses the others, and no other shard may find them
                cache.add(embedder.version, texts.hashes(own[is_valid]), vectors[is_valid], today)
            texts.fill(own, vectors)
            n_shared, n_embedded = n_shared + n_cached, n_embedded + len(own)
        pending = texts.missing()
        if len(pending):
            cache.wait_for(embedder.version, texts.hashes(pending[:1])[0])
    return n_shared, n_embedded


@dataclass(frozen=True)
class _Texts:
    """The distinct texts of a table, numbered from 0, with their vectors as far as they are known.

    of_row: the number of each row's text. vectors: float16, shape (texts, dim). has_vector: shape (texts,).
    """

    rows: pa.Table
    of_row: np.ndarray
    vectors: np.ndarray
    has_vector: np.ndarray

    @classmethod
    def from_tasks(cls, tasks: pa.Table, dim: int) -> _Texts:
        """Number the distinct texts of some tasks; no vector is known yet."""
        encoded = pc.dictionary_encode(tasks["text_hash"].combine_chunks())
        of_row = encoded.indices.to_numpy(zero_copy_only=False)
        n_texts, first_row = len(encoded.dictionary), np.unique(of_row, return_index=True)[1]
        rows = tasks.select(["text_hash", "text"]).take(pa.array(first_row))
        return cls(rows.combine_chunks(), of_row, np.empty((n_texts, dim), np.float16), np.zeros(n_texts, bool))

    def missing(self) -> np.ndarray:
        """Return the numbers of the texts without a vector."""
        return np.flatnonzero(~self.has_vector)

    def hashes(self, numbers: np.ndarray) -> list[str]:
        """Return the hashes of some texts."""
        hashes: list[str] = self.rows["text_hash"].take(pa.array(numbers)).to_pylist()
        return hashes

    def texts(self, numbers: np.ndarray) -> list[str]:
        """Return some texts."""
        texts: list[str] = self.rows["text"].take(pa.array(numbers)).to_pylist()
        return texts

    def fill(self, numbers: np.ndarray, vectors: np.ndarray) -> None:
        """Set the vectors of some texts."""
        self.vectors[numbers] = vectors
        self.has_vector[numbers] = True

    def fill_from_rows(self, embedded: pa.Table) -> None:
        """Set the vectors found in rows of `task_embeddings`."""
        numbers = pc.index_in(embedded["text_hash"], value_set=self.rows["text_hash"].combine_chunks())
        matching = embedded.filter(pc.is_valid(numbers))
        if len(matching):
            self.fill(pc.drop_null(numbers).to_numpy(), to_matrix(matching["embedding"]))

    def fill_from_cache(self, vectors: Mapping[str, np.ndarray]) -> int:
        """Set cached vectors, given by hash; return their number."""
        if vectors:
            hashes = pa.array(list(vectors), pa.string())
            numbers = pc.index_in(hashes, value_set=self.rows["text_hash"].combine_chunks())
            self.fill(numbers.to_numpy(), np.stack(list(vectors.values())))
        return len(vectors)


def _chunks(numbers: np.ndarray) -> Iterator[np.ndarray]:
    return (numbers[start : start + CHUNK_TEXTS] for start in range(0, len(numbers), CHUNK_TEXTS))
