"""Child processes: start one in its own session, wait until it is ready, stop it; kill those of a killed parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from local.paths import ROOT

_MARK, _PARENT = "LOCAL_RUN_LOG", "LOCAL_RUN_PARENT"
"""The variables by which a child and its descendants are recognised: the log file of the child, and its parent."""

_SAME_START_S = 60.0
"""Two start times that differ by less belong to one process: the clock may have been set meanwhile."""


class NotReady(Exception):
    """A process ended, failed, or was not ready in time.

    waited_s: seconds since the wait began.
    """

    def __init__(self, waited_s: float) -> None:
        super().__init__(f"not ready after {waited_s:.0f} s")
        self.waited_s = waited_s


@contextmanager
def child_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    *,
    stop_timeout_s: float,
    folder: Path = ROOT,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in its own session and stop it at the end.

    environment: all of its variables; none are inherited.
    log_file: receives its output; replaced if it exists.
    stop_timeout_s: seconds between SIGINT and SIGKILL.
    folder: its working directory.
    """
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, _MARK: str(log_file), _PARENT: _this_process()},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process, stop_timeout_s)


def wait_until_ready(
    process: subprocess.Popen[bytes],
    is_ready: Callable[[], bool],
    *,
    timeout_s: float,
    poll_s: float,
    has_failed: Callable[[], bool] = lambda: False,
    on_wait: Callable[[float], None] | None = None,
) -> None:
    """Poll until the process is ready; raises NotReady if it ends or fails first, or the time-out passes.

    has_failed: whether the process cannot become ready although it still runs.
    on_wait: called with the seconds waited so far before each pause.
    """
    started = time.monotonic()
    while not is_ready():
        waited_s = time.monotonic() - started
        if process.poll() is not None or has_failed() or waited_s > timeout_s:
            raise NotReady(waited_s)
        if on_wait:
            on_wait(waited_s)
        time.sleep(poll_s)


def kill_left_over(folder: Path) -> int:
    """Kill the processes with a log file in a folder whose parent was killed; return their number.

    Processes whose parent is still running are spared, because the folder of `make cluster` is in that of `make run`.
    """
    # A process that changes its title, as Airflow's workers do, loses its variables, but not its session.
    sessions = {_session(process) for process in psutil.process_iter() if _is_marked(process, folder)}
    sessions -= {None, os.getsid(0)}
    left = [process for process in psutil.process_iter() if _session(process) in sessions]
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    return len(left)


def _is_marked(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):  # it has ended, or is of a different user
        variables = process.environ()
        log_file, parent = variables.get(_MARK), variables.get(_PARENT, "")
        return log_file is not None and Path(log_file).is_relative_to(folder) and not _is_running(parent)
    return False


def _this_process() -> str:
    return f"{os.getpid()} {psutil.Process().create_time()}"


def _is_running(parent: str) -> bool:
    """Whether a process of `_this_process` is still running; False if the text is empty."""
    number, _, started = parent.partition(" ")
    with suppress(psutil.NoSuchProcess, ValueError):
        process = psutil.Process(int(number))
        is_same = abs(process.create_time() - float(started)) < _SAME_START_S
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _session(process: psutil.Process) -> int | None:
    with suppress(OSError):
        return os.getsid(process.pid)
    return None


def free_port(preferred: int = 0) -> int:
    """A free port of the loopback interface: the preferred one if it is free."""
    try:
        with socket.create_server(("127.0.0.1", preferred)) as listener:
            return int(listener.getsockname()[1])
    except OSError:
        if not preferred:
            raise
        return free_port()


def _stop(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Send SIGINT, and kill the whole process group if the process is still there after the time-out."""
    # Not SIGTERM: it makes `airflow standalone` leave orphans.
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
