"""Named child processes that can be killed and started again; all of them end with the block."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from local.paths import ROOT
from local.processes import child_process

_STOP_TIMEOUT_S = 30
_LAST_STOP_TIMEOUT_S = 10


@dataclass(frozen=True)
class Program:
    """A command to run. environment: all of its variables; none are inherited. folder: its working directory."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path = ROOT


class Fleet:
    """Processes by name, each in a session of its own, with its output in `<log folder>/<name>.log`."""

    def __init__(self, log_folder: Path, stack: ExitStack) -> None:
        """stack: stops the processes when it is closed."""
        self._log_folder, self._stack = log_folder, stack
        self._programs: dict[str, Program] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._n_starts: dict[str, int] = {}

    def start(self, name: str, program: Program) -> subprocess.Popen[bytes]:
        """Start a program under a name."""
        number = self._n_starts[name] = self._n_starts.get(name, 0) + 1
        log_file = self.log_file(name) if number == 1 else self._log_folder / f"{name}.{number}.log"
        process = self._stack.enter_context(
            child_process(
                program.command,
                program.environment,
                log_file,
                stop_timeout_s=_LAST_STOP_TIMEOUT_S,
                folder=program.folder,
            )
        )
        self._programs[name], self._processes[name] = program, process
        return process

    def kill(self, name: str) -> None:
        """End a process and all of its descendants by SIGKILL, as if its machine had lost power."""
        process = self._processes.pop(name)
        descendants = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for descendant in descendants:
            with suppress(psutil.NoSuchProcess):
                descendant.kill()
        process.wait()
        psutil.wait_procs(descendants)

    def restart(self, name: str) -> subprocess.Popen[bytes]:
        """Start a killed process again, with its earlier command and a log file with a number."""
        return self.start(name, self._programs[name])

    def log_file(self, name: str) -> Path:
        """The file with the output of the first process of a name."""
        return self._log_folder / f"{name}.log"

    def forget(self, name: str) -> None:
        """Leave out a process that has done its work."""
        del self._processes[name]

    def ended(self) -> list[str]:
        """The names of processes that have ended without `kill`."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def stop(self) -> None:
        """Interrupt all processes at once, wait for them, and kill what they leave behind."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT_S)
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def running_fleet(log_folder: Path) -> Iterator[Fleet]:
    """An empty fleet; its processes are stopped at the end."""
    log_folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        fleet = Fleet(log_folder, stack)
        try:
            yield fleet
        finally:
            fleet.stop()
