"""Parquet files of which every byte is covered by a digest, so that damage is found before anything is parsed.

A file ends with the metadata of Parquet, the digests of its column chunks, a digest of all that, and the length and
magic with which Parquet ends. Other readers of Parquet skip the digests. Parquet's own page checksums are written,
too, but they leave the headers of pages and the metadata uncovered.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

_DIGEST_BYTES = 16
_VERIFIED_AT_ONCE_BYTES = 1 << 24
_MARK = b"digests1"
_END = Struct("<I4s")
"""The end of every Parquet file: the length of what is between the column chunks and this, and a magic."""

_DIGESTS_END = Struct(f"<I{_DIGEST_BYTES}s{len(_MARK)}s")
"""The end of the digests: their number, the digest of the metadata and of everything else at the end, and a mark."""


class DamagedFile(Exception):
    """A file that is not the one that was written, or no Parquet file."""


def write_parquet(file: IO[bytes], table: pa.Table, metadata: Mapping[str, str], **options: Any) -> None:
    """Write a table. metadata: texts by name. options: of `pyarrow.parquet.ParquetWriter`, and `row_group_size`."""
    sink, row_group_size = pa.BufferOutputStream(), options.pop("row_group_size", None)
    with pq.ParquetWriter(sink, table.schema, write_page_checksum=True, **options) as writer:
        writer.write_table(table, row_group_size)
        writer.add_key_value_metadata(dict(metadata))
    content = memoryview(sink.getvalue())
    n_bytes, magic = _END.unpack(content[-_END.size :])
    chunks, parsed = content[: -_END.size - n_bytes], content[-_END.size - n_bytes : -_END.size]
    ranges = list(_chunk_ranges(pq.read_metadata(pa.BufferReader(content))))
    digests = b"".join(_digest(content[start : start + length]) for start, length in ranges)
    end = _END.pack(n_bytes + len(digests) + _DIGESTS_END.size, magic)
    whole = _digest(parsed, digests, len(ranges).to_bytes(4, "little"), end)
    for part in (chunks, parsed, digests, _DIGESTS_END.pack(len(ranges), whole, _MARK), end):
        file.write(part)


def n_footer_bytes(tail: bytes) -> int:
    """Return how many bytes at the end of a file hold all but its column chunks; the last eight bytes tell."""
    if len(tail) < _END.size:
        raise DamagedFile("it is too short to be a Parquet file")
    n_bytes, magic = _END.unpack(tail[-_END.size :])
    if magic != b"PAR1":
        raise DamagedFile("it does not end as a Parquet file does")
    return int(n_bytes) + _END.size


def read_metadata(tail: bytes) -> pq.FileMetaData:
    """Verify and parse the metadata at the end of a file. tail: at least `n_footer_bytes`; DamagedFile if shorter."""
    return _Footer.from_tail(tail).metadata


def open_parquet(file: IO[bytes]) -> pq.ParquetFile:
    """Open a file whose bytes are verified as they are read; reading raises DamagedFile.

    Files that were written without digests are read as they are.
    """
    verified = _VerifiedFile(file)
    # Without pre_buffer, which reads the columns between those that are asked for.
    return pq.ParquetFile(verified, metadata=verified.metadata, pre_buffer=False, page_checksum_verification=True)


def verify_parquet(file: IO[bytes]) -> None:
    """Read a whole file for a reader that verifies nothing; DamagedFile if it is not what was written."""
    verified = _VerifiedFile(file)
    while verified.read(_VERIFIED_AT_ONCE_BYTES):
        pass


@dataclass(frozen=True)
class _Footer:
    """The end of a file. digests: of the column chunks, None if the file was written without digests."""

    content: bytes
    metadata: pq.FileMetaData
    digests: tuple[bytes, ...] | None

    @classmethod
    def from_tail(cls, tail: bytes) -> _Footer:
        """Verify and parse the end of a file."""
        n_bytes = n_footer_bytes(tail)
        if n_bytes > len(tail):
            raise DamagedFile(f"its metadata would be longer than the file ({n_bytes:,} bytes)")
        content = tail[-n_bytes:]
        digests = _verified_digests(content)
        try:
            metadata = pq.read_metadata(pa.BufferReader(content))
        except (pa.ArrowException, OSError) as error:
            raise DamagedFile(str(error)) from error
        return cls(content, metadata, digests)


def _verified_digests(content: bytes) -> tuple[bytes, ...] | None:
    """Return the digests of the column chunks after checking them and the metadata; None if there are none."""
    marked = content[: -_END.size]
    if not marked.endswith(_MARK) or len(marked) < _DIGESTS_END.size:
        return None
    n_digests, whole, _ = _DIGESTS_END.unpack(marked[-_DIGESTS_END.size :])
    covered, n_bytes = marked[: -_DIGESTS_END.size], n_digests * _DIGEST_BYTES
    if n_bytes > len(covered) or whole != _digest(covered, n_digests.to_bytes(4, "little"), content[-_END.size :]):
        raise DamagedFile("its metadata is not what was written: the digest differs")
    digests = covered[len(covered) - n_bytes :]
    return tuple(digests[start : start + _DIGEST_BYTES] for start in range(0, n_bytes, _DIGEST_BYTES))


class _VerifiedFile(io.RawIOBase):
    """A file that gives no byte of a column chunk before the digest of the chunk was compared."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._position = 0
        self._size = file.seek(0, os.SEEK_END)
        n_bytes = n_footer_bytes(self._raw(max(0, self._size - _END.size), min(self._size, _END.size)))
        tail_start = max(0, self._size - n_bytes)
        footer = _Footer.from_tail(self._raw(tail_start, self._size - tail_start))
        self.metadata, self._tail = footer.metadata, footer.content
        ranges = [] if footer.digests is None else list(_chunk_ranges(footer.metadata))
        self._chunks = sorted(zip(ranges, footer.digests or (), strict=True))
        self._starts = [start for (start, _), _ in self._chunks]
        self._last: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        parts = []
        while self._position < stop:
            parts.append(self._part(self._position, stop))
            self._position += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`, or fewer: those of one column chunk, or those before the next."""
        if start >= self._size - len(self._tail):
            return self._tail[start - self._size + len(self._tail) :][: stop - start]
        position = bisect_right(self._starts, start) - 1
        if position >= 0:
            (first, length), digest = self._chunks[position]
            if start < first + length:
                content = self._chunk(first, length, digest)
                return content if stop - start == length else content[start - first : stop - first]
        following = self._starts[position + 1] if position + 1 < len(self._starts) else self._size - len(self._tail)
        return self._raw(start, min(stop, following) - start)

    def _chunk(self, start: int, length: int, digest: bytes) -> bytes:
        if self._last[0] != start:
            content = self._raw(start, length)
            if _digest(content) != digest:
                raise DamagedFile(f"its bytes {start}-{start + length} are not those that were written: bit rot")
            self._last = (start, content)
        return self._last[1]

    def _raw(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        content = self._file.read(length)
        if len(content) != length:
            raise DamagedFile(f"it has only {len(content)} of {length} bytes at {start}")
        return content


def _chunk_ranges(metadata: pq.FileMetaData) -> Iterator[tuple[int, int]]:
    """Yield the first byte and the number of bytes of every column chunk."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(row_group.num_columns):
            chunk = row_group.column(column)
            starts = [chunk.data_page_offset]
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                starts.append(chunk.dictionary_page_offset)
            yield min(starts), chunk.total_compressed_size


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()
