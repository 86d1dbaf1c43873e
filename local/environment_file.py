"""The file with the variables of a local run, for the shells in which its commands are tried out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from contexts.settings import LOCAL_RUN


class EnvironmentFile:
    """A file that a shell can source and only its owner can read; it grows while a run starts its parts."""

    def __init__(self, path: Path, programs: Path) -> None:
        """Begin without variables. programs: the folder of programs that shells find first."""
        self._path, self._programs = path, programs
        self._variables = {LOCAL_RUN: str(path)}

    def add(self, variables: Mapping[str, str]) -> None:
        """Add variables, and write the file."""
        self._variables |= variables
        path = f'PATH={shlex.quote(str(self._programs))}:"$PATH"\n'
        write_private(self._path, "".join(map(_line, self._variables.items())) + path)


def write_environment(path: Path, variables: Mapping[str, str]) -> None:
    """Write variables to a file that a shell can source and only its owner can read."""
    write_private(path, "".join(map(_line, variables.items())))


def forget_last_run(path: Path, environment: MutableMapping[str, str]) -> None:
    """Remove the variables that a shell has from the file of the last run: they are not the reader's own."""
    if environment.get(LOCAL_RUN) != str(path) or not path.exists():
        return
    for assignment in shlex.split(path.read_text()):
        name, _, value = assignment.partition("=")
        if environment.get(name) == value:
            del environment[name]


def _line(variable: tuple[str, str]) -> str:
    name, value = variable
    return f"{name}={shlex.quote(value)}\n"


def write_private(path: Path, text: str) -> None:
    """Write or replace a file as a whole, readable only by its owner."""
    scratch = path.with_suffix(".next")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600), "w") as file:
        file.write(text)
    scratch.replace(path)
