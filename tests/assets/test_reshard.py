"""Rows that move to another number of shards, with a crash at any point."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import psycopg
import pytest
from object_store import running_s3
from toy import NOON, Model, Row, ToyPipeline, shelf, toy_graph

from assets.engine.erase import erase
from assets.engine.errors import AssetError, ShardUnreadable, WrongShardCount
from assets.engine.hashing import shard_of
from assets.engine.parquet import Shards
from assets.reshard import reshard
from contexts.assembly.history import ContextVersion, History

USERS = [f"user-{number}" for number in range(12)]
TABLES = ("letters", "words", "pages", "shelf")


def written(root: str, n_shards: int) -> ToyPipeline:
    """A pipeline of twelve users after a run; a user has no letters any more."""
    pipeline = ToyPipeline(root, n_shards, toy_graph(shelf))
    for number, user in enumerate(USERS):
        pipeline.post_office.write(user, "l1", f"hello {number}", opens_at=NOON + timedelta(days=number))
    pipeline.run()
    pipeline.post_office.discard(USERS[3], "l1")
    pipeline.run()
    return pipeline


def divided(pipeline: ToyPipeline, n_shards: int) -> ToyPipeline:
    """The same pipeline with another N_SHARDS."""
    pipeline.shards = Shards(pipeline.root, n_shards)
    return pipeline


def data(pipeline: ToyPipeline) -> dict[str, dict[str, list[Row]]]:
    """The rows of each user by asset, and a list of the users in the indices."""
    rows: dict[str, dict[str, list[Row]]] = {name: {} for name in TABLES}
    for name in TABLES:
        for row in pipeline.rows(name):
            rows[name].setdefault(row["user_id"], []).append(row)
        for footer in pipeline.shards.footers(pipeline.graph[name]):
            for user in footer.index.users:
                assert shard_of(user, pipeline.shards.n_shards) == footer.shard
                rows[name].setdefault(user, [])
    return rows


def move(pipeline: ToyPipeline, n_shards: int) -> list[str]:
    return list(filter(None, reshard(pipeline.graph, pipeline.root, n_shards)))


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (4, 3), (3, 1), (1, 5)])
def test_nothing_is_computed_again(tmp_path: Path, before: int, after: int) -> None:
    """After a move every user has the same rows, a plan finds all shards up to date, and a run computes nobody."""
    pipeline = written(str(tmp_path), before)
    expected = data(pipeline)
    assert "Set N_SHARDS=" in move(pipeline, after)[-1]
    divided(pipeline, after)
    assert data(pipeline) == expected
    assert pipeline.plans() == {}
    results = pipeline.run()
    assert pipeline.calls.keys() == {"shelf"}
    assert sum(result.counts.get("letters_read", 0) for result in results) == 2  # of the user without stored letters
    assert data(pipeline) == expected


def test_a_move_in_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in an object store move as those in a folder do."""
    with running_s3(monkeypatch) as store:
        pipeline = written(f"{store.root}/data", 2)
        expected = data(pipeline)
        move(pipeline, 3)
        assert data(divided(pipeline, 3)) == expected
        assert {path.rsplit("/data/", 1)[1] for path in pipeline.files()} == {
            "shards.json",
            *(f"{name}/footers.parquet" for name in TABLES),
            *(f"{name}/shard=000{shard}/data.parquet" for name in TABLES for shard in range(3)),
        }


def steps_of(pipeline: ToyPipeline, n_shards: int) -> int:
    """The number of points at which a move can be killed; the root is as before."""
    copy = f"{pipeline.root}-copy"
    shutil.copytree(pipeline.root, copy)
    n_steps = sum(1 for _ in reshard(pipeline.graph, copy, n_shards))
    shutil.rmtree(copy)
    return n_steps


@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 3)])
def test_killed_at_any_point(tmp_path: Path, before: int, after: int) -> None:
    """Killed at any point, either the old layout is complete, or all refuse until the same command ends the move."""
    pipeline = written(str(tmp_path / "data"), before)
    expected, states = data(pipeline), []
    shutil.copytree(pipeline.root, tmp_path / "original")
    for n_done in range(1, steps_of(pipeline, after)):
        shutil.rmtree(pipeline.root)
        shutil.copytree(tmp_path / "original", pipeline.root)
        killed = reshard(pipeline.graph, pipeline.root, after)
        for _ in range(n_done):
            next(killed)
        killed.close()
        states.append(state(pipeline, before, after))
        if states[-1] == "old":
            assert data(divided(pipeline, before)) == expected
            assert pipeline.plans() == {}
        move(pipeline, after)
        assert data(divided(pipeline, after)) == expected
        assert pipeline.plans() == {}
        assert not (tmp_path / "data/resharding").exists()
    assert list(dict.fromkeys(states)) == ["old", "refused", "new"]
    assert states == sorted(states, key=["old", "refused", "new"].index)


def state(pipeline: ToyPipeline, before: int, after: int) -> str:
    """The layout that can be used, or "refused" with the way out."""
    messages = {}
    for name, n_shards in (("old", before), ("new", after)):
        try:
            Shards(pipeline.root, n_shards).check_layout()
        except WrongShardCount as error:
            messages[name] = str(error)
        else:
            return name
    assert all(f"python -m assets reshard {after}" in message for message in messages.values())
    with pytest.raises(WrongShardCount, match=f"Finish that first: python -m assets reshard {after}"):
        move(pipeline, 7)
    return "refused"


def test_users_of_an_older_model_stay_stale(tmp_path: Path) -> None:
    """Users whom a run did not reach are still computed after a move, and no others."""
    pipeline = written(str(tmp_path), 2)
    pipeline.model = Model("2")
    pipeline.run(only_shards=[0])
    move(pipeline, 1)
    divided(pipeline, 1)
    pipeline.run()
    behind = [user for user in USERS if shard_of(user, 2) == 1 and user != USERS[3]]
    assert set(pipeline.calls["words"][0]) - {USERS[3]} == set(behind)
    assert pipeline.plans() == {}


def test_users_of_a_run_for_single_users_stay_stale(tmp_path: Path) -> None:
    """Users who were left out of a run are still computed after a move, and no others."""
    pipeline = written(str(tmp_path), 2)
    for user in USERS[:3]:
        pipeline.post_office.write(user, "l2", "and another")
    pipeline.run(select=["letters"])
    pipeline.run(select=["words"], only_users=[USERS[0]])
    move(pipeline, 3)
    divided(pipeline, 3)
    pipeline.run()
    assert {user for call in pipeline.calls["words"] for user in call} == set(USERS[1:3])


def test_a_stage_that_was_not_run_yet(tmp_path: Path) -> None:
    """Assets without files have none after a move, and are computed by the next run."""
    pipeline = ToyPipeline(str(tmp_path), 2, toy_graph(shelf))
    for user in USERS:
        pipeline.post_office.write(user, "l1", "hello")
    pipeline.run(select=["letters", "words"])
    move(pipeline, 3)
    divided(pipeline, 3)
    assert pipeline.plans()["pages"] == dict.fromkeys(range(3), "missing")
    pipeline.run()
    assert pipeline.calls.keys() == {"pages", "shelf"}


@pytest.mark.parametrize("table", ["letters", "words"])
def test_an_unreadable_file_is_named_first(tmp_path: Path, table: str) -> None:
    """A damaged file refuses the move with its remedy, and every file of the old layout stays."""
    pipeline = written(str(tmp_path), 2)
    path = Path(pipeline.shards.path(table, 1))
    path.write_bytes(path.read_bytes()[:60] + b"rot" + path.read_bytes()[63:])
    before = files_of(tmp_path)
    with pytest.raises(ShardUnreadable, match=f"python -m assets rebuild {table} --shard 1"):
        move(pipeline, 3)
    assert before.items() <= files_of(tmp_path).items()
    Shards(pipeline.root, 2).check_layout()


def test_a_lost_source_is_fetched_first(tmp_path: Path) -> None:
    """A shard that the next run would fetch in full is not forgotten: the move is refused until it was fetched."""
    pipeline = written(str(tmp_path), 2)
    Path(pipeline.shards.path("letters", 1)).unlink()
    with pytest.raises(AssetError, match=r"shard 1 of letters has no file.*materialize --shards 1"):
        move(pipeline, 1)


def test_nothing_to_move(tmp_path: Path) -> None:
    """A root without files is named, and a move to the same number does nothing."""
    with pytest.raises(AssetError, match="has no files yet"):
        list(reshard(toy_graph(), str(tmp_path), 3))
    pipeline = written(str(tmp_path), 2)
    before = files_of(tmp_path)
    move(pipeline, 2)
    assert files_of(tmp_path) == before


def test_files_set_aside_are_removed(tmp_path: Path) -> None:
    """No file set aside stays in a folder in which a later erasure of its users would not look for it."""
    pipeline = written(str(tmp_path), 2)
    folder = Path(pipeline.shards.path("words", 1)).parent
    (folder / "data.parquet.123.aside").write_bytes(b"user-1")
    move(pipeline, 3)
    assert list(tmp_path.rglob("*.aside")) == []


def test_the_history_moves(tmp_path: Path, connection: psycopg.Connection[Any]) -> None:
    """Every version of a context is found in its user's new shard, on its day."""
    pipeline = written(str(tmp_path), 2)

    def history(n_shards: int) -> History:
        return History(str(tmp_path), connection, lambda user: shard_of(user, n_shards))

    at = [NOON, NOON + timedelta(days=1)]
    versions = {user: [ContextVersion(user, day, day, f"h{day}", "{}", "pipeline") for day in at] for user in USERS}
    history(2).append(version for own in versions.values() for version in own)
    move(pipeline, 3)
    shards = {shard_of(user, 3) for user in USERS}
    assert {user: history(3).versions_of(user) for user in USERS} == versions
    assert len(list(tmp_path.glob("context_history/day=*/shard=*/data.parquet"))) == 2 * len(shards)


class TestRefusals:
    """Processes with another number of shards than the root's."""

    @pytest.fixture
    def pipeline(self, tmp_path: Path) -> Iterator[ToyPipeline]:
        """A pipeline over a root of two shards, with N_SHARDS=4; no file of the root changes."""
        pipeline = divided(written(str(tmp_path), 2), 4)
        before = files_of(tmp_path)
        yield pipeline
        assert files_of(tmp_path) == before

    def test_runs(self, pipeline: ToyPipeline) -> None:
        """A run is refused before an asset is called or a position is confirmed."""
        confirmed = dict(pipeline.post_office.confirmed)
        pipeline.post_office.write(USERS[0], "l9", "hello")
        with pytest.raises(WrongShardCount, match="N_SHARDS=2, but N_SHARDS is 4 here"):
            pipeline.materialize(pipeline.plan(pipeline.request(USERS[0], only_shards=[3])))
        assert (pipeline.calls, pipeline.post_office.confirmed) == ({}, confirmed)

    def test_erasing(self, pipeline: ToyPipeline) -> None:
        """An erasure is refused."""
        with pytest.raises(WrongShardCount):
            erase(pipeline.graph, pipeline.shards, USERS[:1])

    def test_without_a_stored_layout(self, tmp_path: Path) -> None:
        """The files of a root of an earlier version tell the number, which the next write stores."""
        pipeline = written(str(tmp_path), 5)
        (tmp_path / "shards.json").unlink()
        for shard in range(4):
            for name in TABLES:
                shutil.rmtree(Path(pipeline.shards.path(name, shard)).parent, ignore_errors=True)
        with pytest.raises(WrongShardCount, match="N_SHARDS=5, but N_SHARDS is 2 here"):
            Shards(str(tmp_path), 2).check_layout()
        Shards(str(tmp_path), 5).check_layout()
        assert not (tmp_path / "shards.json").exists()
        divided(pipeline, 5).run()
        assert (tmp_path / "shards.json").read_text() == '{"n_shards": 5, "is_moving": false}'

    def test_a_damaged_layout(self, tmp_path: Path) -> None:
        """A layout that cannot be read is named with its remedy."""
        pipeline = written(str(tmp_path), 2)
        (tmp_path / "shards.json").write_text("{")
        with pytest.raises(ShardUnreadable, match=r"shards\.json cannot be read .*Write the number of shards"):
            pipeline.shards.check_layout()


def files_of(folder: Path) -> dict[str, bytes]:
    filesystem = fsspec.filesystem("file")
    return {path: filesystem.cat_file(path) for path in filesystem.find(str(folder)) if "resharding" not in path}
