"""Functions that child processes run: the commands of `python -m assets` with a small embedder, and readers."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from world import WordVectors

from assets import commands
from assets.__main__ import main
from assets.definitions import GRAPH
from assets.engine.errors import AssetError
from assets.runtime import Runtime, runtime_from_environment
from contexts.assembly.history import HISTORY, HistoryUnreadable
from contexts.todoist.client import Todoist

TOTAL_TIMEOUT_S, ATTEMPT_TIMEOUT_S = 0.4, 0.25
"""Time-outs for a Todoist that is on this machine."""


@contextmanager
def small_runtime() -> Iterator[Runtime]:
    """The runtime of the environment, with vectors of words for a model and short time-outs."""
    with runtime_from_environment() as runtime:
        todoist = Todoist(runtime.todoist.base_url, total_timeout=TOTAL_TIMEOUT_S, attempt_timeout=ATTEMPT_TIMEOUT_S)
        at_work()
        yield replace(runtime, embedder=WordVectors(), todoist=todoist)


def at_work() -> None:
    """Do nothing: a point for faults between the connections and the work."""


def command(*arguments: str) -> int:
    """Run a command, and return its exit status."""
    commands.runtime_from_environment = small_runtime
    return main(list(arguments))


def read_file(path: str, asset: str, shard: int, users: tuple[str, ...]) -> int:
    """Print a digest of everything that readers see in a file, or the refusal to read it: status 1."""
    with small_runtime() as runtime:
        try:
            if asset == HISTORY:
                seen = repr([runtime.history.versions_of(user) for user in users])
            else:
                with runtime.shards.open(GRAPH[asset], shard) as opened:
                    seen = repr(opened and (opened.footer.to_metadata(), opened.read_all().to_pylist()))
        except (AssetError, HistoryUnreadable) as error:
            is_named = str(Path(path).parent) in str(error)
            sys.stdout.write(str(error) if is_named else f"the message does not name the file: {error}")
            return 1
    sys.stdout.write(hashlib.sha256(seen.encode()).hexdigest())
    return 0


def environment_of(**values: object) -> dict[str, str]:
    """The settings of a child process."""
    return {
        "EMBEDDING_MODEL": "word-vectors",
        "EMBEDDING_REVISION": "1" * 40,
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **{name: str(value) for name, value in values.items()},
    }
