"""Files under a root that is any fsspec URL, each replaced atomically and durably."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

SCRATCH_SUFFIX = ".tmp"
"""The suffix of a file that is being written. After a crash it stays until `FileStore.remove_leftovers`."""

ASIDE_SUFFIX = ".aside"
"""The suffix of a file that `FileStore.set_aside` renamed."""


class FileStore:
    """The files of one file system. Paths are absolute: they begin with `root`, which has no trailing slash."""

    def __init__(self, root: str) -> None:
        """Open the file system of a root.

        root: an fsspec URL; a plain path is a local folder.
        """
        self._fs, path = fsspec.core.url_to_fs(root)
        self.root: str = path.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the files are on a disk of this machine, so that they can be synced."""
        return isinstance(self._fs, LocalFileSystem)

    def children(self, folder: str) -> list[str]:
        """Return the paths directly in a folder; empty if there is no such folder."""
        self._fs.invalidate_cache()  # other processes write to the folder, and some file systems cache listings
        try:
            return [path.rstrip("/") for path in self._fs.ls(folder, detail=False)]
        except FileNotFoundError:
            return []

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        with self.open(path) as file:
            return file is not None

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes] | None]:
        """Open a file for reading, or yield None if there is no such file."""
        try:
            file = self._fs.open(path, "rb")
        except FileNotFoundError:
            yield None
            return
        with file:
            yield file

    @contextmanager
    def replacing(self, path: str) -> Iterator[IO[bytes]]:
        """Open a scratch file that replaces `path` when the block ends: readers see the old file or the new one.

        On a local disk the file and its folder are synced, so that the new file survives a power loss. If the block
        raises, the scratch file is removed and the old file stays.
        """
        folder = parent(path)
        unsynced = self._make_folder(folder)
        scratch = f"{folder}/{uuid4().hex}{SCRATCH_SUFFIX}"
        try:
            with self._fs.open(scratch, "wb") as file:
                yield file
                if self.is_local:
                    file.flush()
                    os.fsync(file.fileno())
            self._rename(scratch, path)
        except BaseException:
            with suppress(OSError):
                self._fs.rm_file(scratch)
            raise
        for changed in unsynced:
            _sync_folder(changed)

    def set_aside(self, path: str) -> str:
        """Rename a file so that its path is free, and return the new path.

        Raises FileNotFoundError if there is no such file.
        """
        if not self._fs.exists(path):
            raise FileNotFoundError(path)
        aside = f"{path}.{uuid4().hex[:8]}{ASIDE_SUFFIX}"
        self._rename(path, aside)
        return aside

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._fs.rm_file(path)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with everything in it, if it exists."""
        with suppress(FileNotFoundError):
            if self.is_local:
                shutil.rmtree(folder)
            else:
                self._fs.rm(glob.escape(folder), recursive=True)

    def remove_leftovers(self, folder: str, suffixes: tuple[str, ...] = (SCRATCH_SUFFIX,)) -> None:
        """Remove the files of a folder that have one of the suffixes: by default those of writers that died."""
        for path in self.children(folder):
            if path.endswith(suffixes):
                with suppress(FileNotFoundError):  # another process has removed it in the meantime
                    self._fs.rm_file(path)

    def _rename(self, source: str, target: str) -> None:
        """Rename a file: atomically on a local disk; an object store copies and deletes."""
        # Not mv: it copies if a local rename fails, and takes *, ? and [ in a remote path for a pattern.
        if self.is_local:
            os.replace(source, target)
        else:
            self._fs.cp_file(source, target)
            self._fs.rm_file(source)

    def _make_folder(self, folder: str) -> list[Path]:
        """Create a folder with its parents. Return the local folders to sync once a file was renamed in it."""
        if not self.is_local:
            self._fs.makedirs(folder, exist_ok=True)
            return []
        missing = [path for path in (Path(folder), *Path(folder).parents) if not path.exists()]
        self._fs.makedirs(folder, exist_ok=True)
        return [Path(folder), *(path.parent for path in missing)]


def parent(path: str) -> str:
    """Return the folder of a path."""
    return path.rsplit("/", 1)[0]


def _sync_folder(folder: Path) -> None:
    """Make the creation and renaming of a folder's entries durable."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be entered and not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network mounts cannot sync folders. The file is replaced already, so the write must not fail.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
