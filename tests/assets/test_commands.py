"""The commands of `python -m assets` over a real runtime: plan, materialize, runs, why, calibrate and map."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from analysts import LONG_AGO
from world import World

from assets.__main__ import main
from assets.definitions import GRAPH
from assets.engine.parquet import Shards
from contexts.themes.universal_encoder import UNIVERSAL_DIM, UNIVERSAL_ENCODER

RunCommand = Callable[..., str]


@pytest.fixture
def run_command(
    world: World,
    database_url: str,
    tiny_nomic: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    account: Any,
) -> RunCommand:
    """Return a function that runs a command over the world and a tiny model and returns its output.

    Ann (in shard 0) and cem (in shard 1) have two tasks each.
    """
    for name, value in {
        "DATA_ROOT": str(world.root),
        "N_SHARDS": str(world.n_shards),
        "DATABASE_URL": database_url,
        "CREDENTIALS_KEYS": world.key,
        "TODOIST_API_URL": world.client.base_url,
        "EMBEDDING_MODEL": str(tiny_nomic),
        "EMBEDDING_DIM": "32",
        "EMBEDDING_DEVICE": "cpu",
    }.items():
        monkeypatch.setenv(name, value)
    world.add("ann", account("call the dentist", "buy milk"))
    world.add("cem", account("mend the bicycle", "write a letter"))

    def run(*arguments: str, fails: bool = False) -> str:
        status = main(list(arguments))
        output = capsys.readouterr()
        assert status == int(fails), output.err
        return output.err if fails else output.out

    return run


def lines_of(text: str) -> dict[str, str]:
    """Return the lines of an estimate by asset."""
    return {
        line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line.split()[0] in GRAPH.assets
    }


def test_a_first_plan(run_command: RunCommand, world: World) -> None:
    """Before the first fetch the plan estimates the calls and upper bounds for later steps, and changes nothing."""
    lines = lines_of(run_command("plan"))
    assert lines.keys() == set(GRAPH.assets)
    assert "observe 2 of 2 2 todoist calls" in lines["todoist_tasks"]
    assert "at most 2 of 2 at most 2 users clustered" in lines["task_clusters"]
    assert "texts embedded: not known yet" in lines["task_embeddings"]
    assert not world.root.exists()
    assert world.todoist.calls == []


def test_a_night_in_this_process(run_command: RunCommand, world: World) -> None:
    """`materialize` runs and summarises all steps and fills the store; a plan afterwards has nothing to compute."""
    output = run_command("materialize")
    assert "embed_tasks: 2 shards, 2 users, 4 texts embedded" in output
    assert "2 rows written" in output
    assert set(world.stored()) == {"ann", "cem"}
    lines = lines_of(run_command("plan", "--scope", "likely"))
    assert all("up to date" in line for line in lines.values())
    lines = lines_of(run_command("plan", "--select", "task_embeddings+"))
    assert all("up to date" in line for line in lines.values())


def test_an_outage_fails_at_the_end(run_command: RunCommand, world: World, account: Any) -> None:
    """If Todoist refuses most accounts, `materialize` runs all steps for the others and fails at its end."""
    for number in range(4):
        world.add(f"user-{number}", account("call the dentist"))
        world.todoist.revoke(f"user-{number}")
    error = run_command("materialize", fails=True)
    assert "of 4 of 6 accounts, and 2 could be fetched" in error
    assert "accounts deactivate USER" in error
    assert set(world.stored()) == {"ann", "cem"}
    assert all(user["connected"] for user in world.accounts.all())


def test_the_plan_estimates_from_past_runs(run_command: RunCommand, world: World) -> None:
    """After the second run the plan also shows the likely amount of work; the first one computed everything."""
    assert "first night: no experience yet" in lines_of(run_command("plan"))["todoist_tasks"]
    run_command("materialize")
    line = lines_of(run_command("plan"))["task_embeddings"]
    assert "at most 4 texts embedded" in line
    assert "likely" not in line
    assert re.search(r"at most ~\d", line)
    run_command("materialize")
    lines = lines_of(run_command("plan"))
    assert "at most 4 texts embedded, likely 0" in lines["task_embeddings"]
    assert re.search(r"2 todoist calls .*~\d", lines["todoist_tasks"])


def test_a_different_model(run_command: RunCommand, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a different model the plan has all embeddings, an upper bound for later steps, and a run does the same."""
    run_command("materialize")
    monkeypatch.setenv("EMBEDDING_DIM", "16")
    lines = lines_of(run_command("plan", "--select", "task_embeddings+"))
    assert "2 of 2 model 2 of 2 at most 4 texts embedded" in lines["task_embeddings"]
    assert "at most 2 of 2 model at most 2 of 2 at most 2 users clustered" in lines["task_clusters"]
    output = run_command("materialize", "--select", "task_embeddings+")
    assert "2 users, 4 texts embedded" in output
    assert len(world.todoist.calls) == 2


def test_the_packaged_model(run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The multilingual model of a package embeds in a run, and settings that do not fit it are named in an error."""
    for name, value in {"MODEL": UNIVERSAL_ENCODER, "DIM": "256", "PROMPT": "", "DEVICE": "auto"}.items():
        monkeypatch.setenv(f"EMBEDDING_{name}", value)
    assert f"needs EMBEDDING_DIM={UNIVERSAL_DIM}" in run_command("plan", fails=True)
    monkeypatch.setenv("EMBEDDING_DIM", str(UNIVERSAL_DIM))
    assert "4 texts embedded" in run_command("materialize")
    assert f"{UNIVERSAL_ENCODER}@" in run_command("calibrate")


def test_forced_for_one_user(run_command: RunCommand, world: World) -> None:
    """`--force --user` plans and computes only this user."""
    run_command("materialize")
    lines = lines_of(run_command("plan", "--force", "--user", "ann", "--select", "task_embeddings,task_clusters"))
    assert lines["task_embeddings"].startswith("1 of 2 forced 1 of 2")
    output = run_command("materialize", "--force", "--user", "ann", "--select", "task_clusters")
    assert "cluster_tasks: 1 shard, 1 user" in output


def test_a_backfill_over_shards(run_command: RunCommand, world: World) -> None:
    """`--shards` restricts a run to some shards; a later run computes the others."""
    run_command("materialize", "--shards", "0")
    shards = Shards(str(world.root), world.n_shards)
    stored = [asset for asset in GRAPH if not asset.on_demand]
    assert all([footer.shard for footer in shards.footers(asset)] == [0] for asset in stored)
    run_command("materialize", "--shards", "0-1")
    assert set(world.stored()) == {"ann", "cem"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--user", "anna"], "there is no user 'anna'"),
        (["plan", "--user", "ann", "--shards", "1"], "user 'ann' is in shard 0, which --shards leaves out"),
        (["plan", "--shards", "1-x"], "'1-x' is neither a shard nor a range of shards. Write them as 0-3,7"),
        (["plan", "--select", "task_embedings"], "Did you mean 'task_embeddings'?"),
        (["why", "--decision", "nonsense"], "nonsense"),
    ],
)
def test_a_mistake_is_one_sentence(run_command: RunCommand, arguments: list[str], message: str) -> None:
    """An unknown or malformed argument ends the command with status 1 and a sentence that names it."""
    assert message in run_command(*arguments, fails=True)


def test_a_broken_shard_stops_nobody_else(run_command: RunCommand, world: World) -> None:
    """`materialize` goes on past a broken file, names it once with its remedy, exits with 1, and recovers by it."""
    run_command("materialize")
    for user in ("ann", "cem"):
        world.todoist.advance(user, {"items": [{"id": "t9", "content": "water the plants"}]})
    before = world.stored()
    broken = world.root / "todoist_tasks/shard=0001/data.parquet"
    broken.write_bytes(broken.read_bytes()[:-9])
    message = run_command("materialize", fails=True)
    assert message.count(str(broken)) == 1
    assert "python -m assets rebuild todoist_tasks --shard 1" in message
    assert "water the plants" in world.stored()["ann"]["context_json"]
    assert world.stored()["cem"] == before["cem"]
    runtime = world.runtime
    unfinished = [each.step for each in runtime.run_log.step_runs_since(LONG_AGO) if each.finished_at is None]
    assert "fetch_signals" in unfinished
    assert "rebuild todoist_tasks --shard 1" in run_command("shards", "todoist_tasks", fails=True)
    run_command("rebuild", "todoist_tasks", "--shard", "1")
    run_command("materialize")
    assert "water the plants" in world.stored()["cem"]["context_json"]


def test_a_broken_history_file_stops_nobody(run_command: RunCommand, world: World) -> None:
    """A damaged file of the history holds up no context, of its own shard neither; the command sets it aside."""
    run_command("materialize")
    [broken] = world.root.glob("context_history/day=*/shard=0000/data.parquet")
    broken.write_bytes(broken.read_bytes()[:-9])
    day = broken.parent.parent.name.removeprefix("day=")
    assert f"rebuild context_history --shard 0 --day {day}" in run_command("why", "ann", fails=True)
    world.todoist.advance("ann", {"items": [{"id": "t9", "content": "water the plants"}]})
    run_command("materialize")
    assert "water the plants" in world.stored()["ann"]["context_json"]
    assert "1 version" in run_command("why", "ann")
    assert "can be read" in run_command("rebuild", "context_history", "--shard", "0")
    assert "moved the file to" in run_command("rebuild", "context_history", "--shard", "0", "--day", day)
    assert "nothing to set aside" in run_command(
        "rebuild", "context_history", "--shard", "0", "--day", day, fails=True
    )


def test_erasing_from_broken_files(run_command: RunCommand, world: World) -> None:
    """`erase` takes a user out of all readable files, names the broken ones, and ends what a remedy made possible."""
    run_command("materialize")
    [history] = world.root.glob("context_history/day=*/shard=0000/data.parquet")
    clusters = world.root / "task_clusters/shard=0000/data.parquet"
    for broken in (history, clusters):
        broken.write_bytes(broken.read_bytes()[:-9])
    message = run_command("erase", "ann", fails=True)
    assert all(name in message for name in (str(history), str(clusters), "python -m assets erase ann"))
    assert {row["user_id"] for row in world.rows("user_contexts")} == {"cem"}
    run_command("rebuild", "task_clusters", "--shard", "0")
    run_command("rebuild", "context_history", "--shard", "0")
    run_command("erase", "ann", fails=True)  # no trace is left: the files set aside are gone
    assert list(world.root.rglob("*.aside")) == []


def test_runs_shows_saved_work(run_command: RunCommand, world: World) -> None:
    """`runs` shows planned, done and saved work for each run of a step, and DuckDB has the same numbers."""
    run_command("materialize")
    world.todoist.advance("ann", {"items": [{"id": "t0", "content": "call the doctor"}]})
    run_command("materialize")
    output = run_command("runs")
    assert re.search(r"texts embedded +planned 2, done 1, saved 3", output)
    assert re.search(r"users clustered +planned 1, done 1, saved 1", output)
    assert re.search(r"rows written +planned 1, done 1, saved 1", output)
    sql = "SELECT sum(done)::INT AS done, sum(saved)::INT AS saved FROM step_runs WHERE work = 'texts_embedded'"
    assert re.search(r"5\W+3\W", run_command("sql", sql))


def test_runs_shows_requests(run_command: RunCommand, world: World) -> None:
    """`runs` shows each day of the request path: tips, and LLM calls and tokens, done and saved."""
    run_command("materialize")
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
    run_command("materialize")
    output = run_command("runs")
    assert re.search(r"tips +done 3", output)
    assert re.search(r"llm calls +done 1, saved 2", output)
    assert re.search(r"llm tokens +done 1,000, saved 2,000", output)
    assert re.search(r"todoist calls +done 0, saved 3", output)


def test_why_a_context_changed(run_command: RunCommand, world: World) -> None:
    """`why USER` shows each version of a context with its changes in words."""
    today = datetime.now(UTC).date()
    run_command("materialize")
    item = {"id": "t0", "content": "call the dentist", "due": {"date": today.isoformat()}}
    world.todoist.advance("ann", {"items": [item]})
    run_command("materialize")
    world.todoist.advance("ann", {"items": [item | {"due": {"date": (today + timedelta(days=40)).isoformat()}}]})
    world.todoist.advance("ann", {"items": [{"id": "t1", "content": "buy milk", "checked": True}]})
    run_command("materialize")
    output = run_command("why", "ann")
    assert "3 versions" in output
    assert "first context: 2 open tasks" in output
    assert re.search(r"'call the dentist'.*today", output)
    assert "buy milk" in output
    assert output.index("first context") < output.index("'buy milk'")


def test_versions_in_sql(run_command: RunCommand, world: World) -> None:
    """The view context_history has one row per version with its hash."""
    run_command("materialize")
    stored = world.stored()["ann"]["context_hash"]
    sql = f"SELECT user_id, author FROM context_history WHERE context_hash = '{stored}' AND user_id = 'ann'"
    assert re.search(r"ann\W+pipeline", run_command("sql", sql))


def test_unchanged_nights_write_no_history(run_command: RunCommand, world: World) -> None:
    """A run without changes adds no version of a context."""
    run_command("materialize")
    before = {path: path.stat().st_mtime_ns for path in (world.root / "context_history").rglob("*.parquet")}
    run_command("materialize")
    assert before == {path: path.stat().st_mtime_ns for path in (world.root / "context_history").rglob("*.parquet")}


def test_calibrate(run_command: RunCommand, world: World, account: Any) -> None:
    """The calibration is kept unless `--force` replaces it, and then all users are clustered again."""
    assert "no vectors" in run_command("calibrate", fails=True)
    run_command("materialize")
    kept = re.search(r"kept the stored threshold (\S+), .*--force", run_command("calibrate"))
    assert kept is not None
    world.add("dan", account("sweep the yard", "rake the leaves", "oil the gate"))
    run_command("materialize")
    output = run_command("calibrate", "--force")
    assert "clusters all users" in output
    assert kept[1] not in output.splitlines()[0]
    assert lines_of(run_command("plan", "--select", "task_clusters"))["task_clusters"].startswith(
        "2 of 2 model 3 of 3"
    )


def test_map(run_command: RunCommand, world: World, tmp_path: Path) -> None:
    """`map` draws a user's tasks in the format of the file's name, and fails for a user without clustered tasks."""
    run_command("materialize")
    for name, begins in (("ann.png", b"\x89PNG"), ("ann.svg", b"<?xml")):
        assert "2 tasks" in run_command("map", "ann", str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert "no clustered tasks" in run_command("map", "nobody", fails=True)


def test_a_map_without_a_file(run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file `map` writes into the folder .local/maps."""
    run_command("materialize")
    monkeypatch.chdir(tmp_path)
    assert run_command("map", "ann").startswith(".local/maps/ann.png: 2 tasks")
    assert (tmp_path / ".local" / "maps" / "ann.png").exists()


def test_whole_results(run_command: RunCommand) -> None:
    """A result that is not for a terminal has all rows and columns, as a table, as CSV or as JSON."""
    statement = "SELECT range AS n, 'a, \"b\"' AS text, NULL AS none, DATE '2026-11-23' AS day FROM range(2000)"
    table = run_command("sql", statement)
    assert all(f" {n} " in table for n in (0, 500, 1000, 1999))
    header, first, *_, last = run_command("sql", "--format", "csv", statement).splitlines()
    assert (header, first) == ("n,text,none,day", '0,"a, ""b""",,2026-11-23')
    assert last.startswith("1999,")
    rows = json.loads(run_command("sql", "--format", "json", statement))
    assert rows[1999] == {"n": 1999, "text": 'a, "b"', "none": None, "day": "2026-11-23"}
    assert json.loads(run_command("sql", "--format", "json", "SELECT 1 AS n WHERE FALSE")) == []


def test_why_of_an_unknown_user(run_command: RunCommand) -> None:
    """`why` of a user who does not exist fails, and says where users are listed."""
    assert "there is no user 'nobody'" in run_command("why", "nobody", fails=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["erase", "ann"],
        ["rebuild", "todoist_tasks", "--shard", "1"],
        ["rebuild", "context_history", "--shard", "1"],
        ["materialize"],
        ["plan"],
        ["why", "ann"],
        ["map", "ann"],
        ["shards", "todoist_tasks"],
        ["sql", "SELECT 1"],
        ["runs"],
        ["calibrate"],
    ],
)
def test_a_wrong_number_of_shards_is_refused(
    run_command: RunCommand, world: World, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """A command with another N_SHARDS than the files' is refused before it changes anything."""
    run_command("materialize")
    files = {path: path.read_bytes() for path in world.root.rglob("*") if path.is_file()}
    monkeypatch.setenv("N_SHARDS", "5")
    assert "N_SHARDS=2, but N_SHARDS is 5 here" in run_command(*arguments, fails=True)
    assert {path: path.read_bytes() for path in world.root.rglob("*") if path.is_file()} == files
    assert world.accounts.existing(["ann"]) == {"ann"}


def test_rows_move_to_other_shards(run_command: RunCommand, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `reshard N` a run with N_SHARDS=N fetches changes only, embeds nothing and keeps every version."""
    run_command("materialize")
    for user in ("ann", "cem"):
        world.todoist.advance(user, {"items": []})
    stored, n_calls = world.stored(), len(world.todoist.calls)
    world.connection.execute("INSERT INTO waiting_shards VALUES ('compute_context', 0, now())")
    assert "Set N_SHARDS=3" in run_command("reshard", "3")
    assert world.connection.execute("SELECT count(*) FROM waiting_shards").fetchone() == (0,)
    assert "N_SHARDS=3, but N_SHARDS is 2 here" in run_command("materialize", fails=True)
    monkeypatch.setenv("N_SHARDS", "3")
    lines = lines_of(run_command("plan", "--scope", "likely"))
    assert all("up to date" in line for line in lines.values())
    run_command("materialize")
    assert [call.full for call in world.todoist.calls[n_calls:]] == [False, False]
    sql = "SELECT sum(done)::INT AS done FROM step_runs WHERE work = 'texts_embedded'"
    assert re.search(r"\b4\b", run_command("sql", sql))
    assert {user: row["context_hash"] for user, row in world.stored().items()} == {
        user: row["context_hash"] for user, row in stored.items()
    }
    assert "1 version" in run_command("why", "ann")
    assert re.search(r"2\W+2", run_command("sql", "SELECT count(*), count(DISTINCT user_id) FROM user_contexts"))


def test_a_missing_migration_is_named(run_command: RunCommand, world: World) -> None:
    """A command over a database that lacks a migration names the migration and the command that applies it."""
    world.connection.execute("DELETE FROM schema_migrations WHERE name = '0010_plain_names'")
    message = run_command("runs", fails=True)
    assert "0010_plain_names" in message
    assert "python -m contexts migrate" in message


def test_sql_may_begin_with_a_comment(run_command: RunCommand) -> None:
    """A statement that begins with a comment, as every file of sql/analysis does, is not taken for an option."""
    assert "42" in run_command("sql", "-- The answer?\nSELECT 41 + 1 AS n")
