"""Child processes that are started, awaited and stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from local.paths import ROOT
from local.processes import NotReady, child_process, kill_left_over, wait_until_ready

SLEEP = "import time; print('started', flush=True); time.sleep(60)"
IGNORE_SIGINT = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {SLEEP}"
START_CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {IGNORE_SIGINT!r}]); {IGNORE_SIGINT}"
WORKER = f"import setproctitle; setproctitle.setproctitle('worker'); {SLEEP}"
START_WORKER = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WORKER!r}]); {SLEEP}"


def command(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def started(log_file: Path, n: int = 1) -> bool:
    return log_file.read_text().count("started") == n


def test_sigint_stops_the_process(tmp_path: Path) -> None:
    """A process in its own session is stopped by SIGINT, and its output is in the log file."""
    log_file = tmp_path / "log"
    with child_process(command(SLEEP), os.environ, log_file, stop_timeout_s=30) as process:
        wait_until_ready(process, lambda: started(log_file), timeout_s=30, poll_s=0.01)
        assert os.getpgid(process.pid) == process.pid
    assert process.returncode is not None
    assert "KeyboardInterrupt" in log_file.read_text()


def test_the_process_group_is_killed_after_the_timeout(tmp_path: Path) -> None:
    """If a process ignores SIGINT, it is killed with its children."""
    log_file = tmp_path / "log"
    with child_process(command(START_CHILD), os.environ, log_file, stop_timeout_s=0.1) as process:
        wait_until_ready(process, lambda: started(log_file, 2), timeout_s=30, poll_s=0.01)
        [child] = psutil.Process(process.pid).children()
    assert process.returncode == -9
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_what_a_killed_parent_left(tmp_path: Path) -> None:
    """The processes that a killed parent left are found by the folder of their log and killed.

    So are those whose title hides their variables, as that of Airflow's workers does.
    """
    log_file = tmp_path / "run" / "log"
    log_file.parent.mkdir()
    parent = f"""
import os, sys, time
from pathlib import Path
from local.processes import child_process
with child_process([sys.executable, "-c", {START_WORKER!r}], os.environ, Path({str(log_file)!r}), stop_timeout_s=1):
    time.sleep(600)
"""
    killed = subprocess.Popen(command(parent), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    wait_until_ready(killed, lambda: log_file.exists() and started(log_file, 2), timeout_s=60, poll_s=0.01)
    left = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait(30)
    assert kill_left_over(tmp_path / "other") == 0
    assert kill_left_over(tmp_path / "run") == len(left) == 2
    _, alive = psutil.wait_procs(left, timeout=10)
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_only_the_given_variables_and_folder(tmp_path: Path) -> None:
    """The process has exactly the given environment and working directory."""
    code = "import os; print(os.environ.get('GIVEN'), 'HOME' in os.environ, os.getcwd())"
    with child_process(
        command(code), {"GIVEN": "1"}, tmp_path / "log", stop_timeout_s=30, folder=tmp_path
    ) as process:
        process.wait(30)
    assert (tmp_path / "log").read_text() == f"1 False {tmp_path}\n"


def test_a_process_that_ends_is_not_ready(tmp_path: Path) -> None:
    """Waiting for readiness fails as soon as the process ends."""
    with (
        child_process(command("pass"), os.environ, tmp_path / "log", stop_timeout_s=30) as process,
        pytest.raises(NotReady),
    ):
        wait_until_ready(process, lambda: False, timeout_s=60, poll_s=0.01)


def test_a_process_that_fails_is_not_ready(tmp_path: Path) -> None:
    """Waiting for readiness fails as soon as the process has failed, although it still runs."""
    log_file = tmp_path / "log"
    with (
        child_process(command(SLEEP), os.environ, log_file, stop_timeout_s=30) as process,
        pytest.raises(NotReady) as raised,
    ):
        wait_until_ready(process, lambda: False, timeout_s=60, poll_s=0.01, has_failed=lambda: started(log_file))
    assert raised.value.waited_s < 60


def test_waiting_has_a_timeout(tmp_path: Path) -> None:
    """Waiting for readiness fails after the time-out, and reports its progress until then."""
    progress: list[float] = []
    began = time.monotonic()
    with (
        child_process(command(SLEEP), os.environ, tmp_path / "log", stop_timeout_s=30) as process,
        pytest.raises(NotReady) as raised,
    ):
        wait_until_ready(process, lambda: False, timeout_s=0.1, poll_s=0.01, on_wait=progress.append)
    assert 0.1 < raised.value.waited_s < time.monotonic() - began
    assert progress == sorted(progress)
    assert progress
    assert progress[-1] <= 0.1


def test_children_of_a_running_parent_are_spared(tmp_path: Path) -> None:
    """A process whose parent is still running is not left over, also if its log is in a folder of the folder."""
    log_file = tmp_path / "cluster" / "log"
    log_file.parent.mkdir()
    with child_process(command(SLEEP), os.environ, log_file, stop_timeout_s=30) as process:
        wait_until_ready(process, lambda: started(log_file), timeout_s=30, poll_s=0.01)
        assert kill_left_over(tmp_path) == 0
        assert process.poll() is None
