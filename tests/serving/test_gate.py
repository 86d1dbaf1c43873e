"""The gate: token, overload, bodies, counting and the access log."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import pytest
from edge import GATE_LIMITS, HEAD, HEALTH, SLOW_TIP, TIP, Edge, RawClient, in_uvloop, running_edge, until

REACTION = f"POST /v1/decisions/1/reaction HTTP/1.1\r\n{HEAD}"
ROUTE = "/v1/decisions/{decision_id}/reaction"


async def busy(edge: Edge, n: int) -> list[RawClient]:
    """Clients whose requests are under way."""
    clients = [await edge.client(SLOW_TIP) for _ in range(n)]
    await until(lambda: edge.work.n_slow == n)
    return clients


class TestToken:
    @pytest.mark.parametrize("body", ["Content-Length: 10000000000", "Transfer-Encoding: chunked"])
    @pytest.mark.parametrize("path", ["/v1/users/ann/tip", "/v1/decisions/1/reaction", "/nowhere", "/healthz/"])
    @in_uvloop
    async def test_before_the_body(self, path: str, body: str) -> None:
        """A request without a token is refused before its body is sent, whatever its address; the connection ends."""
        async with running_edge() as edge:
            client = await edge.client(f"POST {path} HTTP/1.1\r\nHost: x\r\n{body}\r\n\r\n")
            reply = await client.reply()
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert reply.headers["connection"] == "close"
            assert await client.is_closed()

    @in_uvloop
    async def test_refusal_arrives(self) -> None:
        """A client that sends a large body without a token, and reads only then, gets the refusal."""
        async with running_edge() as edge:
            head = "POST /v1/decisions/1/reaction HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"
            client = await edge.client(head)
            await client.send(b"x" * 3_000_000)
            assert (await client.reply()).status == 401
            assert edge.work.bodies == []

    @in_uvloop
    async def test_no_continue(self) -> None:
        """A client that asks whether it may send its body is refused without an invitation."""
        async with running_edge() as edge:
            more = "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
            head = f"POST /v1/decisions/1/reaction HTTP/1.1\r\nHost: x\r\n{more}"
            assert (await (await edge.client(head)).reply()).status == 401

    @in_uvloop
    async def test_before_overload(self) -> None:
        """Under overload, too, a request without a token is refused for its token and takes no place."""
        async with running_edge() as edge:
            await busy(edge, 3)
            assert (await (await edge.client(TIP.replace("Bearer", "Basic"))).reply()).status == 401

    @in_uvloop
    async def test_in_a_trailer(self) -> None:
        """A token after the body is none, and one before it is not replaced by what follows the body."""
        async with running_edge() as edge:
            start, good = "POST /v1/decisions/1/reaction HTTP/1.1\r\nHost: x\r\n", HEAD.partition("\r\n")[2]
            chunks = "Transfer-Encoding: chunked\r\n\r\n0\r\n"
            late = await edge.client(f"{start}{chunks}{good}\r\n")
            assert (await late.reply()).status == 401
            early = await edge.client(f"{start}{good}{chunks}Authorization: Bearer x\r\n\r\n")
            assert (await early.reply()).status != 401

    @in_uvloop
    async def test_two_headers(self) -> None:
        """Two Authorization headers are refused: a proxy may have checked the other one."""
        async with running_edge() as edge:
            client = await edge.client(TIP.replace("Host: x", "Host: x\r\nAuthorization: Bearer x"))
            assert (await client.reply()).status == 401


class TestOverload:
    @in_uvloop
    async def test_refused_at_once(self) -> None:
        """Beyond MAX_REQUESTS a request is answered 503 with Retry-After at once; the connection stays open."""
        async with running_edge() as edge:
            clients = await busy(edge, 3)
            late = await edge.client(TIP)
            reply = await late.reply()
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert reply.problem == "MAX_REQUESTS=3 requests are under way; try again in a second"
            assert "connection" not in reply.headers
            assert edge.counts("requests_under_way") == {(): 3}
            edge.work.may_finish.set()
            assert [(await each.reply()).status for each in clients] == [200] * 3
            assert (await late.ask(TIP)).status == 200
            assert edge.responses()[("/v1/users/{user_id}/tip", "503", "overloaded")] == 1

    @in_uvloop
    async def test_health_is_exempt(self) -> None:
        """Health is answered under overload."""
        async with running_edge() as edge:
            await busy(edge, 3)
            assert (await (await edge.client(HEALTH)).reply()).status == 200

    @in_uvloop
    async def test_clients_that_left_make_room(self) -> None:
        """The place of a request whose client left is free at once."""
        async with running_edge() as edge:
            for client in await busy(edge, 3):
                client.leave()
            await until(lambda: edge.work.n_cancelled == 3)
            assert (await (await edge.client(TIP)).reply()).status == 200


class TestBody:
    @in_uvloop
    async def test_announced(self) -> None:
        """A body that is announced as too large is refused before it is sent."""
        async with running_edge() as edge:
            client = await edge.client(f"{REACTION}Content-Length: 8193\r\n\r\n")
            reply = await client.reply()
            assert (reply.status, reply.problem) == (413, "the body is larger than MAX_BODY_BYTES=8192")
            assert await client.is_closed()

    @pytest.mark.parametrize(("n", "status"), [(8192, 200), (8193, 413)])
    @in_uvloop
    async def test_chunked(self, n: int, status: int) -> None:
        """A body in chunks is read up to the limit, and refused beyond it."""
        async with running_edge() as edge:
            client = await edge.client(f"{REACTION}Transfer-Encoding: chunked\r\n\r\n")
            for size in (4096, n - 4096):
                await client.send(b"%x\r\n%b\r\n" % (size, b"x" * size))
            await client.send("0\r\n\r\n")
            assert (await client.reply()).status == status
            assert edge.work.bodies == ([b"x" * n] if status == 200 else [])

    @in_uvloop
    async def test_endless_framing(self) -> None:
        """A body with almost nothing but framing is parsed only up to a bound."""
        async with running_edge() as edge:
            client = await edge.client(f"{REACTION}Transfer-Encoding: chunked\r\n\r\n")
            client.writer.write(b"1;" + b"x" * 3000 + b"\r\nx\r\n")
            for _ in range(200):
                client.writer.write(b"1;" + b"x" * 3000 + b"\r\nx\r\n")
            assert (await client.reply()).status == 408
            assert edge.work.bodies == []

    @in_uvloop
    async def test_slow(self) -> None:
        """A body that is not complete in time is answered with 408, and its place is free."""
        async with running_edge() as edge:
            client = await edge.client(f"{REACTION}Content-Length: 100\r\n\r\n")
            await client.send("x")
            assert (await client.reply()).status == 408
            assert await client.is_closed()
            assert edge.responses() == {(ROUTE, "408", "body_too_slow"): 1}
            assert edge.counts("requests_under_way") == {(): 0}

    @in_uvloop
    async def test_body_of_a_tip(self) -> None:
        """A tip takes no body; one that is sent is skipped, and the connection goes on."""
        async with running_edge() as edge:
            request = f"POST /v1/users/ann/tip HTTP/1.1\r\n{HEAD}Content-Length: 2\r\n\r\n{{}}"
            client = await edge.client()
            assert [(await client.ask(request)).status for _ in range(3)] == [200] * 3

    @in_uvloop
    async def test_public_address(self) -> None:
        """An address that needs no token takes no body."""
        async with running_edge() as edge:
            client = await edge.client("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
            assert (await client.reply()).problem == "this address takes no body"
            assert await client.is_closed()


class TestCounting:
    @in_uvloop
    async def test_by_route(self, caplog: pytest.LogCaptureFixture) -> None:
        """Responses are counted by the route's template, status and reason, never by the path."""
        async with running_edge() as edge:
            client = await edge.client()
            await client.ask(TIP)
            await client.ask(HEALTH)
            await client.ask(f"POST /v1/users/secret/nowhere HTTP/1.1\r\n{HEAD}\r\n")
            assert edge.responses() == {
                ("/v1/users/{user_id}/tip", "200", "ok"): 1,
                ("/healthz", "200", "ok"): 1,
                ("unknown", "404", "ok"): 1,
            }

    @in_uvloop
    async def test_access_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """There is one line for each request, with the id of the response and without path, user and token."""
        caplog.set_level(logging.INFO, "serving.access_log")
        async with running_edge() as edge:
            client = await edge.client()
            mine = TIP.replace("Host: x", "Host: x\r\nX-Request-Id: mine")
            replies = [await client.ask(mine), await client.ask(TIP.replace("Bearer", "Basic"))]
        records = [record.getMessage() for record in caplog.records if record.name == "serving.access_log"]
        lines = "\n".join(records).splitlines()
        [first, second] = [
            re.sub(r" ms=[0-9.]+", " ms=N", re.sub(r"^time=[-0-9T:]{19}\.[0-9]{3}Z id=[0-9a-f]{16} ", "id=ID ", line))
            for line in lines
        ]
        route = "method=POST route=/v1/users/{user_id}/tip"
        assert first == f"id=ID {route} status=200 reason=ok ms=N bytes=14 client=127.0.0.1"
        assert second.startswith(f"id=ID {route} status=401 reason=unauthorized ms=N ")
        for reply, line in zip(replies, lines, strict=True):
            assert f" id={reply.headers['x-request-id']} " in line
        assert not [line for line in lines if "ann" in line or "mine" in line or "token" in line]

    @in_uvloop
    async def test_error_of_a_route(self) -> None:
        """An unexpected error is answered with a problem, counted, and does not end the connection."""
        async with running_edge(gate_limits=replace(GATE_LIMITS, max_requests=100)) as edge:

            async def fail(_: str) -> tuple[bytes, object]:
                raise KeyError

            edge.gate._app._answer = fail  # type: ignore[attr-defined]
            client = await edge.client()
            assert (await client.ask(TIP)).problem == "missing"
            assert (await client.ask(HEALTH)).status == 200
            assert edge.responses()[("/v1/users/{user_id}/tip", "404", "not_found")] == 1
