"""`python -m benchmarks.minimal_server URL`: the least that a service of logged tips can do, as a yardstick.

A request costs one read, of the user's newest candidates, and one insert into the log of decisions; the answer is the
first candidate. The server chooses nothing, checks no token and no freshness, and has neither limits nor time-outs.
Prints its port, and serves until its stdin is closed.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import httptools
import orjson
import uvloop

_READ = """
SELECT candidate_set_id, context_hash, tips[1], kinds[1] FROM candidate_sets
WHERE user_id = $1 ORDER BY made_at DESC LIMIT 1
"""
_LOG = """
INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, context_hash, candidate_set_id)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_N_CONNECTIONS = 8
"""Connections to Postgres: the service's default of DATABASE_CONNECTIONS."""


class _Protocol(asyncio.Protocol):
    """Answers the requests of one connection; the client waits for each answer before the next request."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._url = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_message_complete(self) -> None:
        self._task = self._loop.create_task(self._answer(self._url.split(b"/")[3].decode()))

    async def _answer(self, user_id: str) -> None:
        body = await _logged_tip(self._pool, user_id)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


async def _logged_tip(pool: asyncpg.Pool, user_id: str) -> bytes:
    set_id, context_hash, tip, kind = await pool.fetchrow(_READ, user_id)
    decision_id = uuid4()
    await pool.execute(_LOG, decision_id, user_id, datetime.now(UTC), kind, context_hash, set_id)
    return orjson.dumps({"decision_id": decision_id, "tip": orjson.Fragment(tip), "context_hash": context_hash})


async def keep_state(_: Any) -> None:
    """The reset of a connection that has no state: asyncpg's own is a statement after each use."""


async def _serve(url: str) -> None:
    settings = {"synchronous_commit": "off"}  # as the service logs decisions
    async with asyncpg.create_pool(
        url, min_size=_N_CONNECTIONS, max_size=_N_CONNECTIONS, reset=keep_state, server_settings=settings
    ) as pool:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Protocol(pool), "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
