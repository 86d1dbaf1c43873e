"""A uvicorn server in a thread that can also drop a connection, which ASGI has no message for."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol


class DisconnectingProtocol(H11Protocol):
    """Adds `disconnect` to each request's state, a function that closes the connection at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the function into the state of the connection's requests."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "disconnect": transport.abort}


@contextmanager
def running_server(app: Starlette, port: int, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve `app` and yield the base URL; the thread ends with the block.

    port: 0 for any free port.
    host: the address to listen on.
    """
    config = uvicorn.Config(
        app,
        http=DisconnectingProtocol,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        # The app sets the Date header by its own clock.
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    # The socket listens before the thread runs: an early client waits and is not refused.
    with socket.create_server((host, port)) as listener:
        # Accepted connections inherit this option; without it each response is delayed by 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound_port = listener.getsockname()[1]
        thread = Thread(target=server.run, args=([listener],), name=f"local-server-{bound_port}", daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{bound_port}"
        finally:
            server.should_exit = True
            thread.join()
