"""The command line of `python -m assets`: shards, sql and rebuild over real files, and its errors."""

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
from assets.engine.errors import ShardUnreadable
from assets.engine.hashing import DIGEST_BYTES
from assets.engine.index import Index
from assets.engine.parquet import Footer, Shards

NIGHT = datetime(2026, 11, 23, 2, 5, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
ASSET = GRAPH["todoist_tasks"]


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """Two shards of one asset at the place that DATA_ROOT and N_SHARDS name."""
    monkeypatch.setenv("DATA_ROOT", f"file://{tmp_path}")
    monkeypatch.setenv("N_SHARDS", "4")
    shards = Shards(str(tmp_path), 4)
    for shard in (1, 3):
        users = [f"user-of-{shard}", f"user-of-{shard}", f"third-of-{shard}"]
        table = pa.Table.from_pylist([{"user_id": user} for user in sorted(users)], schema=ASSET.schema)
        index = Index.from_table(table, ASSET.versioned)
        index = index.with_opaque(sorted(ASSET.opaque), [b"o" * DIGEST_BYTES] * len(index))
        footer = Footer.from_index(ASSET, shard, 4, index, {"code": "1", "model": "m1"}, {}, materialized_at=NIGHT)
        shards.write(ASSET, table, footer)
    return shards


def test_graph_lists_steps_and_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    """`graph` lists every step with its assets and their inputs; sources read the outside world."""
    assert main(["graph"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == list(GRAPH.steps)
    inputs = dict(line.split(" reads ") for line in lines if " reads " in line)
    assert {name.strip(): names for name, names in inputs.items()} == {
        "todoist_tasks": "the outside world",
        "tip_reactions": "the outside world",
        "task_embeddings": "todoist_tasks",
        "task_clusters": "task_embeddings, todoist_tasks",
        "user_contexts": "todoist_tasks, task_clusters, tip_reactions",
        "context_store": "user_contexts",
        "tip_candidates": "context_store, todoist_tasks, task_clusters, tip_reactions",
    }


def test_shards_prints_each_footer(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """`shards` prints a line for each existing shard with its users, rows, time and versions."""
    assert main(["shards", "todoist_tasks"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    footer = shards.footer(ASSET, 1)
    assert footer
    assert first.split()[:2] == ["shard", "1"]
    assert second.split()[:2] == ["shard", "3"]
    for part in ("2 users", "3 rows", "2026-11-23 02:05", footer.data_version[:12], "'model': 'm1'"):
        assert part in first


def test_shards_of_an_asset_without_files(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """`shards` of an asset without files says so, and succeeds."""
    assert main(["shards", "user_contexts"]) == 0
    assert capsys.readouterr() == ("user_contexts has no shards yet. Run: python -m assets materialize\n", "")


def test_a_root_of_an_unknown_kind(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A DATA_ROOT that no file system reads is an error that names the value and the remedy, without a traceback."""
    monkeypatch.setenv("DATA_ROOT", "s3x://bucket/data")
    assert main(["shards", "todoist_tasks"]) == 1
    message = capsys.readouterr().err
    assert "DATA_ROOT=s3x://bucket/data cannot be opened: Protocol not known: s3x." in message
    assert "s3://bucket/folder" in message


def test_the_command_in_the_error_fixes_it(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """The command in the error of a broken shard sets aside the file of this shard only."""
    broken = Path(shards.path("todoist_tasks", 3))
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ShardUnreadable) as raised:
        shards.footer(ASSET, 3)
    command = re.search(r"python -m assets (.*)$", str(raised.value))
    assert command
    assert main(shlex.split(command[1])) == 0
    output = capsys.readouterr().out
    assert "the next run of fetch_signals rebuilds shard 3" in output
    assert shards.footer(ASSET, 3) is None
    assert shards.footer(ASSET, 1) is not None
    assert Path(re.search(r"moved the file to (\S+);", output)[1]).stat().st_size == 100


def test_a_broken_shard_is_reported(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """`shards` over a broken file ends with status 1 and the fix on stderr, without a traceback."""
    Path(shards.path("todoist_tasks", 1)).write_text("nothing")
    assert main(["shards", "todoist_tasks"]) == 1
    assert "python -m assets rebuild todoist_tasks --shard 1" in capsys.readouterr().err


def test_sql_reads_all_shards(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """`sql` queries a view per asset with the shard as a column; the view of an asset without files is empty."""
    sql = "SELECT DISTINCT user_id, shard, (SELECT count(*) FROM user_contexts) AS n FROM todoist_tasks"
    assert main(["sql", sql]) == 0
    output = capsys.readouterr().out
    for row in (r"user-of-1\W+1\W+0\W", r"user-of-3\W+3\W+0\W"):
        assert re.search(row, output)


@pytest.mark.parametrize(("text", "status"), [("SELECT 41 + 1 AS n", 0), ("FROM nobody; SELECT 42;", 1)])
def test_statements_of_a_file(
    shards: Shards, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, status: int
) -> None:
    """`sql` without an argument reads statements from a piped stdin and stops at the first error."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["sql"]) == status
    output = capsys.readouterr()
    assert ("42" in output.out) == (status == 0)
    assert ("nobody" in output.err) == (status == 1)


def test_a_wrong_query_is_reported(shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    """`sql` with an unknown table ends with status 1 and DuckDB's error on stderr."""
    assert main(["sql", "SELECT user FROM todoist_task"]) == 1
    assert "todoist_task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shards", "todoist_task"], "there is no asset 'todoist_task'. Did you mean 'todoist_tasks'?"),
        (["rebuild", "user_context", "--shard", "1"], "Did you mean 'user_contexts'?"),
        (["rebuild", "todoist_tasks", "--shard", "2"], "shard=0002/data.parquet does not exist"),
        (["rebuild", "todoist_tasks", "--shard", "99"], "does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(
    shards: Shards, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """An unknown asset or shard ends the command with status 1 and a sentence on stderr; no file is moved."""
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""
    assert [footer.shard for footer in shards.footers(ASSET)] == [1, 3]


def test_a_wrong_setting_is_named(
    shards: Shards, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalid setting is named on stderr."""
    monkeypatch.setenv("N_SHARDS", "none")
    assert main(["shards", "todoist_tasks"]) == 1
    assert "N_SHARDS: " in capsys.readouterr().err


def test_a_different_number_of_shards_is_reported(
    shards: Shards, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the files were written with a different N_SHARDS, the status is 1 and stderr has both numbers."""
    monkeypatch.setenv("N_SHARDS", "8")
    assert main(["shards", "todoist_tasks"]) == 1
    assert "N_SHARDS=4, but N_SHARDS is 8 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["rebuild", "todoist_tasks"], ["rebuild", "todoist_tasks", "--shard", "x"]]
)
def test_an_incomplete_command_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """A missing command or shard number ends with status 2 and the usage on stderr."""
    assert main(arguments) == 2
    assert "Usage: python -m assets" in capsys.readouterr().err


def test_python_dash_m(shards: Shards) -> None:
    """`python -m assets` runs the same commands and exits with their status."""
    command = [sys.executable, "-m", "assets", "rebuild", "todoist_tasks", "--shard"]
    done = subprocess.run([*command, "3"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "rebuilds shard 3" in done.stdout
    again = subprocess.run([*command, "3"], capture_output=True, text=True, cwd=ROOT)
    assert (again.returncode, again.stdout) == (1, "")
    assert "does not exist" in again.stderr


def test_a_closed_pipe(shards: Shards) -> None:
    """If the reader of a pipe closes it early, the command ends without a traceback."""
    command = f"{sys.executable} -m assets graph | head -n 0"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
