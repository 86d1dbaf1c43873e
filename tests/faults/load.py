"""Load on the service at a fixed rate, whether it answers or not, as independent users send it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Reply:
    """A response. status: 0 if there was none. seconds: from the request to the last byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        """The body as a JSON document."""
        return orjson.loads(self.body)


@dataclass
class Load:
    """The replies to the requests of one load, in the order in which they arrived."""

    seconds: float = 0.0
    replies: list[Reply] = field(default_factory=list)

    def of(self, status: int) -> list[Reply]:
        """The replies with a status."""
        return [reply for reply in self.replies if reply.status == status]

    @property
    def statuses(self) -> Counter[int]:
        """The number of replies by status."""
        return Counter(reply.status for reply in self.replies)

    def quantile_ms(self, share: float, status: int = 200) -> float:
        """A quantile (0 to 1) of the milliseconds of the replies with a status; 0 if there are none."""
        seconds = sorted(reply.seconds for reply in self.of(status))
        return 1e3 * seconds[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else 0.0

    @property
    def decision_ids(self) -> set[str]:
        """The ids of the decisions that were answered."""
        return {reply.json["decision_id"] for reply in self.of(200) if b"decision_id" in reply.body}

    def figures(self) -> str:
        """The load in a sentence."""
        offered = len(self.replies) / self.seconds
        parts = [f"offered {offered:,.0f}/s: {len(self.of(200)):,} answered, {self._latency_ms(200)}"]
        for status, n in sorted(self.statuses.items()):
            if status != 200:
                name = str(status or "no answer")
                parts.append(f"{n:,} x {name}, {self._latency_ms(status)}")
        return "; ".join(parts)

    def _latency_ms(self, status: int) -> str:
        return f"p50 {self.quantile_ms(0.5, status):,.0f} and p99 {self.quantile_ms(0.99, status):,.0f} ms"


class Caller:
    """A client with persistent connections, as many as requests are under way."""

    def __init__(self, port: int, token: str, timeout_s: float = _TIMEOUT_S) -> None:
        self._port, self._token, self._timeout_s = port, token, timeout_s
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def tip(self, user: str) -> Reply:
        """Request a tip."""
        return await self.request("POST", f"/v1/users/{user}/tip")

    async def request(self, method: str, path: str, body: bytes = b"") -> Reply:
        """Send a request; the status is 0 if there is no whole response within the time-out."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                status, headers, content = await self._exchange(method, path, body)
        except (OSError, TimeoutError, EOFError):
            return Reply(0, {}, b"", time.perf_counter() - started)
        return Reply(status, headers, content, time.perf_counter() - started)

    async def close(self) -> None:
        """Close the connections."""
        for _, writer in self._idle:
            writer.close()

    async def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        reader, writer = await self._connection()
        try:
            writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            content = await reader.readexactly(int(headers.get("content-length", 0)))
        except BaseException:
            writer.transport.abort()
            raise
        if headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(first.split()[1]), headers, content

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
        return await asyncio.open_connection("127.0.0.1", self._port)


async def offer(caller: Caller, users: Sequence[str], *, rate: float, seconds: float) -> Load:
    """Request tips for `seconds` at `rate` per second, the users in turn, and wait for the last reply."""
    load, tasks, started = Load(), [], time.perf_counter()

    async def send(user: str) -> None:
        load.replies.append(await caller.tip(user))

    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(send(users[number % len(users)])))
    load.seconds = time.perf_counter() - started
    await asyncio.gather(*tasks)
    return load


async def together(caller: Caller, users: Sequence[str]) -> Load:
    """Request one tip for each user at the same time."""
    load, started = Load(), time.perf_counter()
    load.replies += await asyncio.gather(*(caller.tip(user) for user in users))
    load.seconds = time.perf_counter() - started
    return load
