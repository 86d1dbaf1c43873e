"""The folders in which groups of processes keep their metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.paths import ROOT
from serving.metrics_folder import metrics_folder

KILLED = """
import os, signal
from serving.metrics_folder import metrics_folder
with metrics_folder() as folder:
    print(folder, flush=True)
    (folder / "counter_0.db").write_bytes(b"1")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # it is read again from TMPDIR
    return tmp_path


def test_a_killed_group_leaves_its_folder_to_the_next_start(temporary: Path) -> None:
    """The folder of a group that was killed goes when another group starts, unless it is younger than a minute."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, text=True)
    left = Path(done.stdout.strip())
    assert left.parent == temporary
    with metrics_folder():
        assert left.exists()
    os.utime(left, (0, 0))
    with metrics_folder() as folder:
        assert list(temporary.iterdir()) == [folder]
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_running_group_stays(temporary: Path) -> None:
    """A group that starts leaves the folder of one that runs alone, however old it is."""
    with metrics_folder() as running:
        os.utime(running, (0, 0))
        with metrics_folder() as other:
            assert {running, other} == set(temporary.iterdir())
