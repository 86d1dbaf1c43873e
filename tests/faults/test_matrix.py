"""The small part of the matrix of faults, and the table that the matrix prints."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from random import Random

import pytest
from rich.console import Console

from contexts.postgres.sql import connect
from faults.catalog import ALL_ROWS
from faults.files import truncate
from faults.matrix import Result, report, run_rows
from faults.row import Row, require
from faults.trial import Bench, Trial

QUICK_ROWS = [row for row in ALL_ROWS if row.n_quick]
SEED = int(os.environ.get("SEED") or 15)


@pytest.fixture(scope="module")
def bench(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("faults"), server, SEED) as bench:
        yield bench


@pytest.mark.parametrize("row", QUICK_ROWS, ids=lambda row: f"{row.place}: {row.fault}".replace(" ", "-"))
def test_a_promise_holds(bench: Bench, row: Row) -> None:
    """The promise of the row holds in each of its few trials."""
    [result] = run_rows(bench, [row], lambda row: row.n_quick, print)
    assert result.n_trials == row.n_quick
    assert result.findings == []


def damage_and_forget(trial: Trial) -> None:
    """Damage a file without the remedy."""
    truncate(trial.path("todoist_tasks"), Random(1))
    trial.recover()


def test_a_broken_promise_is_printed(bench: Bench) -> None:
    """A fault that nobody makes good is a "no" in the table, with a finding, and the exit status is 1."""
    rows = [
        Row("truncated file", "todoist_tasks", "the next night is as unbroken", damage_and_forget),
        Row("nothing", "nowhere", "nothing changes", lambda trial: trial.require_whole()),
        Row("an error of the row", "nowhere", "it counts as broken", lambda trial: trial.path("nothing").unlink()),
    ]
    lines, console = list[str](), Console(file=io.StringIO(), width=150)
    results = run_rows(bench, rows, lambda _: 1, lines.append)
    assert report(results, console) == 1
    assert isinstance(console.file, io.StringIO)
    table = console.file.getvalue()
    assert [line.split("│")[-2].strip() for line in table.splitlines() if line.startswith("│")] == ["no", "yes", "no"]
    assert "3 trials of 3 faults: 1 trials kept the promise" in table
    assert "1 of 3 promises held" in table
    assert any("python -m assets rebuild todoist_tasks --shard 0" in line for line in lines)


def result_of(finding: Callable[[], None] | None) -> Result:
    row = Row("a fault", "a place", "a promise", lambda _: None)
    return Result(row, n_trials=2, findings=["found"] if finding else [])


def test_the_exit_status() -> None:
    """The exit status is 0 only if there are rows and all their promises held."""
    console = Console(file=io.StringIO())
    held, broken = result_of(None), result_of(lambda: require(False, "x"))
    assert [report(results, console) for results in ([held], [held, broken], [])] == [0, 1, 1]


def test_the_rows() -> None:
    """The matrix has at least forty rows, and no two have the same fault and place."""
    assert len(ALL_ROWS) >= 40
    assert len({(row.fault, row.place) for row in ALL_ROWS}) == len(ALL_ROWS)


def test_nothing_is_left(bench: Bench) -> None:
    """Trials leave neither files nor databases behind: there are only those of the stages."""
    assert {path.name for path in bench.folder.iterdir()} == bench.stage_names
    with connect(bench.server) as connection:
        databases = connection.execute("SELECT datname FROM pg_database WHERE datname ~ '^(faults|service)_'")
        assert {name for (name,) in databases} == bench.stage_names
