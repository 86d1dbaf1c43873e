"""An interpreter for several programs, one after the other: the second finds what the first has imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Interpreter:
    """A running interpreter."""

    _process: subprocess.Popen[str]
    _folder: Path

    def run(self, code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> list[Any]:
        """Run a program, and return its results.

        arguments: of the program in `sys.argv`. environment: variables on top of those of the interpreter.
        """
        assert self._process.stdin
        assert self._process.stdout
        request = [code, arguments, dict(environment or {}), str(self._folder)]
        print(json.dumps(request), file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "done\n", (self._folder / "stderr").read_text()[-3000:]
        return results((self._folder / "stdout").read_text())


@contextmanager
def running_interpreter(environment: Mapping[str, str], folder: Path) -> Iterator[Interpreter]:
    """An interpreter that ends with the block.

    environment: all of its variables; none are inherited. folder: receives the output of the last program.
    """
    with subprocess.Popen(
        [sys.executable, "-P", __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Interpreter(process, folder)


def results(stdout: str) -> list[Any]:
    """The JSON of each line that begins with RESULT."""
    return [json.loads(line[7:]) for line in stdout.splitlines() if line.startswith("RESULT ")]


def main() -> None:
    """Run the program of each line of stdin, and say whether it succeeded."""
    with os.fdopen(os.dup(1), "w") as answers:
        for line in sys.stdin:
            answers.write("done\n" if _succeeds(*json.loads(line)) else "failed\n")
            answers.flush()


def _succeeds(code: str, arguments: list[str], environment: dict[str, str], folder: str) -> bool:
    """Run a program with its output in two files of a folder; returns whether it raised no exception."""
    variables = dict(os.environ)
    for descriptor, name in enumerate(("stdout", "stderr"), 1):
        with open(Path(folder, name), "wb") as file:
            os.dup2(file.fileno(), descriptor)
    try:
        os.environ.update(environment)
        sys.argv = ["-c", *arguments]
        exec(code, {"__name__": "__main__"})
    except Exception:
        traceback.print_exc()
        return False
    else:
        return True
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.environ.clear()
        os.environ.update(variables)


if __name__ == "__main__":
    main()
