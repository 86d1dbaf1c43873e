"""Snapshots of files: a query reads them as they were when it began, even if they are replaced meanwhile."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import fsspec

from assets.engine.errors import SnapshotError
from contexts.files import is_store_fault
from contexts.verified_parquet import DamagedFile, verify_parquet

_RESERVED_DESCRIPTORS = 128
"""File descriptors left to the process for everything but the snapshot and its reader."""


@dataclass(frozen=True)
class _HeldFile:
    """A file of the snapshot.

    fingerprint: differs once the file under the root is replaced.
    descriptor: the open descriptor of a local file, None for a copy of a remote one.
    """

    fingerprint: object
    descriptor: int | None = None


class Snapshot:
    """A folder that shows files of a root (any fsspec URL) under the paths that they have below the root.

    Each file is verified once, when it is held, because DuckDB does not compare digests.

    DuckDB opens a file once for its schema and again for its rows. If the file is replaced in between, the query
    fails or returns garbage. Therefore the folder holds a local file as a link to an open descriptor, which keeps
    its content, and a remote file as a copy, which is refreshed when the file changes.
    """

    def __init__(self, root: str, folder: Path) -> None:
        self.folder = folder
        self._fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False)  # other processes write to the root
        self._root = path.rstrip("/")
        self._held: dict[str, dict[str, _HeldFile]] = {}

    def hold(self, pattern: str) -> int:
        """Hold the current files that match a glob below the root, and return their number.

        They replace the files held for this pattern before, which must not be in use. Raises SnapshotError if a file
        cannot be read, or if there are more files than the process may open.
        """
        held = self._held.setdefault(pattern, {})
        try:
            matches: list[str] = self._fs.glob(f"{escape(self._root)}/{pattern}")
            paths = {path.removeprefix(f"{self._root}/"): path for path in matches}
            if self._is_local:  # copies of remote files are open only while they are read
                n_others = sum(len(files) for files in self._held.values() if files is not held)
                _ensure_file_limit(len(paths) + n_others)
            for name in held.keys() - paths.keys():
                self._release(held, name)
            for name, path in paths.items():
                try:
                    self._hold_file(held, name, path)
                except FileNotFoundError:  # removed since the glob
                    self._release(held, name)
                except DamagedFile as error:
                    self._release(held, name)
                    raise SnapshotError(f"{path} cannot be read ({error}). {_remedy(name)}") from error
        except Exception as error:
            if not is_store_fault(error):
                raise
            raise SnapshotError(f"{pattern} below {self._root} cannot be read: {error}") from error
        return len(held)

    def close(self) -> None:
        """Release all files; the owner of the folder removes the folder itself."""
        for held in self._held.values():
            for name in list(held):
                self._release(held, name)

    @property
    def _is_local(self) -> bool:
        return "file" in self._fs.protocol

    def _hold_file(self, held: dict[str, _HeldFile], name: str, path: str) -> None:
        fingerprint = _fingerprint(os.stat(path)) if self._is_local else self._fs.ukey(path)
        if name in held and held[name].fingerprint == fingerprint:
            return
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name("next")
        scratch.unlink(missing_ok=True)  # left by an interrupted download
        if not self._is_local:
            self._fs.get_file(path, str(scratch))
            _verify(scratch)
            scratch.replace(target)
            held[name] = _HeldFile(fingerprint)
            return
        self._release(held, name)
        descriptor = os.open(path, os.O_RDONLY)
        held[name] = _HeldFile(_fingerprint(os.fstat(descriptor)), descriptor)
        _verify(Path(f"/dev/fd/{descriptor}"))
        target.symlink_to(f"/dev/fd/{descriptor}")

    def _release(self, held: dict[str, _HeldFile], name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        if (file := held.pop(name, None)) and file.descriptor is not None:
            os.close(file.descriptor)


def _verify(path: Path) -> None:
    with path.open("rb") as file:
        verify_parquet(file)


def _remedy(name: str) -> str:
    """Return the remedy for a damaged file, given its path below the root."""
    table, *partitions = name.split("/")[:-1]
    options = [f"--{key} {value}" for key, value in (part.split("=") for part in partitions)]
    if not options:
        return "Remove it: the next run writes it again."
    return f"Rebuild it: python -m assets rebuild {table} {' '.join(options)}"


def _fingerprint(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _ensure_file_limit(n_files: int) -> None:
    """Let this process open `n_files` twice: in the snapshot and in the reader.

    The soft limit rises to at most the hard limit. Raises SnapshotError if the hard limit is too low even for the
    snapshot alone.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = float("inf") if hard == resource.RLIM_INFINITY else hard
    if n_files + _RESERVED_DESCRIPTORS > highest:
        raise SnapshotError(
            f"reading {n_files} files at once needs a limit of at least {n_files + _RESERVED_DESCRIPTORS} open files,"
            f" and the hard limit of this process is {hard}."
            f" Raise it: ulimit -Hn {2 * n_files + _RESERVED_DESCRIPTORS}"
        )
    limit = int(min(2 * n_files + _RESERVED_DESCRIPTORS, highest))
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
