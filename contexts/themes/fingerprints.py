"""The identity of a saved model: a hash of its files, computed once for each machine and state of the files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

_HEX_DIGITS = 12
_MODEL_FILE_SUFFIXES = {".json", ".safetensors", ".bin", ".txt"}


def fingerprint(folder: Path) -> str:
    """Return a hash of the names and contents of a saved model's files.

    It is remembered in the user's cache folder for these files with their sizes and times, so that a task that embeds
    nothing does not read them.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in _MODEL_FILE_SUFFIXES]
    memory = _cache_folder() / _state(files)
    with suppress(OSError, UnicodeError):
        if len(remembered := memory.read_text()) == _HEX_DIGITS:
            return remembered
    computed = _hash(folder, files)
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = memory.with_name(uuid4().hex)
        scratch.write_text(computed)
        scratch.replace(memory)
    return computed


def _hash(folder: Path, files: Sequence[Path]) -> str:
    digest = sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:_HEX_DIGITS]


def _state(files: Sequence[Path]) -> str:
    """Return a hash of the files' places, sizes and times; the time of the last change cannot be set back."""
    digest = sha256()
    for path in files:
        stat = path.stat()
        facts = (path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(f"{facts}\0".encode())
    return digest.hexdigest()


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "feature-to-prompt" / "models"
