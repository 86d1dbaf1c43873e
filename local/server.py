"""A server in a thread that can also break a connection off, for which ASGI has no word."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol


class BreakableProtocol(H11Protocol):
    """Puts `break_off` into each request's state: it closes the connection at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "break_off": transport.abort}


@contextmanager
def serving(app: Starlette, port: int, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve `app` and yield the base URL; the thread has ended afterwards. host: the address to listen on."""
    config = uvicorn.Config(
        app,
        http=BreakableProtocol,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        # The app dates its answers by its own clock.
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    # Listening before the thread runs: a client that comes early waits, and is not turned away.
    with socket.create_server((host, port)) as listener:
        # Accepted connections inherit this; without it each answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound = listener.getsockname()[1]
        thread = Thread(target=server.run, args=([listener],), name=f"local-server-{bound}", daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{bound}"
        finally:
            server.should_exit = True
            thread.join()
