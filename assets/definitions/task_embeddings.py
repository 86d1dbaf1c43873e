"""A vector for every open task."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import Output, Work, asset
from assets.checks import changed_users_under, is_unit, same_rows_as, unit_vectors
from assets.definitions.vectors import to_lists, to_matrix
from contexts.embed import Embedder
from contexts.progress import Progress
from contexts.vectors import VectorCache

log = logging.getLogger(__name__)

CHUNK = 8192
"""Texts that are embedded and kept at a time: a run that dies loses no more."""

SCHEMA = pa.schema(
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
    schema=SCHEMA,
    code_version="1",
    opaque=("embedding",),
    work=Work("texts_embedded", per="row"),
    checks=(
        same_rows_as("todoist_tasks", where="task_id"),
        unit_vectors("embedding"),
        changed_users_under(0.95),  # that so many reword their tasks at once is a fault at the source
    ),
)
def task_embeddings(
    todoist_tasks: Annotated[pa.Table, "user_id", "task_id", "text", "text_hash"],
    previous: pa.Table,
    now: datetime,
    embedder: Embedder,
    cache: VectorCache,
) -> Output:
    """One row per task. A text of which the shard or the cache has the model's vector is not embedded again."""
    tasks = todoist_tasks.filter(pc.is_valid(todoist_tasks["task_id"]))
    texts = _Texts.of(tasks, embedder.dim)
    texts.take(previous.filter(pc.equal(previous["model"], embedder.version)))
    n_shared, n_embedded, today = 0, 0, now.astimezone(UTC).date()
    progress = Progress("texts", len(texts.missing()), log.info)
    for chunk in _chunks(texts.missing()):
        n_shared += texts.put(cache.known(embedder.version, texts.hashes(chunk), today))
        left = chunk[~texts.is_known[chunk]]
        progress.add(len(chunk) - len(left))
        vectors = embedder.encode(texts.texts(left), progress.add).astype(np.float16)
        sound = is_unit(vectors)  # the check refuses the others, and nobody is to find them in the cache
        cache.keep(embedder.version, texts.hashes(left[sound]), vectors[sound], today)
        texts.fill(left, vectors)
        n_embedded += len(left)
    table = pa.table(
        [
            tasks["user_id"],
            tasks["task_id"],
            tasks["text_hash"],
            pa.array([embedder.version], pa.string()).take(pa.array(np.zeros(len(tasks), np.int32))),
            to_lists(texts.vectors[texts.of_row]),
        ],
        schema=SCHEMA,
    )
    return Output(table, counts={"texts_embedded": n_embedded, "texts_shared": n_shared})


@dataclass(frozen=True)
class _Texts:
    """The distinct texts of a table, and what is known of them. of_row: the text of each row; vectors: float16."""

    rows: pa.Table
    of_row: np.ndarray
    vectors: np.ndarray
    is_known: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, dim: int) -> _Texts:
        """Nothing is known yet."""
        coded = pc.dictionary_encode(table["text_hash"].combine_chunks())
        of_row = coded.indices.to_numpy(zero_copy_only=False)
        n_texts, first = len(coded.dictionary), np.unique(of_row, return_index=True)[1]
        rows = table.select(["text_hash", "text"]).take(pa.array(first))
        return cls(rows.combine_chunks(), of_row, np.empty((n_texts, dim), np.float16), np.zeros(n_texts, bool))

    def missing(self) -> np.ndarray:
        """The numbers of the texts without a vector."""
        return np.flatnonzero(~self.is_known)

    def hashes(self, numbers: np.ndarray) -> list[str]:
        found: list[str] = self.rows["text_hash"].take(pa.array(numbers)).to_pylist()
        return found

    def texts(self, numbers: np.ndarray) -> list[str]:
        found: list[str] = self.rows["text"].take(pa.array(numbers)).to_pylist()
        return found

    def fill(self, numbers: np.ndarray, vectors: np.ndarray) -> None:
        """These are the vectors of those texts."""
        self.vectors[numbers] = vectors
        self.is_known[numbers] = True

    def take(self, embedded: pa.Table) -> None:
        """What rows of `task_embeddings` say of them."""
        numbers = pc.index_in(embedded["text_hash"], value_set=self.rows["text_hash"].combine_chunks())
        asked = embedded.filter(pc.is_valid(numbers))
        if len(asked):
            self.fill(pc.drop_null(numbers).to_numpy(), to_matrix(asked["embedding"]))

    def put(self, vectors: Mapping[str, np.ndarray]) -> int:
        """What a cache knows, by hash; gives how many."""
        if vectors:
            hashes = pa.array(list(vectors), pa.string())
            numbers = pc.index_in(hashes, value_set=self.rows["text_hash"].combine_chunks())
            self.fill(numbers.to_numpy(), np.stack(list(vectors.values())))
        return len(vectors)


def _chunks(numbers: np.ndarray) -> Iterator[np.ndarray]:
    return (numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK))
