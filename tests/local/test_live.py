"""`make run`, killed and continued."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from local.paths import ROOT
from local.todoist import LocalTodoist, running_todoist

pytestmark = pytest.mark.live


def make_run(folder: Path, url: str, temporary: str) -> subprocess.Popen[str]:
    """`make run ONCE=1` with TODOIST_API_TOKEN. temporary: a folder for what a killed run leaves there."""
    return subprocess.Popen(
        [sys.executable, "-m", "local", "--folder", str(folder)],
        cwd=ROOT,
        env={
            **os.environ,
            "ONCE": "1",
            "TODOIST_API_TOKEN": "my-own-token",
            "TODOIST_API_URL": url,
            "TMPDIR": temporary,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_in(folder: Path) -> list[str]:
    """The command lines of all processes that name a folder."""
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if str(folder) in command]


def test_own_account(tmp_path: Path, account: Any) -> None:
    """`make run` with TODOIST_API_TOKEN goes on after a kill -9 in the second night, and leaves no process.

    The run after it does not fetch again what the first night fetched, and ends with status 0 and all figures.
    """
    folder, todoist, printed = tmp_path / "local", LocalTodoist(), list[str]()
    todoist.load("my-own-token", account("water the plants", "buy soil"), user="whoever")
    with TemporaryDirectory() as temporary, running_todoist(todoist) as url:
        with make_run(folder, url, temporary) as killed:
            assert killed.stdout is not None
            for line in killed.stdout:
                printed.append(line)
                if line.startswith("  fetch_signals    running") and any("Night 2 of 3" in each for each in printed):
                    break
            killed.kill()
        assert processes_in(folder)
        last = make_run(folder, url, temporary)
        output, errors = last.communicate()
    assert last.returncode == 0, output[-3000:] + errors[-3000:]
    assert "Continuing the run of " in output
    assert "(TODOIST_API_TOKEN) with night 2; FRESH=1 begins again" in output
    figures = json.loads((folder / "nights.json").read_text())
    assert [night["todoist_calls_full"] for night in figures] == [1, 0, 0]
    assert [night["rows_written"] for night in figures] == [1, 0, 0]
    assert all(night["succeeded"] for night in figures)
    assert "water the plants" in output
    logs = "".join(path.read_text(errors="replace") for path in folder.rglob("*.log"))
    for text in ("".join(printed), output, errors, logs):
        assert "my-own-token" not in text
    assert "water the plants" not in logs
    assert not processes_in(tmp_path)
