"""A cache of vectors by text, in Postgres, so that each text is embedded once per model for all users and shards.

Workers that meet a new text at the same moment claim it: one of them embeds it, the others wait for its vector.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from hashlib import sha256
from typing import Any

import numpy as np
import psycopg

from contexts.postgres.sql import execute_arrays, queries
from contexts.themes.arrays import HalfVectors

_STORED_FLOAT = "<f2"
_MODEL_KEY_BYTES = 8


class VectorCache:
    """The cache, over one connection. Texts are identified by `contexts.todoist.mirror.text_hash`.

    Lost entries only cost another embedding; users' own vectors are in the shards of `task_embeddings`.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._sql = queries("vector_cache")

    def get(self, model: str, text_hashes: Sequence[str], today: date) -> Mapping[str, HalfVectors]:
        """Return the cached vectors of some texts by text hash, and mark them as used today.

        model: version of the embedder.
        """
        if not text_hashes:
            return {}
        keys = {"model_key": _model_key(model), "text_hashes": _to_bytes(text_hashes)}
        rows = execute_arrays(self._connection, self._sql.read_vectors, keys).fetchall()
        if rows:
            used = keys | {"text_hashes": [text_hash for text_hash, _ in rows], "today": today}
            execute_arrays(self._connection, self._sql.mark_used, used)
        return {bytes(text_hash).hex(): np.frombuffer(vector, _STORED_FLOAT) for text_hash, vector in rows}

    def add(self, model: str, text_hashes: Sequence[str], vectors: HalfVectors, today: date) -> None:
        """Add the vectors of some texts, shape (len(text_hashes), dim)."""
        if not text_hashes:
            return
        values = {
            "model_key": _model_key(model),
            "text_hashes": _to_bytes(text_hashes),
            "vectors": [row.tobytes() for row in vectors.astype(_STORED_FLOAT)],
            "today": today,
        }
        execute_arrays(self._connection, self._sql.add_vectors, values)

    @contextmanager
    def claimed(self, model: str, text_hashes: Sequence[str]) -> Iterator[Collection[str]]:
        """Claim texts and yield those that no other worker has claimed; release them when the block ends.

        A claim is an advisory lock, so it ends with the worker's connection, too. A text that is claimed and not
        cached is embedded by nobody else: look into the cache inside the block, and add the vectors there.
        """
        values = {"prefix": _claim_prefix(model), "text_hashes": _to_bytes(text_hashes)}
        claimed = [row[0] for row in execute_arrays(self._connection, self._sql.claim_texts, values)]
        try:
            yield {bytes(text_hash).hex() for text_hash in claimed}
        finally:
            with suppress(psycopg.OperationalError):  # the connection is gone, and the claims with it
                execute_arrays(self._connection, self._sql.release_texts, values | {"text_hashes": claimed})

    def wait_for(self, model: str, text_hash: str) -> None:
        """Wait until no other worker has claimed a text."""
        values = {"prefix": _claim_prefix(model), "text_hashes": _to_bytes([text_hash])}
        for statement in (self._sql.wait_for_texts, self._sql.release_texts):
            execute_arrays(self._connection, statement, values)

    def erase(self, text_hashes: Iterable[str]) -> int:
        """Delete the vectors of some texts, of all models and for all users, and return their number."""
        hashes = _to_bytes(text_hashes)
        if not hashes:
            return 0
        return execute_arrays(self._connection, self._sql.erase_vectors, {"text_hashes": hashes}).rowcount

    def expire(self, keep_from: date) -> int:
        """Delete vectors that were last used before `keep_from`, and return their number."""
        return execute_arrays(self._connection, self._sql.expire_vectors, {"keep_from": keep_from}).rowcount


def _claim_prefix(model: str) -> str:
    return _model_key(model).hex()


def _model_key(model: str) -> bytes:
    return sha256(model.encode()).digest()[:_MODEL_KEY_BYTES]


def _to_bytes(text_hashes: Iterable[str]) -> list[bytes]:
    return [bytes.fromhex(text_hash) for text_hash in text_hashes]
