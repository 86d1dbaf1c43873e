"""`python -m assets` over real doors: what it plans it runs, and it can say afterwards what happened and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from world import World

from assets.__main__ import main
from assets.definitions import GRAPH
from assets.parquet import Shards
from local.checkpoint import save_tiny_nomic

Say = Callable[..., str]


@pytest.fixture
def said(
    world: World, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], account: Any
) -> Say:
    """Runs a command over the world's doors and a tiny model; gives what it printed. Ann (in shard 0) and cem (in
    shard 1) have two tasks each.
    """
    for name, value in {
        "DATA_ROOT": str(world.root),
        "N_SHARDS": str(world.n_shards),
        "DATABASE_URL": database_url,
        "CREDENTIALS_KEYS": world.key,
        "TODOIST_API_URL": world.client.base_url,
        "EMBEDDING_MODEL": str(save_tiny_nomic(world.root.parent / "model")),
        "EMBEDDING_DIM": "32",
        "EMBEDDING_DEVICE": "cpu",
    }.items():
        monkeypatch.setenv(name, value)
    world.add("ann", account("call the dentist", "buy milk"))
    world.add("cem", account("mend the bicycle", "write a letter"))

    def say(*arguments: str, fails: bool = False) -> str:
        status = main(list(arguments))
        output = capsys.readouterr()
        assert status == int(fails), output.err
        return output.err if fails else output.out

    return say


def lines_of(text: str) -> dict[str, str]:
    """The lines of a bill by asset."""
    return {
        line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line.split()[0] in GRAPH.assets
    }


def test_a_first_plan(said: Say, world: World) -> None:
    """Before anything was fetched the plan names the calls and bounds what it cannot know yet; nothing changes."""
    found = lines_of(said("plan"))
    assert found.keys() == set(GRAPH.assets)
    assert "observe 2 of 2 2 todoist calls" in found["todoist_tasks"]
    assert "at most 2 of 2 at most 2 users clustered" in found["task_clusters"]
    assert "texts embedded: not known yet" in found["task_embeddings"]
    assert not world.root.exists()
    assert world.todoist.calls == []


def test_a_night_in_this_process(said: Say, world: World) -> None:
    """`materialize` runs all steps, says what each did, and fills the store; a plan then has only looking to do."""
    told = said("materialize")
    assert "embed_tasks: 2 shards, 2 users, 4 texts embedded" in told
    assert "2 rows written" in told
    assert set(world.stored()) == {"ann", "cem"}
    found = lines_of(said("plan", "--look", "likely"))
    assert all("nothing to do" in each for each in found.values())
    found = lines_of(said("plan", "--select", "task_embeddings+"))
    assert all("nothing to do" in found[each] for each in ("task_embeddings", "task_clusters", "user_contexts"))


def test_the_plan_bounds_and_guesses(said: Say, world: World) -> None:
    """After some nights the plan says how much it will probably come to, and how long that takes."""
    said("materialize")
    for _ in range(3):
        said("materialize")
    found = lines_of(said("plan"))
    assert "at most 4 texts embedded, likely 0" in found["task_embeddings"]
    assert re.search(r"2 todoist calls .*~\d", found["todoist_tasks"])


def test_another_model(said: Say, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model plans all embeddings for that reason, and what follows at most; a run does just that."""
    said("materialize")
    monkeypatch.setenv("EMBEDDING_DIM", "16")
    found = lines_of(said("plan", "--select", "task_embeddings+"))
    assert "2 of 2 model 2 of 2 at most 4 texts embedded" in found["task_embeddings"]
    assert "at most 2 of 2 model at most 2 of 2 at most 2 users clustered" in found["task_clusters"]
    told = said("materialize", "--select", "task_embeddings+")
    assert "2 users, 4 texts embedded" in told
    assert len(world.todoist.calls) == 2


def test_forced_for_one_user(said: Say, world: World) -> None:
    """`--force --user` plans and computes that user alone."""
    said("materialize")
    found = lines_of(said("plan", "--force", "--user", "ann", "--select", "task_embeddings,task_clusters"))
    assert found["task_embeddings"].startswith("1 of 2 forced 1 of 2")
    told = said("materialize", "--force", "--user", "ann", "--select", "task_clusters")
    assert "cluster_tasks: 1 shards, 1 users" in told


def test_a_backfill_over_shards(said: Say, world: World) -> None:
    """`--shards` leaves the others for a later run."""
    said("materialize", "--shards", "0")
    shards = Shards(str(world.root), world.n_shards)
    assert all([footer.shard for footer in shards.footers(each)] == [0] for each in GRAPH)
    said("materialize", "--shards", "0-1")
    assert set(world.stored()) == {"ann", "cem"}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["plan", "--user", "anna"], "there is no user 'anna'"),
        (["plan", "--shards", "1-x"], "'1-x' is no shard and no range of shards. Write them as 0-3,7"),
        (["plan", "--select", "task_embedings"], "Did you mean 'task_embeddings'?"),
        (["why", "--decision", "nonsense"], "nonsense"),
    ],
)
def test_a_mistake_is_one_sentence(said: Say, arguments: list[str], wanted: str) -> None:
    """What cannot be read, or is not there, ends with 1 and a sentence that names it."""
    assert wanted in said(*arguments, fails=True)


def test_the_ledger_proves_it(said: Say, world: World) -> None:
    """The ledger has a page for each step and run: planned, done, saved; DuckDB sees the same."""
    said("materialize")
    world.todoist.advance("ann", {"items": [{"id": "t0", "content": "call the doctor"}]})
    said("materialize")
    told = said("ledger")
    assert re.search(r"texts embedded +planned 2, done 1, saved 3", told)
    assert re.search(r"users clustered +planned 1, done 1, saved 1", told)
    assert re.search(r"rows written +planned 1, done 1, saved 1", told)
    sql = "SELECT sum(done)::INT AS done, sum(saved)::INT AS saved FROM ledger WHERE work = 'texts_embedded'"
    assert re.search(r"5\W+3\W", said("sql", sql))


def test_requests_are_in_the_ledger(said: Say, world: World) -> None:
    """The request path's day is a page: tips, calls of the LLM and tokens, and those that were spared."""
    said("materialize")
    now = datetime.now(UTC)
    for llm in ("called", "skipped", "skipped"):
        world.connection.execute(
            "INSERT INTO decisions (decision_id, user_id, decided_at, llm, source)"
            " VALUES (gen_random_uuid(), 'ann', %s, %s, 'stored')",
            [now, llm],
        )
    world.connection.execute(
        "INSERT INTO llm_calls VALUES (%s, 'ann', NULL, 'm', 'answered', 1, 900, 100, 0, 1)", [now]
    )
    said("materialize")
    told = said("ledger")
    assert re.search(r"tips +done 3", told)
    assert re.search(r"llm calls +done 1, saved 2", told)
    assert re.search(r"llm tokens +done 1,000, saved 2,000", told)
    assert re.search(r"todoist calls +done 0, saved 3", told)


def test_why_a_context_changed(said: Say, world: World) -> None:
    """`why USER` tells each version with what changed in it, in words."""
    today = datetime.now(UTC).date()
    said("materialize")
    item = {"id": "t0", "content": "call the dentist", "due": {"date": today.isoformat()}}
    world.todoist.advance("ann", {"items": [item]})
    said("materialize")
    world.todoist.advance("ann", {"items": [item | {"due": {"date": (today + timedelta(days=40)).isoformat()}}]})
    world.todoist.advance("ann", {"items": [{"id": "t1", "content": "buy milk", "checked": True}]})
    said("materialize")
    told = said("why", "ann")
    assert "3 versions" in told
    assert "first context: 2 open tasks" in told
    assert re.search(r"'call the dentist'.*today", told)
    assert "buy milk" in told
    assert told.index("first context") < told.index("'buy milk'")
    assert "no context is known" in said("why", "nobody")


def test_versions_are_open_to_sql(said: Say, world: World) -> None:
    """The history is a view: one row per version, so that any tip's context can be looked up by its hash."""
    said("materialize")
    stored = world.stored()["ann"]["context_hash"]
    sql = f"SELECT user_id, author FROM context_history WHERE context_hash = '{stored}' AND user_id = 'ann'"
    assert re.search(r"ann\W+night", said("sql", sql))


def test_unchanged_nights_write_no_history(said: Say, world: World) -> None:
    """A night without changes adds no version of a context."""
    said("materialize")
    before = {path: path.stat().st_mtime_ns for path in (world.root / "context_history").rglob("*.parquet")}
    said("materialize")
    assert before == {path: path.stat().st_mtime_ns for path in (world.root / "context_history").rglob("*.parquet")}


def test_calibrate(said: Say, world: World, account: Any) -> None:
    """The threshold of themes is chosen once; another replaces it only when asked for, and all are clustered anew."""
    assert "no vectors" in said("calibrate", fails=True)
    said("materialize")
    kept = re.search(r"kept is (\S+):.*--force", said("calibrate"))
    assert kept is not None
    world.add("dan", account("sweep the yard", "rake the leaves", "oil the gate"))
    said("materialize")
    told = said("calibrate", "--force")
    assert "clusters everybody" in told
    assert kept[1] not in told.splitlines()[0]
    assert lines_of(said("plan", "--select", "task_clusters"))["task_clusters"].startswith("2 of 2 model 3 of 3")


def test_map(said: Say, world: World, tmp_path: Path) -> None:
    """A user's tasks are drawn as a picture of the kind that its name says; whoever has none is told what to do."""
    said("materialize")
    for name, begins in (("ann.png", b"\x89PNG"), ("ann.svg", b"<?xml")):
        assert "2 tasks" in said("map", "ann", str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert "no clustered tasks" in said("map", "nobody", fails=True)
