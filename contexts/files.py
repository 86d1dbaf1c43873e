"""Files under a root that is any fsspec URL, each replaced atomically and durably."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

SCRATCH_SUFFIX = ".tmp"
"""The suffix of a file that is being written. After a crash it stays until `FileStore.remove_leftovers`."""

ASIDE_SUFFIX = ".aside"
"""The suffix of a file that `FileStore.set_aside` renamed."""


_FREE_SPACE = "Free space on that disk, and run it again."
_REPLACED_BY_FOLDER = "There is a folder where a file belongs, or a file where a folder belongs: move it away."
_NO_PERMISSION = "Give the user of this process the right to read and write there."

_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EROFS: "Mount that file system for writing, or set DATA_ROOT to a folder that can be written.",
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EISDIR: _REPLACED_BY_FOLDER,
    errno.ENOTDIR: _REPLACED_BY_FOLDER,
    errno.ENOTEMPTY: _REPLACED_BY_FOLDER,
    errno.EEXIST: _REPLACED_BY_FOLDER,
}
_OTHER_REMEDY = "Run it again; if the fault stays, check the disk or the object store of DATA_ROOT."

_ROOT_REMEDY = "Write a folder or a URL such as s3://bucket/folder; gs:// needs the package gcsfs, abfs:// adlfs."

_N_CONNECTIONS = 64
"""Requests to an object store that are under way at the same time."""

_CLIENT_PACKAGES = {
    "aiobotocore",
    "aiohttp",
    "azure",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "requests",
    "s3fs",
    "urllib3",
}
"""Packages of exceptions that tell of a fault of an object store."""

_FAULTS_OF_ONE_FILE = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EIO}


class FileFault(OSError):
    """A file that the file system does not read or write. The message names the path, the fault and the remedy.

    is_of_one_file: whether other files of the root can be expected to be readable, and trying again will not help.
    """

    def __init__(self, path: str, attempt: str, error: Exception, *, is_local: bool) -> None:
        number = getattr(error, "errno", None)
        fault = getattr(error, "strerror", None) or str(error) or type(error).__name__
        super().__init__(f"{path} cannot be {attempt}: {fault}. {_REMEDIES.get(number or 0, _OTHER_REMEDY)}")
        self.errno = number
        self.is_of_one_file = is_local and number in _FAULTS_OF_ONE_FILE


class FileStore:
    """The files of one file system. Paths are absolute: they begin with `root`, which has no trailing slash.

    A fault of the file system is raised as FileFault.
    """

    def __init__(self, root: str) -> None:
        """Open the file system of a root.

        root: an fsspec URL; a plain path is a local folder.
        Raises OSError if fsspec does not know the kind of URL, or lacks the package for it.
        """
        import fsspec
        from fsspec.asyn import AsyncFileSystem
        from fsspec.implementations.local import LocalFileSystem

        # Without cached listings: other processes write to the root.
        try:
            self._fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False, **_options(root))
        except (ValueError, ImportError) as error:
            raise OSError(f"DATA_ROOT={root} cannot be opened: {error}. {_ROOT_REMEDY}") from error
        self.root: str = path.rstrip("/")
        self._batches = {"batch_size": _N_CONNECTIONS} if isinstance(self._fs, AsyncFileSystem) else {}
        self.is_local = isinstance(self._fs, LocalFileSystem)  # on a disk of this machine: they can be synced

    def children(self, folder: str) -> list[str]:
        """Return the paths directly in a folder; empty if there is no such folder."""
        with self._faults(folder, "listed"):
            try:
                return [path.rstrip("/") for path in self._fs.ls(folder, detail=False)]
            except FileNotFoundError:
                return []

    def exists(self, path: str) -> bool:
        """Whether there is a file. Raises FileFault if the file system does not answer."""
        with self._faults(path, "read"):
            try:
                self._fs.info(path)  # not exists(): it takes every error for a missing file
            except FileNotFoundError:
                return False
            return True

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes] | None]:
        """Open a file for reading, or yield None if there is no such file.

        The block reads one version of the file even if the file is replaced meanwhile: on a local disk the open file
        stays the old one; from an object store the whole file is read at once.
        """
        with self._faults(path, "read"):
            file = self._opened(path)
        if file is None:
            yield None
            return
        with file:
            yield file

    def versions(self, folder: str) -> dict[str, str]:
        """Return the paths of all files below a folder, each with its version; one request lists 1,000 objects.

        A path has the same version twice only if it has the same content. It is empty if the file system has none.
        """
        with self._faults(folder, "listed"):
            return {str(path): _version(info) for path, info in self._fs.find(folder, detail=True).items()}

    def last_bytes(self, path: str, n_bytes: int) -> bytes | None:
        """Read the end of a file, or the whole file if it is not longer; None if there is no such file."""
        with self._faults(path, "read"):
            if not self.is_local:
                return self._cat(path, -n_bytes)
            file = self._opened(path)
            if file is None:
                return None
            with file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - n_bytes))
                return file.read()

    def last_bytes_of(self, n_bytes: Mapping[str, int]) -> dict[str, bytes | FileFault | None]:
        """Read the ends of several files as `last_bytes` does; from an object store many at a time.

        n_bytes: by path. A fault of a single file is returned in its place, any other fault is raised.
        """
        if self.is_local:
            return {path: self._last_bytes_or_fault(path, number) for path, number in n_bytes.items()}
        starts = [-number for number in n_bytes.values()]
        ends = self._fs.cat_ranges(list(n_bytes), starts, [None] * len(starts), on_error="return", **self._batches)
        return {path: self._end(path, n_bytes[path], end) for path, end in zip(n_bytes, ends, strict=True)}

    def _last_bytes_or_fault(self, path: str, n_bytes: int) -> bytes | FileFault | None:
        try:
            return self.last_bytes(path, n_bytes)
        except FileFault as fault:
            if fault.is_of_one_file:
                return fault
            raise

    def _end(self, path: str, n_bytes: int, end: bytes | Exception) -> bytes | None:
        """Return the end of a file, or raise the fault of its request."""
        if isinstance(end, bytes):
            return end
        if isinstance(end, FileNotFoundError):
            return None
        if isinstance(end, OSError) and end.errno == errno.EINVAL:  # an empty file has no ranges
            return self.last_bytes(path, n_bytes)
        with self._faults(path, "read"):
            raise end

    @contextmanager
    def replacing(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file that replaces `path` when the block ends: readers see the old file or the new one.

        On a local disk the file and its folder are synced, so that the new file survives a power loss. An object
        store gets the whole file in one request. If the block raises, the old file stays and nothing else is left.
        """
        if self.is_local:
            with self._replacing_local(path) as file:
                yield file
            return
        content = BytesIO()
        yield content
        with self._faults(path, "written"):
            self._fs.pipe_file(path, content.getvalue())

    @contextmanager
    def _replacing_local(self, path: str) -> Iterator[IO[bytes]]:
        """Open a scratch file, which is synced and renamed to `path` when the block ends."""
        folder = parent(path)
        scratch = f"{folder}/{uuid4().hex}{SCRATCH_SUFFIX}"
        with self._faults(path, "written"):
            try:
                unsynced = self._make_folder(folder)
                with self._fs.open(scratch, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(scratch, path)
            except FileNotFoundError as error:  # the folder was removed meanwhile
                raise FileFault(path, "written", error, is_local=True) from error
            except BaseException:
                with suppress(Exception):
                    self._fs.rm_file(scratch)
                raise
            for changed in unsynced:
                _sync_folder(changed)

    def set_aside(self, path: str) -> str:
        """Rename a file so that its path is free, and return the new path.

        Raises FileNotFoundError if there is no such file.
        """
        if not self.exists(path):
            raise FileNotFoundError(path)
        aside = f"{path}.{uuid4().hex[:8]}{ASIDE_SUFFIX}"
        with self._faults(path, "renamed"):
            self._rename(path, aside)
            self._sync(parent(path))
        return aside

    def move(self, source: str, target: str) -> None:
        """Rename a file, also into another folder, which is created; an existing file there is replaced."""
        with self._faults(target, "written"):
            changed = self._make_folder(parent(target))
            self._rename(source, target)
            for folder in changed:
                _sync_folder(folder)
            self._sync(parent(source))

    def remove(self, path: str) -> None:
        """Remove a file."""
        with self._faults(path, "removed"):
            self._fs.rm_file(path)
            self._sync(parent(path))

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with everything in it, if it exists."""
        with self._faults(folder, "removed"), suppress(FileNotFoundError):
            if self.is_local:
                shutil.rmtree(folder)
                self._sync(parent(folder))
            else:
                self._fs.rm(glob.escape(folder), recursive=True)

    def sweep(self, folder: str, older_than: timedelta | None = None) -> None:
        """Remove scratch files of writers that died, see `remove_leftovers`; an object store has none."""
        if self.is_local:
            self.remove_leftovers(folder, older_than=older_than)

    def remove_leftovers(
        self, folder: str, suffixes: tuple[str, ...] = (SCRATCH_SUFFIX,), older_than: timedelta | None = None
    ) -> None:
        """Remove the files of a folder that have one of the suffixes: by default those of writers that died.

        older_than: spares younger files, for folders in which other writers may be at work.
        """
        leftovers = [path for path in self.children(folder) if path.endswith(suffixes)]
        with self._faults(folder, "swept"):
            for path in leftovers:
                with suppress(FileNotFoundError):  # another process has removed it in the meantime
                    if older_than is None or _age(self._fs.modified(path)) > older_than:
                        self._fs.rm_file(path)
            if leftovers:
                self._sync(folder)

    @contextmanager
    def _faults(self, path: str, attempt: str) -> Iterator[None]:
        """Raise faults of the file system, of whatever class, as FileFault."""
        try:
            yield
        except (FileFault, FileNotFoundError):
            raise
        except OSError as error:
            raise FileFault(path, attempt, error, is_local=self.is_local) from error
        except Exception as error:
            # Clients of object stores raise classes of their own: of connections, credentials, bodies cut short.
            if self.is_local or not is_store_fault(error):
                raise
            raise FileFault(path, attempt, error, is_local=False) from error

    def _opened(self, path: str) -> IO[bytes] | None:
        if not self.is_local:
            content = self._cat(path, 0)
            return None if content is None else BytesIO(content)
        try:
            file: IO[bytes] = self._fs.open(path, "rb")
        except FileNotFoundError:
            return None
        return file

    def _cat(self, path: str, start: int) -> bytes | None:
        """Read a remote file from a position on with one request, so that all bytes are of one version."""
        try:
            try:
                content: bytes = self._fs.cat_file(path, start=start)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                content = self._fs.cat_file(path)  # an empty file has no ranges
        except FileNotFoundError:
            return None
        return content

    def _sync(self, folder: str) -> None:
        if self.is_local:
            _sync_folder(Path(folder))

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


def _options(root: str) -> dict[str, Any]:
    """Return the options of a root's file system: its client keeps as many connections as requests are under way."""
    import fsspec

    protocol = fsspec.core.split_protocol(root)[0]
    if protocol not in ("s3", "s3a") or "config_kwargs" in fsspec.config.conf.get("s3", {}):
        return {}
    return {"config_kwargs": {"max_pool_connections": _N_CONNECTIONS}}


def _version(info: Mapping[str, Any]) -> str:
    """Return the version that a listing shows of an object; empty if it shows no ETag."""
    tag = info.get("ETag") or info.get("etag")
    changed_at = info.get("LastModified") or info.get("updated") or info.get("last_modified") or ""
    return f"{tag} {changed_at}" if tag else ""


def _age(changed_at: datetime) -> timedelta:
    return datetime.now(UTC) - (changed_at if changed_at.tzinfo else changed_at.replace(tzinfo=UTC))


def is_store_fault(error: Exception) -> bool:
    """Whether an exception was raised by a file system or the client of an object store, not by the caller's code."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENT_PACKAGES


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
