"""Vectors by content, in Postgres: a text is embedded once per model, whoever wrote it and in whatever shard, but for
shards that come upon it at the same moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from hashlib import sha256
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from contexts.sql import ask, queries

Halves = NDArray[np.float16]
"""Vectors as they are stored."""


class VectorCache:
    """The cache behind one connection. Texts go by what `contexts.mirror.text_hash` makes of them.

    What it loses is embedded again and nothing more; users' own vectors stand in the shards of `task_embeddings`.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._sql = queries("vectors")

    def known(self, model: str, hashes: Sequence[str], today: date) -> Mapping[str, Halves]:
        """Those vectors of `model` (its version) that there are, by text; they count as used today."""
        if not hashes:
            return {}
        wanted = {"model": _key(model), "hashes": _raw(hashes)}
        rows = ask(self._connection, self._sql.known, wanted).fetchall()
        if rows:
            ask(self._connection, self._sql.used, wanted | {"hashes": [text for text, _ in rows], "today": today})
        return {bytes(text).hex(): np.frombuffer(vector, "<f2") for text, vector in rows}

    def keep(self, model: str, hashes: Sequence[str], vectors: Halves, today: date) -> None:
        """Add the vectors of some texts, shape (len(hashes), dimension)."""
        if not hashes:
            return
        packed = [row.tobytes() for row in vectors.astype("<f2")]
        ask(
            self._connection,
            self._sql.keep,
            {"model": _key(model), "hashes": _raw(hashes), "vectors": packed, "today": today},
        )

    def forget(self, hashes: Iterable[str]) -> int:
        """Remove some texts, of all models; gives how many vectors went. Whoever else wrote one keeps theirs."""
        raw = _raw(hashes)
        return ask(self._connection, self._sql.forget, {"hashes": raw}).rowcount if raw else 0

    def expire(self, keep_from: date) -> int:
        """Remove texts that nobody wrote since that day; gives how many vectors went."""
        return ask(self._connection, self._sql.expire, {"keep_from": keep_from}).rowcount


def _key(model: str) -> bytes:
    return sha256(model.encode()).digest()[:8]


def _raw(hashes: Iterable[str]) -> list[bytes]:
    return [bytes.fromhex(each) for each in hashes]
