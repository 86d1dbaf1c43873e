from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from assets.__main__ import main
from assets.definitions import GRAPH
from assets.errors import ShardUnreadable
from assets.index import Index
from assets.parquet import Footer, Shards

NIGHT = datetime(2026, 11, 23, 2, 5, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
ASSET = GRAPH["todoist_tasks"]


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """The shards that the command line finds: DATA_ROOT and N_SHARDS say where."""
    monkeypatch.setenv("DATA_ROOT", f"file://{tmp_path}")
    monkeypatch.setenv("N_SHARDS", "4")
    shards = Shards(str(tmp_path), 4)
    for shard in (1, 3):
        users = [f"user-of-{shard}", f"user-of-{shard}", f"another-of-{shard}"]
        table = pa.Table.from_pylist([{"user_id": user} for user in sorted(users)], schema=ASSET.schema)
        index = Index.of(table, ASSET.plain)
        footer = Footer.of(ASSET, shard, 4, index, {"code": "1", "model": "m1"}, {}, materialized_at=NIGHT)
        shards.write(ASSET, table, footer)
    return shards


def test_graph_tells_what_reads_what(capsys: pytest.CaptureFixture[str]) -> None:
    """`graph` lists every step with its assets and what these read; sources read the world outside."""
    assert main(["graph"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == list(GRAPH.steps)
    said = dict(line.split(" reads ") for line in lines if " reads " in line)
    assert {name.strip(): reads for name, reads in said.items()} == {
        "todoist_tasks": "the world outside",
        "tip_reactions": "the world outside",
        "task_embeddings": "todoist_tasks",
        "task_clusters": "task_embeddings, todoist_tasks",
        "user_contexts": "todoist_tasks, task_clusters, tip_reactions",
        "context_store": "user_contexts",
    }


def test_shards_tells_each_footer(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """`shards` prints a line for each shard that there is: users, rows, time, versions."""
    assert main(["shards", "todoist_tasks"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    footer = shards.footer(ASSET, 1)
    assert footer
    assert first.split()[:2] == ["shard", "1"]
    assert second.split()[:2] == ["shard", "3"]
    for part in ("2 users", "3 rows", "2026-11-23 02:05", footer.data_version[:12], "'model': 'm1'"):
        assert part in first


def test_shards_of_an_asset_never_made(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """`shards` of an asset without any prints nothing and is no error."""
    assert main(["shards", "user_contexts"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_command_in_the_error_mends_it(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that a broken shard's error names sets that file aside, and only that one."""
    broken = Path(shards.path("todoist_tasks", 3))
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ShardUnreadable) as raised:
        shards.footer(ASSET, 3)
    command = re.search(r"python -m assets (.*)$", str(raised.value))
    assert command
    assert main(shlex.split(command[1])) == 0
    said = capsys.readouterr().out
    assert "the next run of fetch_signals makes shard 3 anew" in said
    assert shards.footer(ASSET, 3) is None
    assert shards.footer(ASSET, 1) is not None
    assert Path(said.split(" is what was there")[0]).stat().st_size == 100


def test_a_broken_shard_is_told_on_stderr(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """`shards` over a broken file ends with 1 and the mend on stderr, not with a traceback."""
    Path(shards.path("todoist_tasks", 1)).write_text("nothing")
    assert main(["shards", "todoist_tasks"]) == 1
    assert "python -m assets rebuild todoist_tasks --shard 1" in capsys.readouterr().err


def test_query_answers_over_all_shards(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """`sql` runs SQL over a view per asset, with the shard as a column; assets never made are empty."""
    sql = "SELECT DISTINCT user_id, shard, (SELECT count(*) FROM user_contexts) AS n FROM todoist_tasks"
    assert main(["sql", sql]) == 0
    said = capsys.readouterr().out
    for row in (r"user-of-1\W+1\W+0\W", r"user-of-3\W+3\W+0\W"):
        assert re.search(row, said)


@pytest.mark.parametrize(("text", "status"), [("SELECT 41 + 1 AS n", 0), ("FROM nobody; SELECT 42;", 1)])
def test_statements_of_a_file(
    shards: Shards, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, status: int
) -> None:
    """`sql` without statements reads them from its input where that is no terminal; the first mistake ends it."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["sql"]) == status
    output = capsys.readouterr()
    assert ("42" in output.out) == (status == 0)
    assert ("nobody" in output.err) == (status == 1)


def test_a_wrong_query_is_told_on_stderr(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """`sql` of a column that is not there ends with 1 and DuckDB's sentence on stderr."""
    assert main(["sql", "SELECT user FROM todoist_task"]) == 1
    assert "todoist_task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shards", "todoist_task"], "there is no asset 'todoist_task'. Did you mean 'todoist_tasks'?"),
        (["rebuild", "user_context", "--shard", "1"], "Did you mean 'user_contexts'?"),
        (["rebuild", "todoist_tasks", "--shard", "2"], "shard=0002/data.parquet does not exist"),
        (["rebuild", "todoist_tasks", "--shard", "99"], "does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(
    shards: Shards, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """An asset or shard that is not there ends with 1 and one sentence on stderr; nothing is moved."""
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert said in output.err
    assert output.out == ""
    assert [footer.shard for footer in shards.footers(ASSET)] == [1, 3]


def test_a_wrong_setting_is_named(
    shards: Shards, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that cannot be is named on stderr with what it is for."""
    monkeypatch.setenv("N_SHARDS", "none")
    assert main(["shards", "todoist_tasks"]) == 1
    assert "N_SHARDS: " in capsys.readouterr().err


def test_another_spread_is_told(
    shards: Shards, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards written with another N_SHARDS end with 1 and both numbers on stderr."""
    monkeypatch.setenv("N_SHARDS", "8")
    assert main(["shards", "todoist_tasks"]) == 1
    assert "N_SHARDS=4, now it is 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["rebuild", "todoist_tasks"], ["rebuild", "todoist_tasks", "--shard", "x"]]
)
def test_half_a_command_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Without a command, or a shard's number, the usage is shown and the exit status is 2."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: python -m assets" in capsys.readouterr().err


def test_python_dash_m(shards: Shards) -> None:
    """`python -m assets` is the same command, and gives its result as exit status."""
    command = [sys.executable, "-m", "assets", "rebuild", "todoist_tasks", "--shard"]
    done = subprocess.run([*command, "3"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "makes shard 3 anew" in done.stdout
    again = subprocess.run([*command, "3"], capture_output=True, text=True, cwd=ROOT)
    assert (again.returncode, again.stdout) == (1, "")
    assert "does not exist" in again.stderr


def test_a_reader_may_stop_reading(shards: Shards) -> None:
    """Where the other end of a pipe closes early, the command ends without a traceback."""
    command = f"{sys.executable} -m assets graph | head -n 0"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
