"""What analysts find in DuckDB: views of everything, described, and current with each statement."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pytest
from analysts import LONG_AGO, llm_call, opened, tip
from moto.server import ThreadedMotoServer
from world import NOON, World

from assets.attached import SCHEMAS, Attached
from assets.definitions import GRAPH
from assets.errors import AssetError
from assets.session import STORED, Session, session
from contexts.sql import ROOT


@pytest.fixture
def analyst(world: World, database_url: str) -> Iterator[Session]:
    with opened(world, database_url) as made:
        yield made


def rows(analyst: Session, text: str) -> list[tuple[Any, ...]]:
    found = analyst.sql(text)
    assert found is not None
    return found.fetchall()


def test_before_the_first_night(analyst: Session) -> None:
    """Every view can be read before anything was ever made, and is empty."""
    views = [name for (name,) in rows(analyst, "SELECT DISTINCT view_name FROM catalog")]
    assert len(views) == len(STORED) + len(SCHEMAS) + 2 + len(list((ROOT / "analysis").glob("*.sql")))
    for view in views:
        if view != "catalog":
            assert rows(analyst, f"FROM {view}") == [], view


def test_views_show_what_assets_hold(analyst: Session, world: World, account: Any) -> None:
    """The view of each asset has the rows that the engine itself reads, and the shard in which they are."""
    world.add("ann", account("call the dentist", "call the dentist again"))
    world.add("cem", account())
    world.night()
    for asset in GRAPH:
        found = rows(analyst, f"SELECT {', '.join(asset.schema.names)} FROM {asset.name} ORDER BY shard")
        held = [tuple(row[name] for name in asset.schema.names) for row in world.rows(asset.name)]
        if asset.name != "task_embeddings":
            assert found == held
        else:
            assert [row[:4] for row in found] == [row[:4] for row in held]
            for (*_, one), (*_, other) in zip(found, held, strict=True):
                assert one == [float(number) for number in np.array(other, np.float16)]
    assert rows(analyst, "SELECT DISTINCT user_id, shard FROM todoist_tasks ORDER BY 1") == [("ann", 0), ("cem", 1)]


def test_each_statement_sees_what_is_there(analyst: Session, world: World, account: Any) -> None:
    """A session that is left open sees the next night and the tips that were given meanwhile."""
    world.add("ann", account("buy milk"))
    assert rows(analyst, "SELECT count(*) FROM todoist_tasks") == [(0,)]
    world.night()
    assert rows(analyst, "SELECT content FROM todoist_tasks") == [("buy milk",)]
    world.todoist.advance("ann", {"items": [{"id": "t0", "content": "buy oat milk"}]})
    world.night(NOON + timedelta(days=1))
    assert rows(analyst, "SELECT content FROM todoist_tasks") == [("buy oat milk",)]
    assert rows(analyst, "SELECT count(*) FROM decisions") == [(0,)]
    tip(world, "ann", NOON, "plan", reaction="done", reward=1.0)
    llm_call(world, "ann", NOON)
    given = rows(analyst, "SELECT tip_kind, propensity, reaction FROM decisions JOIN reactions USING (decision_id)")
    assert given == [("plan", 0.5, "done")]
    assert rows(analyst, "SELECT model, cost_usd FROM llm_calls") == [("a-model", 0.002)]


def test_views_of_ones_own(analyst: Session, world: World, account: Any) -> None:
    """A view or a table that an analyst makes of ours follows, or keeps, what it was made of."""
    world.add("ann", account("buy milk"))
    tip(world, "ann", NOON)
    analyst.sql("CREATE VIEW mine AS SELECT count(*) AS n FROM decisions; CREATE TABLE kept AS FROM decisions")
    tip(world, "ann", NOON)
    assert rows(analyst, "FROM mine") == [(2,)]
    assert rows(analyst, "SELECT count(*) FROM kept") == [(1,)]


def test_by_whatever_way(analyst: Session, world: World, account: Any) -> None:
    """Macros, names given as texts and prepared statements read what is there, too."""
    world.add("ann", account("buy milk"))
    analyst.sql("CREATE MACRO mine() AS TABLE SELECT count(*) FROM todoist_tasks")
    analyst.sql("CREATE MACRO told() AS (SELECT count(*) FROM decisions)")
    analyst.sql("PREPARE ours AS SELECT count(*) FROM todoist_tasks")
    world.night()
    tip(world, "ann", NOON)
    assert rows(analyst, "FROM mine()") == [(1,)]
    assert rows(analyst, "EXECUTE ours") == [(1,)]
    assert rows(analyst, "SELECT told()") == [(1,)]
    tip(world, "ann", NOON)
    assert rows(analyst, "SELECT count(*) FROM query_table('decisions')") == [(2,)]


def test_statements_of_many_kinds(analyst: Session, world: World, account: Any, tmp_path: Path) -> None:
    """Selections, exports, summaries and pivots read what is there; the last answer is given."""
    world.add("ann", account("buy milk", "call the dentist"))
    world.night()
    tip(world, "ann", NOON)
    assert rows(analyst, "SELECT 1; WITH own AS (FROM decisions) SELECT count(*) FROM own;") == [(1,)]
    analyst.sql(f"COPY (FROM decisions) TO '{tmp_path / 'tips.csv'}'")
    assert (tmp_path / "tips.csv").read_text().count("\n") == 2
    summaries = {name: count for name, *_, count, _ in rows(analyst, "SUMMARIZE todoist_tasks")}
    assert summaries["content"] == 2
    assert rows(analyst, "PIVOT todoist_tasks ON content USING count(*) GROUP BY user_id") == [("ann", 1, 1)]


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A DATA_ROOT that is no folder: in memory, and in an S3 that answers on loopback."""
    if request.param == "memory":
        yield f"memory://{tmp_path.name}"
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**access, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").mkdir("tips")
    yield "s3://tips/data"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def test_wherever_the_files_are(remote: str, world: World, account: Any) -> None:
    """A remote DATA_ROOT is written and read like a folder, and read as it is when the statement begins."""
    world.root = remote  # type: ignore[assignment]
    world.add("ann", account("buy milk"))
    world.night()
    with session(remote, Attached(None, LONG_AGO)) as analyst:
        assert rows(analyst, "SELECT content, shard FROM todoist_tasks") == [("buy milk", 0)]
        world.todoist.advance("ann", {"items": [{"id": "t0", "content": "buy oat milk"}]})
        world.night(NOON + timedelta(days=1))
        assert rows(analyst, "SELECT content FROM todoist_tasks") == [("buy oat milk",)]
        assert rows(analyst, "SELECT author FROM context_history") == [("night",), ("night",)]


def test_without_postgres(world: World, account: Any) -> None:
    """Without DATABASE_URL files and all columns can be asked for; what lies in Postgres says what to set."""
    world.add("ann", account("buy milk"))
    world.night()
    with opened(world, None) as analyst:
        for text in (
            "SELECT content AS decisions FROM todoist_tasks AS users",
            "WITH users AS (SELECT content FROM todoist_tasks) FROM users",
            "CREATE TABLE kept AS SELECT content AS reactions FROM todoist_tasks; FROM kept",
        ):
            assert rows(analyst, text) == [("buy milk",)]
        assert "propensity" in [name for name, *_ in rows(analyst, "DESCRIBE decisions")]
        for text in ("FROM decisions", "FROM analysis.tip_kinds", "CREATE TABLE mine AS FROM reactions"):
            with pytest.raises(AssetError, match=r"is read from Postgres, and DATABASE_URL .* Set it"):
                analyst.sql(text)
        assert rows(analyst, "SELECT content FROM todoist_tasks") == [("buy milk",)]
    with (
        opened(world, "postgresql://nobody@127.0.0.1:1/none") as analyst,
        pytest.raises(AssetError, match=r"users cannot be read from Postgres \(DATABASE_URL\)"),
    ):
        analyst.sql("FROM users")


def test_how_far_back(world: World, account: Any, database_url: str) -> None:
    """Tips, reactions and calls of before the instant asked for stay in Postgres."""
    world.add("ann", account())
    for days in (1, 40):
        tip(world, "ann", NOON - timedelta(days=days), reaction="done")
        llm_call(world, "ann", NOON - timedelta(days=days))
    with session(str(world.root), Attached(database_url, NOON - timedelta(days=30))) as analyst:
        for name in ("decisions", "reactions", "llm_calls"):
            assert rows(analyst, f"SELECT count(*) FROM {name}") == [(1,)]


def test_every_column_is_described(analyst: Session) -> None:
    """The catalog has every column of every view with its meaning; instants, numbers and hashes have units."""
    described = rows(analyst, "SELECT view_name, column_name, data_type, unit, meaning, view_meaning FROM catalog")
    for view, column, kind, unit, meaning, view_meaning in described:
        assert view_meaning, view
        if not view.startswith("analysis."):
            assert meaning, (view, column)
            counts = kind in ("BIGINT", "INTEGER", "FLOAT", "DOUBLE", "TINYINT", "TIMESTAMP WITH TIME ZONE")
            if (counts and column != "shard") or column.endswith(("hash", "version", "_json")):
                assert unit or column in ("model_version", "policy_version", "code_version"), (view, column)
    stored = {(view.name, name) for view in STORED for name in view.schema.names}
    assert stored <= {(view, column) for view, column, *_ in described}


def test_the_catalog_is_fresh(analyst: Session, world: World, account: Any) -> None:
    """`shards` has each shard's version as its footer says; the catalog sums them up."""
    world.add("ann", account("buy milk"))
    world.add("cem", account("mend the bicycle", "write a letter"))
    world.night()
    asset = GRAPH["todoist_tasks"]
    footers = world.shards.footers(asset)
    versions = "SELECT shard, n_users, n_rows, materialized_at, data_version, code_version FROM shards"
    assert rows(analyst, f"{versions} WHERE asset = 'todoist_tasks' ORDER BY shard") == [
        (each.shard, each.n_users, each.n_rows, each.materialized_at, each.data_version, asset.code_version)
        for each in footers
    ]
    inputs = "SELECT inputs ->> 'todoist_tasks' FROM shards WHERE asset = 'task_embeddings' AND shard = 0"
    edge = GRAPH["task_embeddings"].inputs[0]
    assert rows(analyst, inputs) == [(footers[0].edge_version(edge.columns),)]
    summed = "SELECT DISTINCT n_shards, n_rows, oldest_at FROM catalog WHERE view_name = 'todoist_tasks'"
    assert rows(analyst, summed) == [(2, 3, min(each.materialized_at for each in footers))]


def test_similar_tasks(analyst: Session, world: World, account: Any) -> None:
    """`similar_tasks` gives the n tasks nearest in meaning to one, of whomever, the nearest first, never itself."""
    own = [{"id": "a1", "content": "call the dentist"}, {"id": "a2", "content": "mend the red bicycle"}]
    other = [{"id": "c1", "content": "call the dentist today"}, {"id": "c2", "content": "the red bicycle"}]
    world.add("ann", account(*own))
    world.add("cem", account(*other))
    world.night()
    found = rows(analyst, "SELECT user_id, task_id, content FROM similar_tasks('a2', 2)")
    assert found[0] == ("cem", "c2", "the red bicycle")
    assert len(found) == 2
    [[nearest, farthest]] = rows(analyst, "SELECT max(similarity), min(similarity) FROM similar_tasks('a2', 9)")
    assert 1 > nearest > farthest
    assert rows(analyst, "FROM similar_tasks('nobody''s', 3)") == []
    [[same, opposite]] = rows(analyst, "SELECT cosine([3.0, 4.0], [6.0, 8.0]), cosine([1.0, 0.0], [-2.0, 0.0])")
    assert (same, opposite) == pytest.approx((1, -1))


def test_intervals(analyst: Session) -> None:
    """Bounds of shares are those of Wilson's interval: 8 of 10 lie between 0.490 and 0.943, 0 of 10 begin at 0."""
    [[low, high]] = rows(analyst, "SELECT share_low(8, 10), share_high(8, 10)")
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    [[none, some]] = rows(analyst, "SELECT share_low(0, 10), share_high(0, 10)")
    assert (none, some) == pytest.approx((0, 0.2775), abs=1e-4)


@pytest.mark.parametrize(
    ("due", "zone", "day"),
    [
        ("2026-11-23", "Pacific/Auckland", "2026-11-23"),
        ("2026-11-23T23:30:00", "America/Los_Angeles", "2026-11-23"),
        ("2026-11-23T23:30:00Z", "Europe/Berlin", "2026-11-24"),
        ("2026-11-23T23:30:00.000000Z", "Mars/Olympus", "2026-11-23"),
    ],
)
def test_due_days(analyst: Session, due: str, zone: str, day: str) -> None:
    """A due date counts on the user's own calendar, as it does in contexts; an unknown zone is UTC."""
    [[found]] = rows(analyst, f"SELECT due_day('{due}', '{zone}')::VARCHAR")
    assert found == day


def test_a_mistake_is_duckdbs_to_tell(analyst: Session) -> None:
    """What is wrong with a statement is said by DuckDB, and the session goes on."""
    for text in ("FROM nobody", "SELEC 1", "SELECT contnt FROM todoist_tasks"):
        with pytest.raises(duckdb.Error):
            analyst.sql(text)
    assert rows(analyst, "SELECT 1") == [(1,)]


def test_nothing_is_left(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session removes its folder, and the next one those of processes that were killed, but of nobody who lives."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    (tmp_path / f"views-{killed.pid}-abc").mkdir()
    (tmp_path / f"views-{os.getppid()}-abc").mkdir()
    (tmp_path / "views-of-mine").mkdir()
    with session(str(world.root), Attached(None, LONG_AGO)):
        assert len(list(tmp_path.glob("views-*"))) == 3
    assert {path.name for path in tmp_path.glob("views-*")} == {f"views-{os.getppid()}-abc", "views-of-mine"}


def test_now_is_now(world: World) -> None:
    """Analyses are as of the moment at which they are asked for."""
    with session(str(world.root), Attached(None, LONG_AGO)) as analyst:
        [[now]] = rows(analyst, "SELECT as_of()")
    assert abs(datetime.now(UTC) - now) < timedelta(minutes=1)


def test_each_analysis_begins_with_its_question() -> None:
    """The first line of each analysis is a comment, which asks what it answers."""
    for path in (ROOT / "analysis").glob("*.sql"):
        assert re.fullmatch(r"-- [A-Z].*[?.]", path.read_text().splitlines()[0]), path.name
