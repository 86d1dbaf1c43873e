"""An S3 server in a process of its own that counts requests and delays each: moto behind a counter."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from benchmarks.subprocesses import ModuleProcess, module_process


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        """Log nothing: thousands of lines would cost more than the requests."""


class _CountingServer:
    """Counts requests by verb; a listing counts as LIST."""

    def __init__(self) -> None:
        self._moto: Any = DomainDispatcherApplication(create_backend_app)
        self.delay_s = 0.0
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def take_counts(self) -> dict[str, int]:
        """The requests since the last call, by verb."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(counts)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        is_list = "list-type" in parse_qs(environ["QUERY_STRING"])
        with self._lock:
            self._counts["LIST" if is_list else environ["REQUEST_METHOD"]] += 1
        time.sleep(self.delay_s)
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return answer


class S3Process:
    """The running server."""

    def __init__(self, process: ModuleProcess) -> None:
        self._process = process
        self.url = process.read_line()

    def take_counts(self) -> dict[str, int]:
        """The requests since the last call, by verb."""
        return self.set_delay(0.0)

    def set_delay(self, delay_s: float) -> dict[str, int]:
        """Set the seconds before each answer, and return the requests since the last call, by verb."""
        self._process.write_line(str(delay_s))
        counts: dict[str, int] = json.loads(self._process.read_line())
        return counts


@contextmanager
def s3_process() -> Iterator[S3Process]:
    """Run the server until the block ends; it answers at once."""
    with module_process("benchmarks.s3_server") as process:
        yield S3Process(process)


def _main() -> None:
    server = _CountingServer()
    http = make_server("127.0.0.1", 0, server, threaded=True, request_handler=_QuietHandler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{http.server_port}", flush=True)
    for line in sys.stdin:
        server.delay_s = float(line)
        print(json.dumps(server.take_counts()), flush=True)


if __name__ == "__main__":
    _main()
