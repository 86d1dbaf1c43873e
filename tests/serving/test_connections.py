"""Bounds of connections, attacked with raw sockets."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace

import pytest
from edge import HEAD, HEALTH, LIMITS, SLOW_TIP, TIP, in_uvloop, running_edge, until


class TestHeaders:
    @in_uvloop
    async def test_too_large(self) -> None:
        """Headers beyond the limit are refused with 431 while they are sent, and the connection is closed."""
        async with running_edge() as edge:
            client = await edge.client("GET /healthz HTTP/1.1\r\nX: " + 5000 * "x")
            reply = await client.reply()
            assert (reply.status, reply.problem) == (
                431,
                "the request line and the headers are larger than MAX_HEADER_BYTES",
            )
            assert await client.is_closed()
            assert edge.responses() == {("none", "431", "headers_too_large"): 1}

    @pytest.mark.parametrize("n", [4096, 4097])
    @in_uvloop
    async def test_exact_limit(self, n: int) -> None:
        """Headers of as many bytes as the limit allows are accepted, and one byte more is not."""
        begin, end = "GET /healthz HTTP/1.1\r\nHost: x\r\nX: ", "\r\n\r\n"
        async with running_edge() as edge:
            request = begin + "x" * (n - len(begin) - len(end)) + end
            assert len(request) == n
            assert (await (await edge.client(request)).reply()).status == (200 if n == 4096 else 431)

    @pytest.mark.parametrize(
        "endless", ["\r\n" * 5000, "GET /" + 5000 * "x", "GET /healthz HTTP/1.1\r\n" + 900 * "a: b\r\n"]
    )
    @in_uvloop
    async def test_endless(self, endless: str) -> None:
        """Blank lines, a request line and a number of headers without an end are cut off at the limit."""
        async with running_edge() as edge:
            client = await edge.client(endless)
            assert (await client.reply()).status == 431
            assert await client.is_closed()

    @in_uvloop
    async def test_slow(self) -> None:
        """Headers that are not complete in time are answered with 408, however steadily bytes arrive."""
        async with running_edge() as edge:
            client = await edge.client("GET /healthz HTTP/1.1\r\n")
            for _ in range(8):
                await client.send("X")
                await asyncio.sleep(0.1)
            assert (await client.reply()).status == 408
            assert await client.is_closed()
            assert edge.responses() == {("none", "408", "headers_too_slow"): 1}

    @in_uvloop
    async def test_slow_after_a_request(self) -> None:
        """The time for the headers also holds for a later request of a connection."""
        async with running_edge() as edge:
            client = await edge.client(TIP)
            assert (await client.reply()).status == 200
            await client.send("POST /v1/")
            assert (await client.reply()).status == 408

    @in_uvloop
    async def test_silent(self) -> None:
        """A connection that sends nothing is closed after the time for the headers."""
        async with running_edge() as edge:
            assert await (await edge.client()).is_closed()
            assert edge.responses() == {}

    @pytest.mark.parametrize("garbage", ["\x16\x03\x01\x02", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
    @in_uvloop
    async def test_malformed(self, garbage: str) -> None:
        """Anything that is not HTTP/1.1 is refused with a problem, and the connection is closed."""
        async with running_edge() as edge:
            client = await edge.client(garbage)
            assert (await client.reply()).problem == "this is not a valid HTTP/1.1 request"
            assert await client.is_closed()

    @in_uvloop
    async def test_upgrade(self) -> None:
        """A request to change to another protocol is answered as HTTP/1.1, and what follows is ignored."""
        async with running_edge() as edge:
            upgrade = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            client = await edge.client(upgrade + HEALTH)
            assert (await client.reply()).status == 200
            assert await client.is_closed()


class TestIdle:
    @in_uvloop
    async def test_closed(self) -> None:
        """A connection that is idle between requests is closed, later than one that never sent a request."""
        async with running_edge() as edge:
            client, started = await edge.client(TIP), asyncio.get_running_loop().time()
            assert (await client.reply()).status == 200
            assert await client.is_closed()
            assert asyncio.get_running_loop().time() - started >= LIMITS.keep_alive_s
            assert edge.refusals() == {}

    @in_uvloop
    async def test_used_again(self) -> None:
        """A connection serves any number of requests."""
        async with running_edge() as edge:
            client = await edge.client()
            assert [(await client.ask(TIP)).status for _ in range(50)] == [200] * 50


class TestResponses:
    @in_uvloop
    async def test_without_a_body(self) -> None:
        """A response without a body is sent at once, and the next request of the connection is answered."""
        async with running_edge() as edge:
            client = await edge.client(HEALTH.replace("GET", "HEAD"))
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert (await client.ask(TIP)).status == 200

    @in_uvloop
    async def test_in_parts(self) -> None:
        """A response in parts is sent part by part."""
        async with running_edge() as edge:
            client = await edge.client("GET /parts HTTP/1.1\r\n" + HEAD + "\r\n")
            assert (await client.reader.readuntil(b"part\r\n")).endswith(b"\r\n\r\n4\r\npart\r\n")
            edge.work.may_finish.set()
            assert (await client.reader.readuntil(b"0\r\n\r\n")).startswith(b"9\r\nHTTP/1.1 \r\n")

    @in_uvloop
    async def test_continue(self) -> None:
        """A client with a token that asks whether it may send its body is invited at once."""
        async with running_edge() as edge:
            more = "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
            client = await edge.client(f"POST /v1/decisions/1/reaction HTTP/1.1\r\n{HEAD}{more}")
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert (await client.ask("body")).status == 200
            assert edge.work.bodies == [b"body"]


class TestPlaces:
    @in_uvloop
    async def test_strangers_keep_out_nobody(self) -> None:
        """If all places are taken, the connection that waited longest without a token makes room for a new one."""
        async with running_edge(replace(LIMITS, max_connections=5, headers_timeout_s=60)) as edge:
            caller = await edge.client(TIP)
            assert (await caller.reply()).status == 200
            strangers = [await edge.client("GET /") for _ in range(8)]
            await until(lambda: edge.refusals()[("evicted",)] == 4)
            assert [await each.is_closed(0.2) for each in strangers] == [True] * 4 + [False] * 4
            assert (await caller.ask(TIP)).status == 200
            assert (await (await edge.client(TIP)).reply()).status == 200
            assert edge.counts("connections_open") == {(): 5}

    @in_uvloop
    async def test_callers_fill_all_places(self) -> None:
        """If callers with a token have all places, a new connection is closed, and they stay."""
        async with running_edge(replace(LIMITS, max_connections=3)) as edge:
            callers = [await edge.client(TIP) for _ in range(3)]
            assert [(await each.reply()).status for each in callers] == [200] * 3
            assert await (await edge.client(TIP)).is_closed(1.0)
            assert [(await each.ask(TIP)).status for each in callers] == [200] * 3
            assert edge.refusals() == {("too_many_connections",): 1}

    @in_uvloop
    async def test_a_request_under_way_keeps_its_place(self) -> None:
        """A connection whose first request is being answered does not make room."""
        async with running_edge(replace(LIMITS, max_connections=1)) as edge:
            caller = await edge.client(SLOW_TIP)
            await until(lambda: edge.work.n_slow == 1)
            assert await (await edge.client(TIP)).is_closed(1.0)
            edge.work.may_finish.set()
            assert (await caller.reply()).status == 200


class TestPipeline:
    @in_uvloop
    async def test_in_order(self) -> None:
        """Requests that are sent ahead are answered in order, one after the other."""
        async with running_edge() as edge:
            client = await edge.client("".join(TIP.replace("ann", f"user-{number}") for number in range(10)))
            bodies = [(await client.reply()).body for _ in range(10)]
            assert bodies == [b'{"tip": "user-%d"}' % number for number in range(10)]

    @in_uvloop
    async def test_refusals_do_not_pile_up(self) -> None:
        """Of 20,000 requests without a token that are sent ahead the first is refused, the others are dropped."""
        async with running_edge() as edge:
            client = await edge.client()
            flood = TIP.replace("Bearer", "Basic").encode() * 20_000
            client.writer.write(flood)
            assert (await client.reply()).status == 401
            assert await client.is_closed()
            assert edge.responses() == {("/v1/users/{user_id}/tip", "401", "unauthorized"): 1}

    @in_uvloop
    async def test_too_many(self) -> None:
        """Behind a request under way a few may wait; the others are dropped with the connection."""
        async with running_edge() as edge:
            client = await edge.client(SLOW_TIP + TIP * 10_000)
            await until(lambda: edge.refusals()[("too_many_pipelined",)] == 1)
            edge.work.may_finish.set()
            assert [(await client.reply()).status for _ in range(18)] == [200] * 17 + [0]

    @in_uvloop
    async def test_too_large(self) -> None:
        """The requests that wait may together have about as many bytes as one body."""
        async with running_edge() as edge:
            client = await edge.client(SLOW_TIP + TIP.replace("\r\n\r\n", "\r\nX: " + 2000 * "x" + "\r\n\r\n") * 10)
            await until(lambda: edge.refusals()[("too_many_pipelined",)] == 1)
            edge.work.may_finish.set()
            statuses = [(await client.reply()).status for _ in range(11)]
            assert statuses[-1] == 0
            assert 3 <= statuses.count(200) <= 8

    @in_uvloop
    async def test_malformed_behind_a_request(self) -> None:
        """Malformed input behind a request does not come between the request and its response."""
        async with running_edge() as edge:
            client = await edge.client(SLOW_TIP + "nonsense\r\n\r\n")
            await until(lambda: edge.refusals()[("malformed",)] == 1)
            edge.work.may_finish.set()
            assert (await client.reply()).body == b'{"tip": "slow"}'
            assert await client.is_closed()


class TestReading:
    @in_uvloop
    async def test_client_that_does_not_read(self) -> None:
        """A client that does not read its responses is cut off, and its tip is reported as undelivered."""
        async with running_edge() as edge:
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, limit=1024)
            writer.write(TIP.replace("ann", "huge").encode() * 5)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await until(lambda: edge.refusals()[("not_reading",)] == 1)
            await until(lambda: len(edge.work.undelivered) == 1)
            await until(lambda: not edge.server.server_state.tasks)
            writer.close()

    @in_uvloop
    async def test_slow_reader(self) -> None:
        """A client that reads slowly, but goes on reading, gets its whole response."""
        async with running_edge() as edge:
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, limit=200_000)
            writer.write(TIP.replace("ann", "huge").encode())
            n_bytes = 0
            while n_bytes < 4_000_000:
                n_bytes += len(await reader.read(100_000))
                await asyncio.sleep(0.02)
            assert edge.refusals() == {}
            writer.close()


class TestLeaving:
    @in_uvloop
    async def test_cancelled(self) -> None:
        """The request of a client that left is cancelled at once, and counted without a response."""
        async with running_edge() as edge:
            client = await edge.client(SLOW_TIP)
            await until(lambda: edge.work.n_slow == 1)
            client.leave()
            await until(lambda: edge.work.n_cancelled == 1)
            await until(lambda: edge.responses() == {("/v1/users/{user_id}/tip", "499", "client_left"): 1})
            assert edge.counts("requests_under_way") == {(): 0}

    @in_uvloop
    async def test_pipelined(self) -> None:
        """The requests that a client sent ahead before it left are dropped."""
        async with running_edge() as edge:
            client = await edge.client(SLOW_TIP + TIP * 5)
            await until(lambda: edge.work.n_slow == 1)
            client.leave()
            await until(lambda: edge.work.n_cancelled == 1)
            assert sum(edge.responses().values()) == 1

    @in_uvloop
    async def test_error_without_a_client(self, caplog: pytest.LogCaptureFixture) -> None:
        """The message of a reaction's error, which may be private, is not logged if the client has left."""
        request = f"POST /v1/decisions/1/reaction HTTP/1.1\r\n{HEAD}Content-Length: 6\r\n\r\nbroken"
        async with running_edge() as edge:
            client = await edge.client(request)
            await until(lambda: edge.work.n_slow == 1)
            client.leave()
            await until(lambda: len(edge.table) == 0)
            edge.work.may_finish.set()
            await until(lambda: edge.counts("requests_under_way") == {(): 0})
        gc.collect()  # asyncio logs an error that nobody read when its task is collected
        assert "private text" not in caplog.text

    @in_uvloop
    async def test_reaction_is_finished(self) -> None:
        """A reaction that arrived is stored even if its client does not wait for the response."""
        request = f"POST /v1/decisions/1/reaction HTTP/1.1\r\n{HEAD}Content-Length: 4\r\n\r\nslow"
        async with running_edge() as edge:
            client = await edge.client(request)
            await until(lambda: edge.work.n_slow == 1)
            client.leave()
            await until(lambda: len(edge.table) == 0)
            edge.work.may_finish.set()
            await until(lambda: edge.work.bodies == [b"slow"])
            assert edge.work.n_cancelled == 0
