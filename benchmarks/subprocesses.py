"""Modules of this project as processes of their own, so that their CPU time is not the benchmark's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from local.paths import ROOT


class ModuleProcess:
    """A running `python -m module` that is controlled by lines of text."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin and process.stdout
        self.pid = process.pid
        self._stdin: IO[str] = process.stdin
        self._stdout: IO[str] = process.stdout

    def write_line(self, text: str) -> None:
        """Send a line to the process."""
        print(text, file=self._stdin, flush=True)

    def read_line(self) -> str:
        """Wait for the next line of the process, without its end; "" if the process has ended."""
        return self._stdout.readline().strip()

    def close(self) -> None:
        """Close the stdin of the process, which ends it."""
        self._stdin.close()


@contextmanager
def module_process(module: str, *arguments: str) -> Iterator[ModuleProcess]:
    """Run a module that ends when its stdin is closed: at the end of the block, or when this process dies."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        running = ModuleProcess(process)
        yield running
        running.close()
