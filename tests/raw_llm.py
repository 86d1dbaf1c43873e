"""A server in the place of an LLM that sends any bytes: answers without end, too large, or impossible."""

from __future__ import annotations

import json
import socketserver
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import Thread
from typing import Any

Send = Callable[[bytes], None]
Answer = Callable[[Send], None]
"""Sends the response to one request."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class _Handler(socketserver.StreamRequestHandler):
    """Reads one request, then calls the server's answer with a function that sends bytes."""

    def handle(self) -> None:
        server: Any = self.server
        length = 0
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.rfile.read(length)
        server.n_requests += 1
        with suppress(OSError):
            server.answer(self._send)

    def _send(self, data: bytes) -> None:
        server: Any = self.server
        server.n_bytes += self.connection.send(data)


class RawServer(socketserver.ThreadingTCPServer):
    """answer: sends the response to each request; n_bytes: bytes sent so far."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Answer = lambda send: None
        self.n_requests = self.n_bytes = 0

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve from a thread, and yield the URL."""
        with self:
            Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
            try:
                yield f"http://127.0.0.1:{self.server_address[1]}"
            finally:
                self.shutdown()


def forever(send: Send, data: bytes, pause_s: float = 0.0) -> None:
    while True:
        send(data)
        time.sleep(pause_s)


def whole(body: bytes | str, head: bytes = HEAD) -> Answer:
    """An answer with this body."""
    data = body if isinstance(body, bytes) else body.encode()
    response = head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(data) + data

    def answer(send: Send) -> None:
        for start in range(0, len(response), 2**16):
            send(response[start : start + 2**16])

    return answer


def completion(candidates: Any, usage: Any = None, n_calls: int = 0) -> str:
    """A response of the chat completions API. usage: as JSON. n_calls: of a tool, in place of a text."""
    answer = candidates if isinstance(candidates, str) else json.dumps({"candidates": candidates})
    function = {"name": "final_result", "arguments": answer}
    calls = [{"id": f"c{n}", "type": "function", "function": function} for n in range(n_calls)]
    message = {"role": "assistant", "content": answer} if not calls else {"role": "assistant", "tool_calls": calls}
    choice = {"index": 0, "finish_reason": "tool_calls" if calls else "stop", "message": message}
    body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
    figures = usage or '{"prompt_tokens": 900, "completion_tokens": 90, "total_tokens": 990}'
    return f'{body[:-1]}, "usage": {figures}}}'


def gigabyte(send: Send) -> None:
    send(HEAD + b"Content-Length: 1073741824\r\n\r\n")
    forever(send, b" " * 2**16)


def chunked(send: Send) -> None:
    send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    forever(send, b"10000\r\n" + b"x" * 2**16 + b"\r\n")


def endless_headers(send: Send) -> None:
    send(HEAD)
    forever(send, b"X-Header: " + b"x" * 8000 + b"\r\n")


def endless_header(send: Send) -> None:
    send(HEAD + b"X-Header: ")
    forever(send, b"x" * 2**16)


def gzip_bomb(send: Send) -> None:
    """8 MiB in 8 KiB."""
    whole(_packed(), HEAD + b"Content-Encoding: gzip\r\n")(send)


@cache
def _packed() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(b" " * (8 * 2**20)) + packer.flush()


def drips(head: bytes) -> Answer:
    def answer(send: Send) -> None:
        send(head)
        forever(send, b" ", pause_s=0.02)

    return answer
