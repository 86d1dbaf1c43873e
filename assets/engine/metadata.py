"""Metadata at the ends of Parquet files, read for many files at once; from an object store only if they changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from contexts.files import FileFault, FileStore
from contexts.verified_parquet import DamagedFile, n_footer_bytes, open_parquet, read_metadata, write_parquet

log = logging.getLogger(__name__)

Metadata = Mapping[bytes, bytes]
"""Texts by name, as Parquet stores them."""

_TAIL_BYTES = 64 * 1024
"""Bytes read from the end of a file for its metadata; longer metadata take a second read."""

_MAX_READS = 5
"""Attempts at the metadata of a file that is replaced while it is read."""

_CACHE_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("metadata", pa.map_(pa.binary(), pa.binary()), nullable=False),
    ]
)


@dataclass(frozen=True)
class _Entry:
    """The metadata of one version of a file."""

    version: str
    metadata: Metadata


class MetadataReader:
    """Reads the metadata of files. A fault of a single file is returned in its place, any other fault is raised."""

    def __init__(self, files: FileStore) -> None:
        self._files = files

    def read(self, paths: Iterable[str]) -> dict[str, Metadata | DamagedFile | FileFault | None]:
        """Read the metadata of some files: None for a file that does not exist."""
        return {path: _parsed(tail) for path, tail in self._tails(paths).items()}

    def read_in_folder(
        self, folder: str, paths: Sequence[str], *, keep: bool
    ) -> dict[str, Metadata | DamagedFile | FileFault | None]:
        """Read the metadata of files below a folder: one listing, and the files that changed since the last reading.

        Metadata are remembered in the object `<folder>/footers.parquet`, each for one version of its file as the
        store lists it, so they cannot disagree with the file. keep: whether to remember what is read now; if the
        store refuses that, as it does for a reader, it is logged and the next reading reads the same again. If a file
        was replaced meanwhile, nothing is remembered: the former metadata can name a user who was erased from it.
        """
        versions = self._files.versions(folder)
        entries = self._cached(folder) if any(versions.values()) else {}
        current = {path: entry for path, entry in entries.items() if versions.get(path) == entry.version}
        read = self.read(path for path in paths if path in versions and path not in current)
        if keep and read:
            found = {path: each for path, each in read.items() if versions[path] and isinstance(each, Mapping)}
            kept = current | {path: _Entry(versions[path], each) for path, each in found.items()}
            if self._write(folder, kept) and not self._are_current(folder, kept):
                self.forget(folder)
        return {path: current[path].metadata if path in current else read.get(path) for path in paths}

    def forget(self, folder: str) -> None:
        """Remove the remembered metadata of a folder: they can name users who were removed from its files."""
        path = _cache_path(folder)
        if not self._files.is_local and self._files.exists(path):
            with suppress(FileNotFoundError):  # another process has removed it in the meantime
                self._files.remove(path)

    def _tails(self, paths: Iterable[str]) -> dict[str, bytes | FileFault | None]:
        sizes, tails = dict.fromkeys(paths, _TAIL_BYTES), dict[str, bytes | FileFault | None]()
        for _ in range(_MAX_READS):
            if not sizes:
                break
            tails |= self._files.last_bytes_of(sizes)
            # Longer again if a file is replaced before it is read again.
            needed = {path: _n_needed(tails[path]) for path in sizes}
            sizes = {path: n_bytes for path, n_bytes in needed.items() if n_bytes > sizes[path]}
        return tails

    def _cached(self, folder: str) -> dict[str, _Entry]:
        path = _cache_path(folder)
        with self._files.open(path) as file:
            if file is None:
                return {}
            try:
                rows = open_parquet(file).read().cast(_CACHE_SCHEMA).to_pylist()
            except (pa.ArrowException, DamagedFile, ValueError, OSError) as error:
                log.warning("%s is not used, and will be replaced: %s", path, error)
                return {}
        return {row["path"]: _Entry(row["version"], dict(row["metadata"])) for row in rows}

    def _are_current(self, folder: str, entries: Mapping[str, _Entry]) -> bool:
        versions = self._files.versions(folder)
        return all(versions.get(path) == entry.version for path, entry in entries.items())

    def _write(self, folder: str, entries: Mapping[str, _Entry]) -> bool:
        """Remember metadata; return whether the store allowed it."""
        rows = [
            {"path": path, "version": entry.version, "metadata": list(entry.metadata.items())}
            for path, entry in sorted(entries.items())
        ]
        table, path = pa.Table.from_pylist(rows, schema=_CACHE_SCHEMA), _cache_path(folder)
        try:
            with self._files.replacing(path) as file:
                write_parquet(file, table, {}, compression="zstd")
        except FileFault as fault:
            log.warning("the footers that were read are not remembered: %s", fault)
            return False
        return True


def _cache_path(folder: str) -> str:
    return f"{folder}/footers.parquet"


def _n_needed(tail: bytes | FileFault | None) -> int:
    """Return the number of bytes that the metadata take; 0 if the file has none."""
    if not isinstance(tail, bytes):
        return 0
    try:
        return n_footer_bytes(tail)
    except DamagedFile:
        return 0


def _parsed(tail: bytes | FileFault | None) -> Metadata | DamagedFile | FileFault | None:
    if not isinstance(tail, bytes):
        return tail
    try:
        return read_metadata(tail).metadata or {}
    except DamagedFile as error:
        return error
