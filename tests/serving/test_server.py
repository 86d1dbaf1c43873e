"""The shutdown, with clients that do all to prevent it."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import replace

import pytest
from edge import HEAD, HEALTH, LIMITS, SLOW_TIP, TIP, Edge, in_uvloop, running_edge, until

from serving.limits import ShutdownTimes
from serving.server import allow_open_files
from serving.startup import NotReady

READY = "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENT = replace(LIMITS, headers_timeout_s=60, keep_alive_s=60, write_timeout_s=60)
STUBBORN = [
    "",
    "GET /healthz HT",
    TIP,
    f"POST /v1/decisions/1/reaction HTTP/1.1\r\n{HEAD}Content-Length: 100\r\n\r\nx",
    f"POST /v1/decisions/1/reaction HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
    TIP.replace("ann", "huge") * 3,
    SLOW_TIP,
    SLOW_TIP + TIP * 5,
    f"POST /v1/decisions/1/reaction HTTP/1.1\r\n{HEAD}Content-Length: 4\r\n\r\nslow",
]


async def seconds_until_ended(edge: Edge) -> float:
    """The seconds from the signal to the end of the server."""
    started = asyncio.get_running_loop().time()
    edge.terminate()
    await edge.serving
    return asyncio.get_running_loop().time() - started


class TestShutdown:
    @in_uvloop
    async def test_not_ready_first(self) -> None:
        """While it drains, the server accepts requests, says that it is not ready, and closes each connection."""
        async with running_edge(times=ShutdownTimes(1.0, 5.0)) as edge:
            idle = await edge.client(TIP)
            assert (await idle.reply()).status == 200
            edge.terminate()
            ready = await (await edge.client(READY)).reply()
            assert (ready.status, ready.headers["connection"]) == (503, "close")
            assert ready.problem == "this process is shutting down; send the request to another one"
            for client in (idle, await edge.client()):
                reply = await client.ask(TIP)
                assert (reply.status, reply.headers["connection"]) == (200, "close")
                assert await client.is_closed()
            assert (await (await edge.client(HEALTH)).reply()).status == 200
            await edge.serving

    @in_uvloop
    async def test_requests_under_way_are_finished(self) -> None:
        """Requests under way are answered; then the server ends without waiting for the grace period."""
        async with running_edge(times=ShutdownTimes(0.0, 10.0)) as edge:
            client = await edge.client(SLOW_TIP)
            await until(lambda: edge.work.n_slow == 1)
            edge.terminate()
            await asyncio.sleep(0.3)
            edge.work.may_finish.set()
            reply = await client.reply()
            assert (reply.status, reply.body) == (200, b'{"tip": "slow"}')
            client.leave()
            await asyncio.wait_for(edge.serving, 5)
            assert edge.work.n_cancelled == 0
            with pytest.raises(ConnectionError):
                await edge.client()

    @pytest.mark.parametrize("data", STUBBORN, ids=range(len(STUBBORN)))
    @in_uvloop
    async def test_stubborn_client(self, data: str) -> None:
        """A client that is silent, slow, half done, or does not read cannot hold up the end."""
        async with running_edge(PATIENT, times=ShutdownTimes(0.0, 3.0)) as edge:
            clients = [await asyncio.open_connection("127.0.0.1", edge.port, limit=1024) for _ in range(3)]
            for reader, writer in clients:
                writer.write(data.encode())
                reader._transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(0.2)
            assert await seconds_until_ended(edge) < 3.0
            assert edge.server.server_state.tasks == set()
            assert len(edge.table) == 0
            assert edge.was_ended == []

    @in_uvloop
    async def test_unfinished_requests_are_told(self) -> None:
        """A request that cannot be finished in the grace period is answered with 503."""
        async with running_edge(times=ShutdownTimes(0.0, 2.0)) as edge:
            client = await edge.client(SLOW_TIP)
            await until(lambda: edge.work.n_slow == 1)
            await seconds_until_ended(edge)
            assert (await client.reply()).problem.startswith("this process is shutting down")
            assert edge.responses() == {("/v1/users/{user_id}/tip", "503", "shutting_down"): 1}

    @in_uvloop
    async def test_work_behind_answers_is_finished(self) -> None:
        """Work that goes on behind answers is waited for, and the end comes as soon as it is done."""
        under_way = [1]
        async with running_edge(times=ShutdownTimes(0.0, 10.0), n_background=lambda: len(under_way)) as edge:
            edge.terminate()
            await asyncio.sleep(0.3)
            assert not edge.serving.done()
            under_way.clear()
            await asyncio.wait_for(edge.serving, 5)

    @in_uvloop
    async def test_work_behind_answers_is_given_up(self) -> None:
        """Work behind answers cannot hold up the end beyond the grace period."""
        async with running_edge(times=ShutdownTimes(0.0, 3.0), n_background=lambda: 1) as edge:
            assert await seconds_until_ended(edge) < 3.0

    @in_uvloop
    async def test_second_signal(self) -> None:
        """A second signal skips the waiting."""
        async with running_edge(times=ShutdownTimes(5.0, 10.0)) as edge:
            await edge.client(SLOW_TIP)
            edge.terminate()
            assert await seconds_until_ended(edge) < 4.0

    @in_uvloop
    async def test_first_signal_after_stop(self) -> None:
        """The first signal to a process that its group has told to stop does not skip the waiting."""
        async with running_edge(times=ShutdownTimes(0.0, 10.0)) as edge:
            slow = await edge.client(SLOW_TIP)
            await until(lambda: edge.server.server_state.tasks, 2.0)
            edge.server.stop()
            edge.terminate()
            await asyncio.sleep(0.3)
            edge.work.may_finish.set()
            assert (await slow.reply()).status == 200
            await edge.serving

    @in_uvloop
    async def test_last_resort(self) -> None:
        """If something else holds up the end, the process is ended before the grace period is over."""
        async with running_edge(times=ShutdownTimes(0.0, 0.8)) as edge:
            edge.terminate()
            await until(lambda: edge.was_ended == [True], 2.0)


class TestOpenFiles:
    def test_raised(self) -> None:
        """The limit of open files is raised as far as the connections need it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
            allow_open_files(500)
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 500
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_forbidden(self) -> None:
        """If the system does not allow as many, the setting is named with the remedy."""
        with pytest.raises(NotReady, match=r"MAX_CONNECTIONS: .* open files are needed, .* or lower MAX_CONNECTIONS"):
            allow_open_files(2**40)
