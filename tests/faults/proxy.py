"""A proxy in front of Postgres that can be slow, silent, cut or closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit

_CHUNK_BYTES = 65536


class PostgresProxy:
    """Forwards connections on a TCP port to a server's Unix socket; all its methods are thread-safe.

    delay_s: seconds that each part of a statement waits before it reaches Postgres. is_silent: forward nothing.
    is_closed: end new connections at once.
    """

    def __init__(self, server_url: str) -> None:
        """server_url: with the folder of the socket in `host`."""
        self._folder = parse_qs(urlsplit(server_url).query)["host"][0]
        self.delay_s, self.is_silent, self.is_closed = 0.0, False, False
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._started = Event()

    def url(self, database_url: str) -> str:
        """The URL of a database of the server through the proxy."""
        parts = urlsplit(database_url)
        return f"postgresql://postgres:@127.0.0.1:{self.port}{parts.path}"

    @property
    def n_connections(self) -> int:
        """The number of open connections."""
        return len(self._writers) // 2

    def cut(self) -> None:
        """Break all open connections."""
        self._call(self._abort_all)

    def heal(self) -> None:
        """Forward everything at once again."""
        self.delay_s, self.is_silent, self.is_closed = 0.0, False, False

    @contextmanager
    def running(self) -> Iterator[PostgresProxy]:
        """Serve from a thread while the block lasts."""
        thread = Thread(target=asyncio.run, args=(self._serve(),), daemon=True)
        thread.start()
        self._started.wait()
        try:
            yield self
        finally:
            self._call(self._stop)
            thread.join()

    async def _serve(self) -> None:
        self._loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        self._stop = stopped.set
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await stopped.wait()
        server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_closed:
            writer.transport.abort()
            return
        try:
            to_reader, to_writer = await asyncio.open_unix_connection(f"{self._folder}/.s.PGSQL.5432")
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, to_writer}
        try:
            await asyncio.gather(self._copy(reader, to_writer, is_slow=True), self._copy(to_reader, writer))
        finally:
            for each in (writer, to_writer):
                each.transport.abort()
            self._writers -= {writer, to_writer}

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_slow: bool = False
    ) -> None:
        with suppress(OSError):
            while part := await reader.read(_CHUNK_BYTES):
                while self.is_silent:
                    await asyncio.sleep(0.01)
                if is_slow and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(part)
                await writer.drain()
        writer.transport.abort()

    def _call(self, function: Callable[[], None]) -> None:
        """Call a function in the thread of the proxy."""
        self._loop.call_soon_threadsafe(function)

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
