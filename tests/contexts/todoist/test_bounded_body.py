"""Bodies up to a limit: plain and compressed, alone and many at once."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterable

import pytest

from contexts.todoist.bounded_body import BadEncoding, BodyReader, BodyTooLarge, TooManyBodies

MIB = 2**20


async def parts_of(body: Iterable[bytes], read: list[int]) -> AsyncIterator[bytes]:
    for part in body:
        read.append(len(part))
        yield part


def split(body: bytes, n_bytes: int = 2**16) -> list[bytes]:
    return [body[at : at + n_bytes] for at in range(0, len(body), n_bytes)]


def read(reader: BodyReader, parts: Iterable[bytes], encoding: str | None = None) -> tuple[bytes, list[int]]:
    n_read: list[int] = []
    return asyncio.run(reader.read(parts_of(parts, n_read), encoding)), n_read


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("n_bytes", [0, 1, 2**16, MIB - 1, MIB])
def test_whole(encoding: str | None, n_bytes: int) -> None:
    """A body up to the limit is returned, decompressed."""
    body = bytes(n_bytes)
    parts = split(gzip.compress(body) if encoding else body, 100)
    assert read(BodyReader(MIB), parts, encoding)[0] == body


def test_endless() -> None:
    """A body without end is cut off at the limit, and not read further."""
    n_read: list[int] = []

    def endless() -> Iterable[bytes]:
        while True:
            yield bytes(2**16)

    with pytest.raises(BodyTooLarge, match="1,048,576 bytes"):
        asyncio.run(BodyReader(MIB).read(parts_of(endless(), n_read), None))
    assert sum(n_read) <= MIB + 2**16


def test_bomb() -> None:
    """A gigabyte in a megabyte of gzip is cut off at the limit, and takes no more memory than a few times that."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    mebibyte = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)  # can be repeated
    bomb = split(gzip.compress(b"")[:10] + mebibyte * 1024)
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            read(BodyReader(4 * MIB), bomb, "gzip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * MIB


def test_much_for_little() -> None:
    """Compressed bytes count, too: a body of empty blocks has no size, and is cut off."""
    empty_blocks = [gzip.compress(b"")[:10], *[b"\x00\x00\x00\xff\xff" * 10_000] * 100]
    with pytest.raises(BodyTooLarge):
        read(BodyReader(MIB), empty_blocks, "gzip")


@pytest.mark.parametrize("n_bytes", [10, 100, 2**20])
@pytest.mark.parametrize(
    "change", [lambda body: body[:-1], lambda body: body[:-9], lambda body: body + body, lambda body: body + b"x"]
)
def test_not_one_whole_stream(change: Callable[[bytes], bytes], n_bytes: int) -> None:
    """A compressed body that is cut off, or goes on after its end, is refused instead of read in part."""
    with pytest.raises(BadEncoding, match=r"ends before|goes on after"):
        read(BodyReader(4 * MIB), split(change(gzip.compress(bytes(n_bytes))), 7), "gzip")


def test_empty_with_an_encoding() -> None:
    """A response without a body may still name an encoding."""
    assert read(BodyReader(MIB), [], "gzip")[0] == b""


@pytest.mark.parametrize(("encoding", "body"), [("gzip", b"no gzip at all"), ("br", b"x"), ("gzip, gzip", b"x")])
def test_encoding(encoding: str, body: bytes) -> None:
    """A body that is not in gzip, or in another encoding, is refused."""
    with pytest.raises(BadEncoding):
        read(BodyReader(MIB), [body], encoding)


def test_many_at_once() -> None:
    """Of many large bodies at once those beyond four times the limit are refused; small ones are read meanwhile."""
    reader = BodyReader(MIB)

    async def held(body: bytes, done: asyncio.Event) -> AsyncIterator[bytes]:
        for part in split(body):
            yield part
        await done.wait()

    async def read_all() -> tuple[list[object], bytes]:
        done = asyncio.Event()
        large = [asyncio.create_task(reader.read(held(bytes(MIB), done), None)) for _ in range(6)]
        await asyncio.wait(large, return_when=asyncio.FIRST_COMPLETED)
        small = await reader.read(parts_of([b"small"], []), None)
        done.set()
        return list(await asyncio.gather(*large, return_exceptions=True)), small

    outcomes, small = asyncio.run(read_all())
    assert small == b"small"
    assert sum(isinstance(outcome, TooManyBodies) for outcome in outcomes) == 2
    assert sum(outcome == bytes(MIB) for outcome in outcomes) == 4
    assert read(reader, [bytes(MIB)])[0] == bytes(MIB)
