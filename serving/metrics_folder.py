"""The folder in which the processes of a group keep their metrics."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "serving-metrics-"

_ABANDONED_AFTER_S = 60.0
"""Age from which a folder that nobody has locked is one that a killed group left: a new one is locked at once."""


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """A new folder below the folder of temporary files, removed at the end.

    Folders that killed groups left are removed first. A group locks its folder, because ids of processes mean nothing
    where containers share a folder.
    """
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with _opened(folder) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield folder


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), _opened(folder) as descriptor:  # it is locked, another user's, or gone
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(folder)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
