"""The cache of vectors by text."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest

from contexts.postgres.sql import connect
from contexts.themes.arrays import HalfVectors
from contexts.themes.vector_cache import VectorCache
from contexts.todoist.mirror import text_hash

Connection = psycopg.Connection[Any]

DAY = date(2026, 11, 23)
MONTH = timedelta(days=30)
MODEL = "some-model@1 prompt='clustering: ' dim=8"
OTHER = "some-model@1 prompt='' dim=8"
MILK, BREAD, TAX = (text_hash(text) for text in ("buy milk", "buy bread", "file the tax return"))


def vectors(n: int, seed: int = 0, dim: int = 8) -> HalfVectors:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float16)


def stored(connection: Connection) -> list[Any]:
    """Return every row with its physical position, which changes with every write, even of equal values."""
    return connection.execute("SELECT ctid::TEXT, * FROM text_vectors ORDER BY text_hash, model").fetchall()


@pytest.fixture
def cache(connection: Connection) -> VectorCache:
    return VectorCache(connection)


def test_exact_round_trip(cache: VectorCache) -> None:
    """Vectors are returned bit by bit, including the smallest and the largest number and minus zero."""
    added = vectors(3)
    added[0, :4] = np.array([2**-24, 65504, -0.0, 1 / 3], np.float16)
    cache.add(MODEL, [MILK, BREAD, TAX], added, DAY)
    cached = cache.get(MODEL, [TAX, MILK, BREAD], DAY)
    assert {text: vector.tobytes() for text, vector in cached.items()} == {
        text: row.tobytes() for text, row in zip([MILK, BREAD, TAX], added, strict=True)
    }
    assert {vector.dtype for vector in cached.values()} == {np.dtype(np.float16)}


def test_many_texts(cache: VectorCache) -> None:
    """Thousands of vectors of realistic length are added and read in one call each."""
    hashes = [text_hash(f"text {number}") for number in range(4096)]
    added = vectors(len(hashes), dim=256)
    cache.add(MODEL, hashes, added, DAY)
    cached = cache.get(MODEL, hashes, DAY)
    np.testing.assert_array_equal(np.stack([cached[each] for each in hashes]), added)


def test_requested_and_cached_texts(cache: VectorCache) -> None:
    """The result contains the requested texts that are cached, and no others."""
    cache.add(MODEL, [MILK, BREAD], vectors(2), DAY)
    assert set(cache.get(MODEL, [MILK, TAX], DAY)) == {MILK}
    assert cache.get(MODEL, [TAX], DAY) == {}


def test_models_are_separate(cache: VectorCache) -> None:
    """Each model has its own vector of a text; a text is not cached for other models."""
    vector, other_vector = vectors(1), vectors(1, seed=1, dim=16)
    cache.add(MODEL, [MILK], vector, DAY)
    assert cache.get(OTHER, [MILK], DAY) == {}
    cache.add(OTHER, [MILK], other_vector, DAY)
    np.testing.assert_array_equal(cache.get(MODEL, [MILK], DAY)[MILK], vector[0])
    np.testing.assert_array_equal(cache.get(OTHER, [MILK], DAY)[MILK], other_vector[0])


def test_adding_twice(cache: VectorCache, connection: Connection) -> None:
    """A text that is added again, later or in the same call, keeps its row, without another write."""
    cache.add(MODEL, [MILK, BREAD], vectors(2), DAY)
    before = stored(connection)
    cache.add(MODEL, [MILK, BREAD], vectors(2), DAY)
    cache.add(MODEL, [BREAD, BREAD], vectors(2, seed=1), DAY + MONTH)
    assert stored(connection) == before


def test_shared_between_connections(cache: VectorCache, database_url: str) -> None:
    """A vector is visible to other connections at once."""
    cache.add(MODEL, [MILK], vectors(1), DAY)
    with psycopg.connect(database_url) as other:
        assert set(VectorCache(other).get(MODEL, [MILK], DAY)) == {MILK}


class TestExpire:
    def test_unused(self, cache: VectorCache) -> None:
        """A text last used before the day is deleted and counted; a text used on that day stays."""
        cache.add(MODEL, [MILK], vectors(1), DAY - timedelta(days=1))
        cache.add(MODEL, [BREAD], vectors(1), DAY)
        assert cache.expire(DAY) == 1
        assert set(cache.get(MODEL, [MILK, BREAD], DAY)) == {BREAD}
        assert cache.expire(DAY) == 0

    def test_used(self, cache: VectorCache) -> None:
        """A text that is read again lives as long as a new one, but only for the requested model."""
        for model in (MODEL, OTHER):
            cache.add(model, [MILK, BREAD], vectors(2), DAY)
        cache.get(MODEL, [MILK], DAY + MONTH)
        assert cache.expire(DAY + MONTH) == 3
        assert set(cache.get(MODEL, [MILK, BREAD], DAY)) == {MILK}
        assert cache.get(OTHER, [MILK, BREAD], DAY) == {}

    def test_a_late_run(self, cache: VectorCache) -> None:
        """Reading with an earlier date does not shorten a text's life."""
        cache.add(MODEL, [MILK], vectors(1), DAY)
        cache.get(MODEL, [MILK], DAY - MONTH)
        assert cache.expire(DAY) == 0

    def test_use_is_written_once_a_day(self, cache: VectorCache, connection: Connection) -> None:
        """A text that is read again on the same day is not written again."""
        cache.add(MODEL, [MILK], vectors(1), DAY)
        before = stored(connection)
        cache.get(MODEL, [MILK], DAY)
        assert stored(connection) == before


class TestErase:
    def test_of_all_models(self, cache: VectorCache) -> None:
        """An erased text is deleted for all models, its vectors are counted, and other texts stay."""
        for model in (MODEL, OTHER):
            cache.add(model, [MILK, BREAD], vectors(2), DAY)
        assert cache.erase({MILK, TAX}) == 2
        assert [set(cache.get(model, [MILK, BREAD], DAY)) for model in (MODEL, OTHER)] == [{BREAD}, {BREAD}]

    def test_twice(self, cache: VectorCache) -> None:
        """Erasing a text again deletes nothing."""
        cache.add(MODEL, [MILK], vectors(1), DAY)
        assert [cache.erase([MILK]), cache.erase([MILK])] == [1, 0]

    def test_added_again(self, cache: VectorCache) -> None:
        """An erased text can be added again."""
        cache.add(MODEL, [MILK], vectors(1), DAY)
        cache.erase([MILK])
        cache.add(MODEL, [MILK], vectors(1, seed=1), DAY)
        np.testing.assert_array_equal(cache.get(MODEL, [MILK], DAY)[MILK], vectors(1, seed=1)[0])


@pytest.mark.parametrize(
    "use",
    [
        lambda cache: cache.get(MODEL, [], DAY),
        lambda cache: cache.add(MODEL, [], vectors(0), DAY),
        lambda cache: cache.erase([]),
    ],
    ids=["get", "add", "erase"],
)
def test_no_texts(cache: VectorCache, connection: Connection, use: Callable[[VectorCache], object]) -> None:
    """Without texts no statement is sent: the result is empty, even over a closed connection."""
    connection.close()
    assert not use(cache)


def test_the_table_is_not_logged(connection: Connection) -> None:
    """The table is UNLOGGED, because vectors can be recomputed: it is not in the write-ahead log or on replicas."""
    persistence = connection.execute("SELECT relpersistence::TEXT FROM pg_class WHERE oid = 'text_vectors'::REGCLASS")
    assert persistence.fetchone() == ("u",)


def test_concurrent_runs(connection: Connection, database_url: str) -> None:
    """Two runs that add and read the same texts at once, in opposite orders, both succeed."""
    hashes = [text_hash(str(number)) for number in range(3000)]
    vectors = np.zeros((len(hashes), 8), np.float16)

    def run(order: int) -> None:
        with connect(database_url) as run_connection:
            cache = VectorCache(run_connection)
            for number in range(6):
                model, day = f"model {number}", DAY + timedelta(days=number)
                cache.add(model, hashes[::order], vectors, DAY)
                cache.get(model, hashes[::order], day)

    with ThreadPoolExecutor(2) as runs:
        assert list(runs.map(run, (1, -1))) == [None, None]
    assert connection.execute("SELECT count(*) FROM text_vectors").fetchone() == (6 * len(hashes),)


def test_the_longest_vectors(connection: Connection) -> None:
    """Vectors of the maximum length of the settings are cached."""
    cache, vectors = VectorCache(connection), np.ones((2, 4096), np.float16)
    hashes = [text_hash("a"), text_hash("b")]
    cache.add("large", hashes, vectors, DAY)
    assert {key: each.tolist() for key, each in cache.get("large", hashes, DAY).items()} == dict.fromkeys(
        hashes, [1.0] * 4096
    )
