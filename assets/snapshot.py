"""Files held still: a query reads them as they were when it began, however often they are replaced meanwhile."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import fsspec

from assets.errors import SnapshotError

_SPARE = 128
"""Descriptors left for all else that a process opens."""


@dataclass(frozen=True)
class _Held:
    """mark: another one once the file is another one. descriptor: of a local file."""

    mark: object
    descriptor: int | None = None


class Snapshot:
    """A folder in which files of a root (any fsspec URL) stand under the paths that they have there.

    DuckDB opens a file once to see what is in it and again to read it: when the file was replaced in between, the
    answer is an error or nonsense. So a local file stands here as a link to its open descriptor, which stays what it
    was, and a remote one as a copy, made anew once it changed.
    """

    def __init__(self, root: str, folder: Path) -> None:
        self.folder = folder
        self._fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False)  # others write there
        self._root = path.rstrip("/")
        self._held: dict[str, dict[str, _Held]] = {}

    def take(self, pattern: str) -> int:
        """Hold the files that match a glob below the root as they are now, in place of those held before; gives how
        many. Nobody may be reading the former ones.

        SnapshotError where a file cannot be read, or more are there than a process may open.
        """
        held = self._held.setdefault(pattern, {})
        try:
            paths: list[str] = self._fs.glob(f"{escape(self._root)}/{pattern}")
            found = {path.removeprefix(f"{self._root}/"): path for path in paths}
            if self._is_local:  # of remote files copies are held, which are open only while they are read
                _allow_open_files(len(found) + sum(len(each) for each in self._held.values() if each is not held))
            for name in held.keys() - found.keys():
                self._drop(held, name)
            for name, path in found.items():
                try:
                    self._hold(held, name, path)
                except FileNotFoundError:  # it was removed just now
                    self._drop(held, name)
        except OSError as error:
            raise SnapshotError(f"{pattern} below {self._root} cannot be read: {error}") from error
        return len(held)

    def close(self) -> None:
        """Let go of all files; the folder's owner removes the folder."""
        for held in self._held.values():
            for name in list(held):
                self._drop(held, name)

    @property
    def _is_local(self) -> bool:
        return "file" in self._fs.protocol

    def _hold(self, held: dict[str, _Held], name: str, path: str) -> None:
        mark = _mark_of(os.stat(path)) if self._is_local else self._fs.ukey(path)
        if name in held and held[name].mark == mark:
            return
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_name("next")
        scratch.unlink(missing_ok=True)  # of a taking that was broken off
        if not self._is_local:
            self._fs.get_file(path, str(scratch))
            scratch.replace(place)
            held[name] = _Held(mark)
            return
        self._drop(held, name)
        descriptor = os.open(path, os.O_RDONLY)
        held[name] = _Held(_mark_of(os.fstat(descriptor)), descriptor)
        place.symlink_to(f"/dev/fd/{descriptor}")

    def _drop(self, held: dict[str, _Held], name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        if (former := held.pop(name, None)) and former.descriptor is not None:
            os.close(former.descriptor)


def _mark_of(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size


def _allow_open_files(n: int) -> None:
    """Raise this process's limit as far as it must and may be: each file is held here, and opened by its reader."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = float("inf") if hard == resource.RLIM_INFINITY else hard
    if n + _SPARE > highest:
        raise SnapshotError(
            f"to read {n} files at once a process must be allowed to open {n + _SPARE}, and it is {hard}."
            f" Raise the limit: ulimit -Hn {2 * n + _SPARE}"
        )
    wanted = int(min(2 * n + _SPARE, highest))
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
