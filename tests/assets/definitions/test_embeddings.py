"""The embedding asset over several nights: each text is embedded only once, even after failures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from world import NOON, WordVectors, World, run_step

from assets.definitions import GRAPH
from assets.engine.hashing import shard_of
from assets.options import RunOptions
from assets.runtime import Runtime
from assets.steps import StepRunner
from contexts.postgres.sql import connect
from contexts.settings import Settings
from contexts.themes.vector_cache import VectorCache
from contexts.todoist.accounts import FetchScope
from contexts.todoist.credentials import CredentialCipher
from contexts.todoist.mirror import text_hash
from local.paths import ROOT

HOUR = timedelta(hours=1)
EIGHT = [f"call {name}" for name in ("ann", "bob", "cem", "dan", "eve", "fay", "gus", "hal")]


class Crash(Exception):
    """The process ends."""


class CrashingEmbedder(WordVectors):
    """Crashes after it has embedded more than `n_texts` texts, before the caller gets the last vectors."""

    def __init__(self, n_texts: int) -> None:
        super().__init__()
        self.n_texts = n_texts

    def encode(self, texts: Sequence[str], on_batch: Any = None) -> Any:
        vectors = super().encode(texts)
        if len(self.texts) > self.n_texts:
            raise Crash
        return vectors


def count(results: Any, name: str) -> int:
    return sum(result.counts[name] for result in results)


def cached_hashes(world: World) -> set[str]:
    """Return the hashes of the texts in the vector cache."""
    return {text for (text,) in world.connection.execute("SELECT encode(text_hash, 'hex') FROM text_vectors")}


def rows_from_scratch(world: World, now: datetime) -> list[dict[str, Any]]:
    """Return the rows that a run computes without existing shards and without the vector cache."""
    world.connection.execute("TRUNCATE text_vectors")
    for path in world.root.glob("task_embeddings/*/data.parquet"):
        path.unlink()
    world.embedder = WordVectors(world.embedder.model, world.embedder.dim)
    world.night(now)
    rows = world.rows("task_embeddings")
    assert len(world.embedder.texts) == len({row["text_hash"] for row in rows}) > 0
    return rows


@pytest.fixture
def users(world: World) -> tuple[str, str]:
    """The names of two users in different shards."""
    names = {shard_of(name, world.n_shards): name for name in ("cem", "ann")}
    return names[0], names[1]


@pytest.fixture
def neighbour(world: World, account: Any, users: tuple[str, str]) -> str:
    """A third user in the shard of the first one, so that the shard is still observed after a removal."""
    shard = shard_of(users[0], world.n_shards)
    name = next(name for name in ("bob", "dan", "eve") if shard_of(name, world.n_shards) == shard)
    world.add(name, account("water the plants"))
    return name


def test_a_text_is_embedded_once_for_all_users(world: World, account: Any, users: tuple[str, str]) -> None:
    """A text of users in different shards is embedded once, and both get the vector of the text on its own."""
    for user in users:
        world.add(user, account("buy milk", f"call {user}"))
    night = world.night()
    assert sorted(world.embedder.texts) == sorted(["buy milk", *(f"call {user}" for user in users)])
    assert count(night["task_embeddings"], "texts_embedded") == 3
    assert count(night["task_embeddings"], "texts_shared") == 1
    rows = world.rows("task_embeddings")
    assert rows == rows_from_scratch(world, NOON + HOUR)
    milk = {row["user_id"]: row["embedding"] for row in rows if row["text_hash"] == text_hash("buy milk")}
    [expected] = WordVectors().encode(["buy milk"]).astype(np.float16).tolist()
    assert milk == dict.fromkeys(users, expected)


def test_a_text_known_from_another_shard(world: World, account: Any, users: tuple[str, str]) -> None:
    """A text that was embedded days ago is not embedded again for a user in a different shard."""
    first, second = users
    world.add(first, account("buy milk"))
    world.add(second, account())
    world.night()
    world.todoist.advance(second, {"items": [{"id": "t9", "content": "buy milk"}]})
    world.night(NOON + 48 * HOUR)
    assert world.embedder.texts == ["buy milk"]
    assert len(world.rows("task_embeddings")) == 2


def test_a_different_model_embeds_again(world: World, account: Any, users: tuple[str, str]) -> None:
    """A different model embeds each text again, once for all shards, and reuses no vector of the previous model."""
    for user in users:
        world.add(user, account("buy milk"))
    world.night()
    before = world.rows("task_embeddings")
    world.embedder = WordVectors("other-vectors")
    world.night(NOON + HOUR)
    assert world.embedder.texts == ["buy milk"]
    rows = world.rows("task_embeddings")
    assert {row["model"] for row in rows} == {world.embedder.version}
    assert {row["model"] for row in before} == {WordVectors().version}
    world.embedder = WordVectors()
    world.night(NOON + 2 * HOUR)
    assert world.embedder.texts == []
    assert world.rows("task_embeddings") == before


def test_a_crash_loses_one_chunk(
    world: World, account: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash during embedding, the next run embeds only the texts of the last chunk and of those after it."""
    monkeypatch.setattr(import_module("assets.definitions.task_embeddings"), "CHUNK_TEXTS", 3)
    world.n_shards = 1
    world.add("ann", account(*EIGHT))
    world.embedder = crashing = CrashingEmbedder(6)
    with pytest.raises(Crash):
        world.night()
    assert world.rows("task_embeddings") == []
    with connect(database_url) as other_connection:  # sees only committed rows
        assert other_connection.execute("SELECT count(*) FROM text_vectors").fetchone() == (6,)
    world.embedder = WordVectors()
    night = world.night(NOON + HOUR)
    assert sorted(world.embedder.texts) == sorted(crashing.texts[6:])
    assert (len(crashing.texts), len(world.embedder.texts)) == (8, 2)
    assert count(night["task_embeddings"], "texts_shared") == 6
    rows = world.rows("task_embeddings")
    assert rows == rows_from_scratch(world, NOON + 2 * HOUR)


EMBED = """
import sys
from pathlib import Path
import numpy as np
import psycopg
import pyarrow as pa
from assets.definitions.task_embeddings import task_embeddings
from contexts.themes.vector_cache import VectorCache
from contexts.todoist.mirror import text_hash
from datetime import UTC, datetime

url, log, own = sys.argv[1:]

class Recorder:
    version, dim = "some-model", 8

    def encode(self, texts, on_batch=None):
        with Path(log).open("a") as file:
            file.writelines(f"{text}\\n" for text in texts)
        return np.eye(8, dtype=np.float32)[[len(text) % 8 for text in texts]]

texts = [f"text {number}" for number in range(1500)] + [own]
tasks = pa.table({
    "user_id": ["ann"] * len(texts), "task_id": [f"t{number:04}" for number in range(len(texts))],
    "text": texts, "text_hash": [text_hash(text) for text in texts],
})
previous = task_embeddings.schema.empty_table()
with psycopg.connect(url, autocommit=True) as connection:
    print("ready", flush=True)
    sys.stdin.readline()
    output = task_embeddings(tasks, previous, datetime(2026, 11, 23, tzinfo=UTC), Recorder(), VectorCache(connection))
assert len(output.table) == len(texts)
print(output.counts["texts_embedded"], output.counts["texts_shared"])
"""


def test_two_workers_embed_each_text_once(world: World, database_url: str, tmp_path: Path) -> None:
    """If two processes come upon the same texts at the same moment, one of them embeds each, and both get vectors."""
    log = tmp_path / "embedded"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", EMBED, database_url, str(log), own],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for own in ("own text of one", "own text of the other")
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    counts = [[int(word) for word in worker.communicate("go\n")[0].split()] for worker in workers]
    texts = log.read_text().splitlines()
    assert len(texts) == len(set(texts)) == 1502
    assert [embedded + shared for embedded, shared in counts] == [1501, 1501]


def test_a_dead_worker_holds_no_text(world: World, database_url: str) -> None:
    """The texts that a worker was embedding when its connection ended can be embedded by others at once."""
    milk = text_hash("buy milk")
    cache = VectorCache(world.connection)
    with connect(database_url) as other, VectorCache(other).claimed("some-model", [milk]) as claimed:
        assert claimed == {milk}
        with cache.claimed("some-model", [milk]) as left, cache.claimed("other-model", [milk]) as of_other_model:
            assert (left, of_other_model) == (set(), {milk})
        other.close()
        cache.wait_for("some-model", milk)
    with cache.claimed("some-model", [milk]) as claimed:
        assert claimed == {milk}


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_chunks_change_no_vector(world: World, account: Any, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Each task has the vector of its own text for every number of texts per chunk."""
    monkeypatch.setattr(import_module("assets.definitions.task_embeddings"), "CHUNK_TEXTS", chunk)
    world.add("ann", account(*EIGHT, EIGHT[0]))
    world.add("cem", account(*EIGHT[::-2], "water the plants"))
    world.night()
    assert sorted(world.embedder.texts) == sorted([*EIGHT, "water the plants"])
    text_by_hash = {text_hash(text): text for text in world.embedder.texts}
    rows = world.rows("task_embeddings")
    expected = WordVectors().encode([text_by_hash[row["text_hash"]] for row in rows]).astype(np.float16)
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], np.float16), expected)


def test_a_removed_user_leaves_no_vector(world: World, account: Any, users: tuple[str, str], neighbour: str) -> None:
    """The first night after a removal deletes the cached vectors of the user's texts and no others."""
    removed, kept = users
    world.add(removed, account("call the xylophone repair", "buy milk"))
    world.add(kept, account("buy milk", "buy bread"))
    world.night()
    others = {text_hash("buy bread"), text_hash("water the plants")}
    assert cached_hashes(world) == others | {text_hash("call the xylophone repair"), text_hash("buy milk")}
    world.accounts.remove(removed)
    world.night(NOON + HOUR)
    assert cached_hashes(world) == others
    assert {row["user_id"] for row in world.rows("task_embeddings")} == {kept, neighbour}


def test_a_text_shared_with_a_removed_user(
    world: World, account: Any, users: tuple[str, str], neighbour: str
) -> None:
    """A user with the same text as a removed user keeps the vector, and the text is not embedded again."""
    for user in users:
        world.add(user, account("buy milk"))
    world.night()
    world.accounts.remove(users[0])
    world.todoist.advance(users[1], {"items": [{"id": "t9", "content": "buy milk"}]})
    world.night(NOON + HOUR)
    assert sorted(world.embedder.texts) == ["buy milk", "water the plants"]
    rows = [(row["user_id"], row["task_id"]) for row in world.rows("task_embeddings")]
    assert sorted(rows) == sorted([(neighbour, "t0"), (users[1], "t0"), (users[1], "t9")])


def test_cached_vectors_expire(world: World, account: Any) -> None:
    """A run of `embed_tasks` deletes cached vectors that no task has used for more than EMBEDDING_CACHE_DAYS days."""
    settings = Settings(n_shards=world.n_shards, data_root=str(world.root), embedding_cache_days=10)
    runtime = Runtime.connect(settings, CredentialCipher([world.key]), world.connection, world.client.base_url)
    runtime = replace(runtime, embedder=world.embedder)
    world.add("ann", account("buy milk"))
    cached = []
    for days, text in ((0, "buy milk"), (10, "buy bread"), (11, "buy jam")):
        world.todoist.advance("ann", {"items": [{"id": "t0", "content": text}]})
        now = NOON + timedelta(days=days)
        runner = StepRunner(GRAPH, runtime, runtime.load_resources(), now, RunOptions(FetchScope.ALL))
        for step in ("fetch_signals", "embed_tasks"):
            run_step(runner, step, f"{step} {now}")
        cached.append(cached_hashes(world))
    milk, bread, jam = map(text_hash, ("buy milk", "buy bread", "buy jam"))
    assert cached == [{milk}, {milk, bread}, {bread, jam}]
