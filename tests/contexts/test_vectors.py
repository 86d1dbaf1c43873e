"""Vectors that are kept by the text that they are of."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest

from contexts.mirror import text_hash
from contexts.sql import connect
from contexts.vectors import Halves, VectorCache

Connection = psycopg.Connection[Any]

DAY = date(2026, 11, 23)
MONTH = timedelta(days=30)
MODEL = "some-model@1 prompt='clustering: ' dim=8"
OTHER = "some-model@1 prompt='' dim=8"
MILK, BREAD, TAX = (text_hash(text) for text in ("buy milk", "buy bread", "file the tax return"))


def vectors(n: int, seed: int = 0, dim: int = 8) -> Halves:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float16)


def kept(connection: Connection) -> list[Any]:
    """Every row, and where it lies: it moves with every write, even one that writes the same."""
    return connection.execute("SELECT ctid::TEXT, * FROM text_vectors ORDER BY text_hash, model").fetchall()


@pytest.fixture
def cache(connection: Connection) -> VectorCache:
    return VectorCache(connection)


def test_the_same_bits_come_back(cache: VectorCache) -> None:
    """Vectors come back bit by bit, each by its text: the smallest number, the largest and minus zero, too."""
    given = vectors(3)
    given[0, :4] = np.array([2**-24, 65504, -0.0, 1 / 3], np.float16)
    cache.keep(MODEL, [MILK, BREAD, TAX], given, DAY)
    found = cache.known(MODEL, [TAX, MILK, BREAD], DAY)
    assert {text: vector.tobytes() for text, vector in found.items()} == {
        text: row.tobytes() for text, row in zip([MILK, BREAD, TAX], given, strict=True)
    }
    assert {vector.dtype for vector in found.values()} == {np.dtype(np.float16)}


def test_a_real_chunk(cache: VectorCache) -> None:
    """Thousands of texts of real length go in and out in one call each."""
    hashes = [text_hash(f"text {number}") for number in range(4096)]
    given = vectors(len(hashes), dim=256)
    cache.keep(MODEL, hashes, given, DAY)
    found = cache.known(MODEL, hashes, DAY)
    np.testing.assert_array_equal(np.stack([found[each] for each in hashes]), given)


def test_only_what_is_asked_for_and_there(cache: VectorCache) -> None:
    """Texts that nobody kept are absent, and texts that nobody asks for are not given."""
    cache.keep(MODEL, [MILK, BREAD], vectors(2), DAY)
    assert set(cache.known(MODEL, [MILK, TAX], DAY)) == {MILK}
    assert cache.known(MODEL, [TAX], DAY) == {}


def test_each_model_has_its_own(cache: VectorCache) -> None:
    """A text that another model embedded is not known, and both models' vectors of a text are kept side by side."""
    ours, theirs = vectors(1), vectors(1, seed=1, dim=16)
    cache.keep(MODEL, [MILK], ours, DAY)
    assert cache.known(OTHER, [MILK], DAY) == {}
    cache.keep(OTHER, [MILK], theirs, DAY)
    np.testing.assert_array_equal(cache.known(MODEL, [MILK], DAY)[MILK], ours[0])
    np.testing.assert_array_equal(cache.known(OTHER, [MILK], DAY)[MILK], theirs[0])


def test_keeping_twice_is_keeping_once(cache: VectorCache, connection: Connection) -> None:
    """Whoever comes second with a text, later or in the same call, changes nothing, not even where its row lies."""
    cache.keep(MODEL, [MILK, BREAD], vectors(2), DAY)
    before = kept(connection)
    cache.keep(MODEL, [MILK, BREAD], vectors(2), DAY)
    cache.keep(MODEL, [BREAD, BREAD], vectors(2, seed=1), DAY + MONTH)
    assert kept(connection) == before


def test_two_runs_share(cache: VectorCache, database_url: str) -> None:
    """What one run kept, another one on its own connection knows at once."""
    cache.keep(MODEL, [MILK], vectors(1), DAY)
    with psycopg.connect(database_url) as beside:
        assert set(VectorCache(beside).known(MODEL, [MILK], DAY)) == {MILK}


class TestExpire:
    def test_unused(self, cache: VectorCache) -> None:
        """A text that nobody wrote since the day goes and is counted; one of that very day stays."""
        cache.keep(MODEL, [MILK], vectors(1), DAY - timedelta(days=1))
        cache.keep(MODEL, [BREAD], vectors(1), DAY)
        assert cache.expire(DAY) == 1
        assert set(cache.known(MODEL, [MILK, BREAD], DAY)) == {BREAD}
        assert cache.expire(DAY) == 0

    def test_used(self, cache: VectorCache) -> None:
        """A text that somebody wrote again stays as long as a new one, by the model that was asked for only."""
        for model in (MODEL, OTHER):
            cache.keep(model, [MILK, BREAD], vectors(2), DAY)
        cache.known(MODEL, [MILK], DAY + MONTH)
        assert cache.expire(DAY + MONTH) == 3
        assert set(cache.known(MODEL, [MILK, BREAD], DAY)) == {MILK}
        assert cache.known(OTHER, [MILK, BREAD], DAY) == {}

    def test_a_late_run(self, cache: VectorCache) -> None:
        """A run of an earlier day does not make a text look less used."""
        cache.keep(MODEL, [MILK], vectors(1), DAY)
        cache.known(MODEL, [MILK], DAY - MONTH)
        assert cache.expire(DAY) == 0

    def test_use_is_written_once_a_day(self, cache: VectorCache, connection: Connection) -> None:
        """A text that is asked for again on the same day is not written again."""
        cache.keep(MODEL, [MILK], vectors(1), DAY)
        before = kept(connection)
        cache.known(MODEL, [MILK], DAY)
        assert kept(connection) == before


class TestForget:
    def test_of_all_models(self, cache: VectorCache) -> None:
        """A forgotten text is gone for all models, its vectors are counted, and other texts stay."""
        for model in (MODEL, OTHER):
            cache.keep(model, [MILK, BREAD], vectors(2), DAY)
        assert cache.forget({MILK, TAX}) == 2
        assert [set(cache.known(model, [MILK, BREAD], DAY)) for model in (MODEL, OTHER)] == [{BREAD}, {BREAD}]

    def test_twice(self, cache: VectorCache) -> None:
        """A text that is gone already is nothing to forget."""
        cache.keep(MODEL, [MILK], vectors(1), DAY)
        assert [cache.forget([MILK]), cache.forget([MILK])] == [1, 0]

    def test_written_again(self, cache: VectorCache) -> None:
        """A forgotten text can be kept anew."""
        cache.keep(MODEL, [MILK], vectors(1), DAY)
        cache.forget([MILK])
        cache.keep(MODEL, [MILK], vectors(1, seed=1), DAY)
        np.testing.assert_array_equal(cache.known(MODEL, [MILK], DAY)[MILK], vectors(1, seed=1)[0])


@pytest.mark.parametrize(
    "ask",
    [
        lambda cache: cache.known(MODEL, [], DAY),
        lambda cache: cache.keep(MODEL, [], vectors(0), DAY),
        lambda cache: cache.forget([]),
    ],
    ids=["known", "keep", "forget"],
)
def test_no_texts_are_no_statement(
    cache: VectorCache, connection: Connection, ask: Callable[[VectorCache], object]
) -> None:
    """Without texts Postgres is not asked: the answer is nothing, even over a connection that is closed."""
    connection.close()
    assert not ask(cache)


def test_the_table_is_not_logged(connection: Connection) -> None:
    """The vectors go into no log and to no replica, for they can be made again: the table is UNLOGGED."""
    found = connection.execute("SELECT relpersistence::TEXT FROM pg_class WHERE oid = 'text_vectors'::REGCLASS")
    assert found.fetchone() == ("u",)


def test_shards_that_write_the_same_texts(connection: Connection, database_url: str) -> None:
    """Two runs that keep and use the same texts at once, each in another order, both succeed."""
    hashes = [text_hash(str(number)) for number in range(3000)]
    vectors = np.zeros((len(hashes), 8), np.float16)

    def run(order: int) -> None:
        with connect(database_url) as own:
            cache = VectorCache(own)
            for number in range(6):
                model, day = f"model {number}", DAY + timedelta(days=number)
                cache.keep(model, hashes[::order], vectors, DAY)
                cache.known(model, hashes[::order], day)

    with ThreadPoolExecutor(2) as runs:
        assert list(runs.map(run, (1, -1))) == [None, None]
    assert connection.execute("SELECT count(*) FROM text_vectors").fetchone() == (6 * len(hashes),)


def test_the_longest_vectors(connection: Connection) -> None:
    """Vectors of the largest length that the settings allow are kept."""
    cache, vectors = VectorCache(connection), np.ones((2, 4096), np.float16)
    hashes = [text_hash("a"), text_hash("b")]
    cache.keep("large", hashes, vectors, DAY)
    assert {key: each.tolist() for key, each in cache.known("large", hashes, DAY).items()} == dict.fromkeys(
        hashes, [1.0] * 4096
    )
