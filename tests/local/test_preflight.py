"""The check of a local run's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.paths import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an earlier run, with data."""
    (tmp_path / "data").mkdir()
    return tmp_path


def refusal(folder: Path, **variables: str) -> list[str]:
    """The lines with which a run in a folder is refused."""
    done = subprocess.run(
        [sys.executable, "-m", "local", "--folder", str(folder)],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_every_wrong_setting_in_one_line(folder: Path) -> None:
    """A run with wrong settings names each of them in a line, and keeps the data of the run before."""
    lines = refusal(
        folder,
        N_SHARD="3",
        NIGHT_HOUR="24",
        MATERIALIZE_SCHEDULE="at night",
        LLM_WAIT="-1",
        MAX_CONTEXT_AGE="01:00:00",
        USERS="none",
        LLM_MODEL="foo:bar",
        DATA_ROOT="/proc/data",
        EMBEDDING_MODEL="/nowhere",
    )
    assert lines[0] == "N_SHARD: there is no such setting. Did you mean N_SHARDS?"
    beginnings = (
        "NIGHT_HOUR: ",
        "MATERIALIZE_SCHEDULE: not a cron expression",
        "LLM_WAIT: ",
        "USERS=none: ",
        "LLM_MODEL=foo:bar: Unknown provider",
        "EMBEDDING_MODEL=/nowhere: ",
        "DATA_ROOT=/proc/data: ",
    )
    for beginning in beginnings:
        assert len([line for line in lines if line.startswith(beginning)]) == 1, (beginning, lines)
    assert len(lines) == 1 + len(beginnings)
    assert "Value error" not in "".join(lines)
    assert [path.name for path in folder.iterdir()] == ["data"]


def test_empty_key_and_missing_file(folder: Path) -> None:
    """An empty key and a file that does not exist are refused in a line each."""
    lines = refusal(folder, LLM_MODEL="openai:gpt-5-mini", OPENAI_API_KEY=" ", SAMPLE_USERS="/nowhere")
    assert len(lines) == 2
    assert lines[0].startswith("SAMPLE_USERS: /nowhere/users.json cannot be read")
    assert lines[1].endswith("OPENAI_API_KEY is empty. Set it to a key of the provider.")


def test_empty_token(folder: Path) -> None:
    """An empty token is refused and does not select the sample users; so is a model file that does not exist."""
    assert refusal(folder, TODOIST_API_TOKEN="", LLM_MODEL="gguf:/nowhere") == [
        "TODOIST_API_TOKEN is empty. Set it to your token, or unset it for the sample users.",
        "LLM_MODEL=gguf:/nowhere: there is no such file",
    ]


def test_folder_that_cannot_be_written() -> None:
    """A folder that cannot be written is refused in one line."""
    [line] = refusal(Path("/proc/local"))
    assert line.startswith("/proc/local cannot be written: ")
