"""DuckDB sessions of analysts: described views of all data, current for each statement."""

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
import numpy as np
import pytest
from analysts import LONG_AGO, log_llm_call, log_tip, open_world_session
from object_store import running_s3
from world import NOON, World

from assets.analysis.postgres_tables import POSTGRES_SCHEMAS, PostgresTables
from assets.analysis.session import FILE_VIEWS, Session, open_session
from assets.definitions import GRAPH
from assets.engine.errors import AssetError
from contexts.postgres.sql import ROOT
from local.postgres import create_database


@pytest.fixture
def analyst(world: World, database_url: str) -> Iterator[Session]:
    with open_world_session(world, database_url) as session:
        yield session


def rows(analyst: Session, text: str) -> list[tuple[Any, ...]]:
    result = analyst.sql(text)
    assert result is not None
    return result.fetchall()


def test_before_the_first_run(analyst: Session) -> None:
    """Before the first run every view can be read, and is empty."""
    views = [name for (name,) in rows(analyst, "SELECT DISTINCT view_name FROM catalog")]
    assert len(views) == len(FILE_VIEWS) + len(POSTGRES_SCHEMAS) + 2 + len(list((ROOT / "analysis").glob("*.sql")))
    for view in views:
        if view != "catalog":
            assert rows(analyst, f"FROM {view}") == [], view


def test_views_show_the_rows_of_assets(analyst: Session, world: World, account: Any) -> None:
    """The view of each asset has the rows that the engine reads, and their shard."""
    world.add("ann", account("call the dentist", "call the dentist again"))
    world.add("cem", account())
    world.night()
    for asset in GRAPH:
        shown = rows(analyst, f"SELECT {', '.join(asset.schema.names)} FROM {asset.name} ORDER BY shard")
        stored = [tuple(row[name] for name in asset.schema.names) for row in world.rows(asset.name)]
        if asset.name != "task_embeddings":
            assert shown == stored
        else:
            assert [row[:4] for row in shown] == [row[:4] for row in stored]
            for (*_, vector), (*_, stored_vector) in zip(shown, stored, strict=True):
                assert vector == [float(number) for number in np.array(stored_vector, np.float16)]
    assert rows(analyst, "SELECT DISTINCT user_id, shard FROM todoist_tasks ORDER BY 1") == [("ann", 0), ("cem", 1)]


def test_each_statement_sees_current_data(analyst: Session, world: World, account: Any) -> None:
    """An open session sees the data of later runs and the tips returned meanwhile."""
    world.add("ann", account("buy milk"))
    assert rows(analyst, "SELECT count(*) FROM todoist_tasks") == [(0,)]
    world.night()
    assert rows(analyst, "SELECT content FROM todoist_tasks") == [("buy milk",)]
    world.todoist.advance("ann", {"items": [{"id": "t0", "content": "buy oat milk"}]})
    world.night(NOON + timedelta(days=1))
    assert rows(analyst, "SELECT content FROM todoist_tasks") == [("buy oat milk",)]
    assert rows(analyst, "SELECT count(*) FROM decisions") == [(0,)]
    log_tip(world, "ann", NOON, "plan", reaction="done", reward=1.0)
    log_llm_call(world, "ann", NOON)
    tips = rows(analyst, "SELECT tip_kind, propensity, reaction FROM decisions JOIN reactions USING (decision_id)")
    assert tips == [("plan", 0.5, "done")]
    assert rows(analyst, "SELECT model, cost_usd FROM llm_calls") == [("a-model", 0.002)]


def test_views_defined_by_analysts(analyst: Session, world: World, account: Any) -> None:
    """A view that an analyst defines over ours shows current data; a table keeps the data it was created from."""
    world.add("ann", account("buy milk"))
    log_tip(world, "ann", NOON)
    analyst.sql("CREATE VIEW mine AS SELECT count(*) AS n FROM decisions; CREATE TABLE kept AS FROM decisions")
    log_tip(world, "ann", NOON)
    assert rows(analyst, "FROM mine") == [(2,)]
    assert rows(analyst, "SELECT count(*) FROM kept") == [(1,)]


def test_indirect_reads(analyst: Session, world: World, account: Any) -> None:
    """Macros, table names given as strings and prepared statements read current data, too."""
    world.add("ann", account("buy milk"))
    analyst.sql("CREATE MACRO n_tasks() AS TABLE SELECT count(*) FROM todoist_tasks")
    analyst.sql("CREATE MACRO n_tips() AS (SELECT count(*) FROM decisions)")
    analyst.sql("PREPARE prepared AS SELECT count(*) FROM todoist_tasks")
    world.night()
    log_tip(world, "ann", NOON)
    assert rows(analyst, "FROM n_tasks()") == [(1,)]
    assert rows(analyst, "EXECUTE prepared") == [(1,)]
    assert rows(analyst, "SELECT n_tips()") == [(1,)]
    log_tip(world, "ann", NOON)
    assert rows(analyst, "SELECT count(*) FROM query_table('decisions')") == [(2,)]


def test_statements_of_many_kinds(analyst: Session, world: World, account: Any, tmp_path: Path) -> None:
    """Queries, exports, summaries and pivots read current data; the last result is returned."""
    world.add("ann", account("buy milk", "call the dentist"))
    world.night()
    log_tip(world, "ann", NOON)
    assert rows(analyst, "SELECT 1; WITH tips AS (FROM decisions) SELECT count(*) FROM tips;") == [(1,)]
    analyst.sql(f"COPY (FROM decisions) TO '{tmp_path / 'tips.csv'}'")
    assert (tmp_path / "tips.csv").read_text().count("\n") == 2
    summaries = {name: count for name, *_, count, _ in rows(analyst, "SUMMARIZE todoist_tasks")}
    assert summaries["content"] == 2
    assert rows(analyst, "PIVOT todoist_tasks ON content USING count(*) GROUP BY user_id") == [("ann", 1, 1)]


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A remote DATA_ROOT: in memory, and in an S3 server on loopback."""
    if request.param == "memory":
        yield f"memory://{tmp_path.name}"
        return
    with running_s3(monkeypatch) as store:
        yield f"{store.root}/data"


def test_remote_files(remote: str, world: World, account: Any) -> None:
    """A remote DATA_ROOT is written and read like a folder; each statement reads its current files."""
    world.root = remote  # type: ignore[assignment]
    world.add("ann", account("buy milk"))
    world.night()
    with open_session(remote, PostgresTables(None, LONG_AGO)) as analyst:
        assert rows(analyst, "SELECT content, shard FROM todoist_tasks") == [("buy milk", 0)]
        world.todoist.advance("ann", {"items": [{"id": "t0", "content": "buy oat milk"}]})
        world.night(NOON + timedelta(days=1))
        assert rows(analyst, "SELECT content FROM todoist_tasks") == [("buy oat milk",)]
        assert rows(analyst, "SELECT author FROM context_history") == [("pipeline",), ("pipeline",)]


def test_a_database_without_migrations(server: str, tmp_path: Path) -> None:
    """If the tables do not exist, the message says how to make them."""
    url = create_database(server, "unmigrated")
    with (
        open_session(str(tmp_path), PostgresTables(url, NOON)) as session,
        pytest.raises(AssetError, match="python -m contexts migrate"),
    ):
        session.sql("FROM users")


def test_without_postgres(world: World, account: Any) -> None:
    """Without DATABASE_URL files and column names are readable; tables of Postgres raise an error that names it."""
    world.add("ann", account("buy milk"))
    world.night()
    with open_world_session(world, None) as analyst:
        for text in (
            "SELECT content AS decisions FROM todoist_tasks AS users",
            "WITH users AS (SELECT content FROM todoist_tasks) FROM users",
            "CREATE TABLE kept AS SELECT content AS reactions FROM todoist_tasks; FROM kept",
        ):
            assert rows(analyst, text) == [("buy milk",)]
        assert "propensity" in [name for name, *_ in rows(analyst, "DESCRIBE decisions")]
        for text in ("FROM decisions", "FROM analysis.tip_kinds", "CREATE TABLE mine AS FROM reactions"):
            with pytest.raises(AssetError, match=r"cannot read .* from Postgres: DATABASE_URL is not set\. Set it"):
                analyst.sql(text)
        assert rows(analyst, "SELECT content FROM todoist_tasks") == [("buy milk",)]
    with (
        open_world_session(world, "postgresql://nobody@127.0.0.1:1/none") as analyst,
        pytest.raises(AssetError, match=r"cannot read users from Postgres \(DATABASE_URL\)"),
    ):
        analyst.sql("FROM users")


def test_rows_before_the_start_are_not_read(world: World, account: Any, database_url: str) -> None:
    """Tips, reactions and calls before the instant `since` stay in Postgres."""
    world.add("ann", account())
    for days in (1, 40):
        log_tip(world, "ann", NOON - timedelta(days=days), reaction="done")
        log_llm_call(world, "ann", NOON - timedelta(days=days))
    with open_session(str(world.root), PostgresTables(database_url, NOON - timedelta(days=30))) as analyst:
        for name in ("decisions", "reactions", "llm_calls"):
            assert rows(analyst, f"SELECT count(*) FROM {name}") == [(1,)]


def test_every_column_is_described(analyst: Session) -> None:
    """The catalog describes every column of every view; instants, numbers and hashes have units."""
    described = rows(analyst, "SELECT view_name, column_name, data_type, unit, meaning, view_meaning FROM catalog")
    for view, column, data_type, unit, meaning, view_meaning in described:
        assert view_meaning, view
        if not view.startswith("analysis."):
            assert meaning, (view, column)
            measures = ("BIGINT", "INTEGER", "FLOAT", "DOUBLE", "TINYINT", "TIMESTAMP WITH TIME ZONE")
            if (data_type in measures and column != "shard") or column.endswith(("hash", "version", "_json")):
                assert unit or column in ("model_version", "policy_version", "code_version"), (view, column)
    declared = {(view.name, name) for view in FILE_VIEWS for name in view.schema.names}
    assert declared <= {(view, column) for view, column, *_ in described}


def test_the_catalog_is_fresh(analyst: Session, world: World, account: Any) -> None:
    """`shards` has the versions in the footer of each shard; the catalog aggregates them."""
    world.add("ann", account("buy milk"))
    world.add("cem", account("repair the bicycle", "write a letter"))
    world.night()
    asset = GRAPH["todoist_tasks"]
    footers = world.shards.footers(asset)
    versions = "SELECT shard, n_users, n_rows, materialized_at, data_version, code_version FROM shards"
    assert rows(analyst, f"{versions} WHERE asset = 'todoist_tasks' ORDER BY shard") == [
        (
            footer.shard,
            footer.n_users,
            footer.n_rows,
            footer.materialized_at,
            footer.data_version,
            asset.code_version,
        )
        for footer in footers
    ]
    inputs = "SELECT inputs ->> 'todoist_tasks' FROM shards WHERE asset = 'task_embeddings' AND shard = 0"
    edge = GRAPH["task_embeddings"].inputs[0]
    assert rows(analyst, inputs) == [(footers[0].edge_version(edge.columns),)]
    totals = "SELECT DISTINCT n_shards, n_rows, oldest_at FROM catalog WHERE view_name = 'todoist_tasks'"
    assert rows(analyst, totals) == [(2, 3, min(footer.materialized_at for footer in footers))]


def test_similar_tasks(analyst: Session, world: World, account: Any) -> None:
    """`similar_tasks` returns the n most similar tasks of all users, the best first, without the task itself."""
    anns_tasks = [{"id": "a1", "content": "call the dentist"}, {"id": "a2", "content": "repair the red bicycle"}]
    cems_tasks = [{"id": "c1", "content": "call the dentist today"}, {"id": "c2", "content": "the red bicycle"}]
    world.add("ann", account(*anns_tasks))
    world.add("cem", account(*cems_tasks))
    world.night()
    similar = rows(analyst, "SELECT user_id, task_id, content FROM similar_tasks('a2', 2)")
    assert similar[0] == ("cem", "c2", "the red bicycle")
    assert len(similar) == 2
    [[nearest, farthest]] = rows(analyst, "SELECT max(similarity), min(similarity) FROM similar_tasks('a2', 9)")
    assert 1 > nearest > farthest
    assert rows(analyst, "FROM similar_tasks('it''s missing', 3)") == []
    [[same, opposite]] = rows(analyst, "SELECT cosine([3.0, 4.0], [6.0, 8.0]), cosine([1.0, 0.0], [-2.0, 0.0])")
    assert (same, opposite) == pytest.approx((1, -1))


def test_intervals(analyst: Session) -> None:
    """Bounds of shares are Wilson's: 0.490 to 0.943 for 8 of 10; the interval of 0 of 10 begins at 0."""
    [[low, high]] = rows(analyst, "SELECT share_low(8, 10), share_high(8, 10)")
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    [[low, high]] = rows(analyst, "SELECT share_low(0, 10), share_high(0, 10)")
    assert (low, high) == pytest.approx((0, 0.2775), abs=1e-4)


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
    """A due date is a day of the user's own calendar, as in contexts; an unknown zone counts as UTC."""
    [[result]] = rows(analyst, f"SELECT due_day('{due}', '{zone}')::VARCHAR")
    assert result == day


def test_errors_come_from_duckdb(analyst: Session) -> None:
    """An invalid statement raises DuckDB's error, and the session continues."""
    for text in ("FROM missing", "SELEC 1", "SELECT contnt FROM todoist_tasks"):
        with pytest.raises(duckdb.Error):
            analyst.sql(text)
    assert rows(analyst, "SELECT 1") == [(1,)]


def test_no_folder_is_left(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session removes its folder on exit, and the folders of killed processes, not of running ones, on entry."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    (tmp_path / f"views-{killed.pid}-abc").mkdir()
    (tmp_path / f"views-{os.getppid()}-abc").mkdir()
    (tmp_path / "views-of-mine").mkdir()
    with open_session(str(world.root), PostgresTables(None, LONG_AGO)):
        assert len(list(tmp_path.glob("views-*"))) == 3
    assert {path.name for path in tmp_path.glob("views-*")} == {f"views-{os.getppid()}-abc", "views-of-mine"}


def test_now_is_now(world: World) -> None:
    """Analyses refer to the time of their query."""
    with open_session(str(world.root), PostgresTables(None, LONG_AGO)) as analyst:
        [[now]] = rows(analyst, "SELECT as_of()")
    assert abs(datetime.now(UTC) - now) < timedelta(minutes=1)


def test_each_analysis_begins_with_its_question() -> None:
    """The first line of each analysis is a comment with the question that it answers."""
    for path in (ROOT / "analysis").glob("*.sql"):
        assert re.fullmatch(r"-- [A-Z].*[?.]", path.read_text().splitlines()[0]), path.name
