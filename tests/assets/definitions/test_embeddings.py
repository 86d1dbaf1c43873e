"""Vectors over nights: each text is embedded once, whoever wrote it, and whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from world import NOON, WordVectors, World

from assets.definitions import GRAPH
from assets.doors import Doors
from assets.night import Night, Order
from assets.versions import shard_of
from contexts.accounts import Look
from contexts.mirror import text_hash
from contexts.settings import Settings
from contexts.sql import connect
from contexts.vault import Vault

HOUR = timedelta(hours=1)
EIGHT = [f"call {name}" for name in ("ann", "bob", "cem", "dan", "eve", "fay", "gus", "hal")]


class Died(Exception):
    """The machine is gone."""


class Dying(WordVectors):
    """Has embedded more than so many texts, and dies before anybody has their vectors."""

    def __init__(self, n_texts: int) -> None:
        super().__init__()
        self.n_texts = n_texts

    def encode(self, texts: Sequence[str], done: Any = None) -> Any:
        vectors = super().encode(texts)
        if len(self.texts) > self.n_texts:
            raise Died
        return vectors


def count(records: Any, name: str) -> int:
    return sum(record.counts[name] for record in records)


def cached(world: World) -> set[str]:
    """The hashes of the texts whose vectors are kept for others."""
    return {found for (found,) in world.connection.execute("SELECT encode(text_hash, 'hex') FROM text_vectors")}


def from_nothing(world: World, now: datetime) -> list[dict[str, Any]]:
    """The vectors that a run makes that knows none, neither of a shard nor of the cache."""
    world.connection.execute("TRUNCATE text_vectors")
    for path in world.root.glob("task_embeddings/*/data.parquet"):
        path.unlink()
    world.embedder = WordVectors(world.embedder.model, world.embedder.dim)
    world.night(now)
    made = world.rows("task_embeddings")
    assert len(world.embedder.texts) == len({row["text_hash"] for row in made}) > 0
    return made


@pytest.fixture
def apart(world: World) -> tuple[str, str]:
    """Two names whose tasks stand in different shards."""
    found = {shard_of(name, world.n_shards): name for name in ("cem", "ann")}
    return found[0], found[1]


@pytest.fixture
def neighbour(world: World, account: Any, apart: tuple[str, str]) -> str:
    """Somebody in the shard of the first of the two, for whom it is looked at when nobody else is left in it."""
    shard = shard_of(apart[0], world.n_shards)
    name = next(name for name in ("bob", "dan", "eve") if shard_of(name, world.n_shards) == shard)
    world.add(name, account("water the plants"))
    return name


def test_a_text_is_embedded_once_whoever_wrote_it(world: World, account: Any, apart: tuple[str, str]) -> None:
    """A text that users in different shards write is embedded once, and both have the vector that it has alone."""
    for user in apart:
        world.add(user, account("buy milk", f"call {user}"))
    night = world.night()
    assert sorted(world.embedder.texts) == sorted(["buy milk", *(f"call {user}" for user in apart)])
    assert count(night["task_embeddings"], "texts_embedded") == 3
    assert count(night["task_embeddings"], "texts_shared") == 1
    rows = world.rows("task_embeddings")
    assert rows == from_nothing(world, NOON + HOUR)
    milk = {row["user_id"]: row["embedding"] for row in rows if row["text_hash"] == text_hash("buy milk")}
    [expected] = WordVectors().encode(["buy milk"]).astype(np.float16).tolist()
    assert milk == dict.fromkeys(apart, expected)


def test_a_later_text_of_another_shard(world: World, account: Any, apart: tuple[str, str]) -> None:
    """A text that somebody wrote days ago is not embedded again when a user of another shard writes it."""
    first, second = apart
    world.add(first, account("buy milk"))
    world.add(second, account())
    world.night()
    world.todoist.advance(second, {"items": [{"id": "t9", "content": "buy milk"}]})
    world.night(NOON + 48 * HOUR)
    assert world.embedder.texts == ["buy milk"]
    assert len(world.rows("task_embeddings")) == 2


def test_another_model_embeds_again(world: World, account: Any, apart: tuple[str, str]) -> None:
    """No vector of another model is taken for a text: the new model embeds it, once for all shards."""
    for user in apart:
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


def test_a_run_that_died_loses_a_chunk(
    world: World, account: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies while it embeds leaves what it had before its last chunk: the next one embeds only the rest."""
    monkeypatch.setattr(import_module("assets.definitions.task_embeddings"), "CHUNK", 3)
    world.n_shards = 1
    world.add("ann", account(*EIGHT))
    world.embedder = dying = Dying(6)
    with pytest.raises(Died):
        world.night()
    assert world.rows("task_embeddings") == []
    with connect(database_url) as beside:  # what is on Postgres, not what a transaction would take away
        assert beside.execute("SELECT count(*) FROM text_vectors").fetchone() == (6,)
    world.embedder = WordVectors()
    night = world.night(NOON + HOUR)
    assert sorted(world.embedder.texts) == sorted(dying.texts[6:])
    assert (len(dying.texts), len(world.embedder.texts)) == (8, 2)
    assert count(night["task_embeddings"], "texts_shared") == 6
    rows = world.rows("task_embeddings")
    assert rows == from_nothing(world, NOON + 2 * HOUR)


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_chunks_change_no_vector(world: World, account: Any, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """However many texts are embedded at a time, each task has the vector of its own text."""
    monkeypatch.setattr(import_module("assets.definitions.task_embeddings"), "CHUNK", chunk)
    world.add("ann", account(*EIGHT, EIGHT[0]))
    world.add("cem", account(*EIGHT[::-2], "water the plants"))
    world.night()
    assert sorted(world.embedder.texts) == sorted([*EIGHT, "water the plants"])
    of = {text_hash(text): text for text in world.embedder.texts}
    rows = world.rows("task_embeddings")
    expected = WordVectors().encode([of[row["text_hash"]] for row in rows]).astype(np.float16)
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], np.float16), expected)


def test_a_removed_user_leaves_no_vector(world: World, account: Any, apart: tuple[str, str], neighbour: str) -> None:
    """The texts of a user who was taken out are not kept for others after the next night; the others' texts are."""
    gone, stays = apart
    world.add(gone, account("call the xylophone repair", "buy milk"))
    world.add(stays, account("buy milk", "buy bread"))
    world.night()
    others = {text_hash("buy bread"), text_hash("water the plants")}
    assert cached(world) == others | {text_hash("call the xylophone repair"), text_hash("buy milk")}
    world.accounts.remove(gone)
    world.night(NOON + HOUR)
    assert cached(world) == others
    assert {row["user_id"] for row in world.rows("task_embeddings")} == {stays, neighbour}


def test_a_text_shared_with_who_is_gone(world: World, account: Any, apart: tuple[str, str], neighbour: str) -> None:
    """Whoever wrote the same as a user who was taken out keeps the vector, and nothing is embedded again for it."""
    for user in apart:
        world.add(user, account("buy milk"))
    world.night()
    world.accounts.remove(apart[0])
    world.todoist.advance(apart[1], {"items": [{"id": "t9", "content": "buy milk"}]})
    world.night(NOON + HOUR)
    assert sorted(world.embedder.texts) == ["buy milk", "water the plants"]
    rows = [(row["user_id"], row["task_id"]) for row in world.rows("task_embeddings")]
    assert sorted(rows) == sorted([(neighbour, "t0"), (apart[1], "t0"), (apart[1], "t9")])


def test_texts_that_nobody_writes_expire(world: World, account: Any) -> None:
    """A run of `embed_tasks` keeps for others what was written within EMBEDDING_CACHE_DAYS, to the day."""
    settings = Settings(n_shards=world.n_shards, data_root=str(world.root), embedding_cache_days=10)
    made = Doors.of(settings, Vault([world.key]), world.connection, world.client.base_url)
    doors = Doors(**{**vars(made), "embedder": world.embedder})
    world.add("ann", account("buy milk"))
    left = []
    for days, text in ((0, "buy milk"), (10, "buy bread"), (11, "buy jam")):
        world.todoist.advance("ann", {"items": [{"id": "t0", "content": text}]})
        now = NOON + timedelta(days=days)
        night = Night(doors, now, Order(Look.EVERYBODY))
        for step in ("fetch_signals", "embed_tasks"):
            plan, planner = night.plan(step)
            night.open(step, str(now), now, night.bill(plan, planner, GRAPH.steps[step]))
            night.close(step, str(now), now, list(night.execute(plan)))
        left.append(cached(world))
    milk, bread, jam = map(text_hash, ("buy milk", "buy bread", "buy jam"))
    assert left == [{milk}, {milk, bread}, {bread, jam}]
