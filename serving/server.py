"""The HTTP server: uvicorn with bounded connections, and an end within the grace period whatever clients do."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn

from serving.connections import BoundedProtocol, ConnectionTable
from serving.gate import Gate
from serving.limits import ShutdownTimes
from serving.startup import NotReady, port_not_usable

log = logging.getLogger(__name__)

_EXPIRY_TICKS = 3
"""Uvicorn's ticks, of 0.1 s each, between two checks of the connections' deadlines."""

CLEANUP_S = 1.5
"""The end of the grace period, reserved for closing the connections to Postgres."""

LAST_RESORT_S = 0.3
"""Time before the end of the grace period at which a process that is still alive is ended."""

_OTHER_FILES = 64
"""Open files beside connections: sockets to Todoist, the LLM and Postgres, listeners, the log."""


def _end_process() -> None:
    """End a process in which something does not let go, such as a database that does not answer."""
    log.error("the grace period is over; the process ends with connections open")
    sys.stderr.flush()
    os._exit(0)


class Server(uvicorn.Server):
    """Uvicorn's server with a shutdown in three steps: drain, finish the requests under way, break off the rest."""

    def __init__(
        self,
        gate: Gate,
        table: ConnectionTable,
        times: ShutdownTimes,
        *,
        host: str,
        port: int,
        n_background: Callable[[], int] = lambda: 0,
        on_listening: Callable[[], object] = lambda: None,
        end_process: Callable[[], object] = _end_process,
    ) -> None:
        """n_background: the number of pieces of work behind answers; a shutdown lets them finish, too.

        on_listening: called when connections are accepted.
        end_process: called in a thread shortly before the grace period ends, if the process is still alive.
        """
        config = uvicorn.Config(
            gate,
            host=host,
            port=port,
            http=partial(BoundedProtocol, table=table),  # type: ignore[arg-type]
            ws="none",
            access_log=False,
            log_config=None,
            lifespan="off",
            proxy_headers=False,
            server_header=False,
        )
        super().__init__(config)
        self.servers: list[asyncio.base_events.Server] = []
        self._table = table
        self._times = times
        self._n_background = n_background
        self._on_listening = on_listening
        self._drain = gate.drain
        self._flush_log = gate.access_log.flush
        self._signalled_at: float | None = None
        self._n_signals = 0
        self.last_resort = threading.Timer(max(0.1, times.grace_period_s - LAST_RESORT_S), end_process)
        self.last_resort.daemon = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals, and do not raise them again at the end: an orderly shutdown has the exit status 0."""
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown; a second signal skips the waiting.

        A first signal after `stop` does not: Ctrl-C in a terminal reaches a process and its group at the same time.
        """
        self._n_signals += 1
        if self._n_signals > 1:
            self.force_exit = True
        else:
            self.stop()

    def stop(self) -> None:
        """Begin the shutdown, unless it has begun."""
        if self._signalled_at is None:
            self._begin_shutdown(is_replaced=False)

    def force(self) -> None:
        """End the waiting of a shutdown."""
        self.force_exit = True

    def retire(self) -> None:
        """Begin the shutdown, and leave new connections to the other processes that listen on the same socket."""
        if self._signalled_at is None:
            self._begin_shutdown(is_replaced=True)
            for server in self.servers:
                server.close()

    def _begin_shutdown(self, *, is_replaced: bool) -> None:
        self._signalled_at = time.monotonic()
        self.last_resort.start()
        self._drain(is_replaced=is_replaced)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._on_listening()

    async def on_tick(self, counter: int) -> bool:
        """Check deadlines; True when the drain is over."""
        if counter % _EXPIRY_TICKS == 0:
            self._table.expire(asyncio.get_running_loop().time())
        self._flush_log()
        await super().on_tick(counter)
        return self._signalled_at is not None and self._is_over(self._times.drain_delay_s)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, let requests and work behind answers finish in time, and cancel the rest."""
        log.info("shutting down: %d connections are open", len(self._table))
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._until_idle(self._times.grace_period_s - CLEANUP_S)
        if tasks := list(self.server_state.tasks):
            log.warning("%d requests are not finished after the grace period and are cancelled", len(tasks))
            self._table.cancel_all()
            await asyncio.wait(tasks, timeout=LAST_RESORT_S)
        self._table.cut_all()
        self._flush_log()

    async def _until_idle(self, limit_s: float) -> None:
        """Wait for the last connection and the work behind answers; `limit_s` counts from the signal."""
        while (len(self._table) or self.server_state.tasks or self._n_background()) and not self._is_over(limit_s):
            self._table.expire(asyncio.get_running_loop().time())
            await asyncio.sleep(0.05)

    def _is_over(self, seconds: float) -> bool:
        return self.force_exit or time.monotonic() - (self._signalled_at or 0.0) >= seconds


async def check_port(host: str, port: int) -> None:
    """Raise NotReady if no server can listen on a port now; uvicorn itself would only log it."""
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    except OSError as error:
        raise port_not_usable(host, port, error) from None
    server.close()


def allow_open_files(n: int) -> None:
    """Raise this process's limit of open files to `n` and some more, if it is lower; raises NotReady if it cannot."""
    wanted = n + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise NotReady(
            f"MAX_CONNECTIONS: {wanted} open files are needed, and this process may have {hard}. Raise that limit"
            " (ulimit -Hn, or LimitNOFILE of systemd), or lower MAX_CONNECTIONS"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
