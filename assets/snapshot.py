"""Files held still: a query reads them as they were when it began, however often they are replaced meanwhile."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from contextlib import suppress
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
        """Hold the files that match a glob below the root as they are now; gives how many.

        SnapshotError where the system lets a process open fewer files than there are.
        """
        former, held = self._held.get(pattern, {}), dict[str, _Held]()
        found = self._fs.glob(f"{escape(self._root)}/{pattern}")
        _allow_open_files(len(found) + sum(map(len, self._held.values())))
        for path in found:
            name = path.removeprefix(f"{self._root}/")
            with suppress(FileNotFoundError):  # it was removed just now
                held[name] = self._hold(name, path, former.get(name))
        for name in former.keys() - held.keys():
            (self.folder / name).unlink()
        self._held[pattern] = held
        _close(former[name] for name in former if former[name] is not held.get(name))
        return len(held)

    def close(self) -> None:
        """Let go of all files; the folder's owner removes the folder."""
        for held in self._held.values():
            _close(held.values())
        self._held.clear()

    def _hold(self, name: str, path: str, former: _Held | None) -> _Held:
        place, is_local = self.folder / name, "file" in self._fs.protocol
        mark = _mark_of(os.stat(path)) if is_local else self._fs.ukey(path)
        if former is not None and former.mark == mark:
            return former
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_name("next")
        if not is_local:
            self._fs.get_file(path, str(scratch))
            scratch.replace(place)
            return _Held(mark)
        descriptor = os.open(path, os.O_RDONLY)
        scratch.symlink_to(f"/dev/fd/{descriptor}")
        scratch.replace(place)
        return _Held(_mark_of(os.fstat(descriptor)), descriptor)


def _mark_of(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size


def _close(held: Iterable[_Held]) -> None:
    for each in held:
        if each.descriptor is not None:
            os.close(each.descriptor)


def _allow_open_files(n: int) -> None:
    """Raise this process's limit as far as it must and may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n + _SPARE
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise SnapshotError(
            f"to read {n} files at once a process must be allowed to open {wanted}, and it is {hard}."
            f" Raise the limit: ulimit -Hn {wanted}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
