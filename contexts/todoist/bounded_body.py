"""Bodies of responses, read and decompressed in small steps up to a limit."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_STEP_BYTES = 64 * 2**10
_BODIES_AT_ONCE = 4

ACCEPTED_ENCODING = "gzip"


class BodyTooLarge(Exception):
    """A body is larger than the limit, compressed or not; the message names the limit."""


class TooManyBodies(Exception):
    """The bodies that are read at the same time are together larger than their common limit."""


class BadEncoding(Exception):
    """A body cannot be decompressed."""


@dataclass
class BodyReader:
    """Reads bodies of at most `max_bytes` each, and of about four times `max_bytes` together at any time."""

    max_bytes: int
    _n_held: int = field(default=0, init=False)

    async def read(self, parts: AsyncIterator[bytes], encoding: str | None) -> bytes:
        """Return the decompressed body. encoding: the header Content-Encoding.

        Raises BodyTooLarge, TooManyBodies or BadEncoding as soon as the fault is known, without reading on.
        """
        decompress, body, n_received = _decompressor(encoding), bytearray(), 0
        with self._held() as hold:
            async for part in parts:
                n_received += len(part)
                for piece in decompress(part):
                    body += piece
                    hold(len(piece))
                    if max(len(body), n_received) > self.max_bytes:
                        raise BodyTooLarge(f"the response is larger than {self.max_bytes:,} bytes")
                    await asyncio.sleep(0)  # other requests go on while a body is decompressed
            decompress.finish()
            return bytes(body)

    @contextmanager
    def _held(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes of a body until the end of the block."""
        n_bytes = 0

        def hold(n_more: int) -> None:
            nonlocal n_bytes
            n_bytes += n_more
            self._n_held += n_more
            # The first piece is free, so that large bodies do not stop small ones.
            if n_bytes > _STEP_BYTES and self._n_held > _BODIES_AT_ONCE * self.max_bytes:
                raise TooManyBodies("too many large responses are read at the same time")

        try:
            yield hold
        finally:
            self._n_held -= n_bytes


def _decompressor(encoding: str | None) -> _Plain | _Gzip:
    """Return the decompressor for a Content-Encoding; raises BadEncoding for one that was not requested."""
    if encoding in (None, "", "identity"):
        return _Plain()
    if encoding not in ("gzip", "x-gzip"):
        raise BadEncoding("the response has an encoding that was not requested")
    return _Gzip()


class _Plain:
    """A body that is not compressed."""

    def __call__(self, part: bytes) -> Iterator[bytes]:
        yield part

    def finish(self) -> None:
        """Accept every end: the server's Content-Length or chunks tell it."""


class _Gzip:
    """Decompresses a body that is exactly one member of gzip; an incomplete body, or data after it, is refused."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._is_empty = True

    def __call__(self, part: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes of a part of the body, in pieces of at most `_STEP_BYTES`."""
        self._is_empty = self._is_empty and not part
        while True:
            if part and self._stream.eof:
                raise BadEncoding("the response goes on after its gzip stream has ended")
            try:
                yield self._stream.decompress(part, _STEP_BYTES)
            except zlib.error:
                raise BadEncoding("the response is not valid gzip") from None
            part = self._stream.unused_data or self._stream.unconsumed_tail
            if not part:
                return

    def finish(self) -> None:
        """Raise BadEncoding if the body ends before its stream; no body at all is an empty one."""
        if not (self._is_empty or self._stream.eof):
            raise BadEncoding("the response ends before its gzip stream")
