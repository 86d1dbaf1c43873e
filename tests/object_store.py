"""An S3 server on loopback, whose faults tests choose."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

import fsspec
import pytest
import s3fs
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

_bucket_numbers = itertools.count()  # the buckets of all servers of a process are in one place


class ObjectStore:
    """The server: moto, with faults in front of it.

    before: called before every request with its WSGI environment. requests: the verb and the key of every request;
    the key of a listing is its prefix.
    """

    def __init__(self) -> None:
        self.bucket = f"tips-{next(_bucket_numbers)}"
        self.root = f"s3://{self.bucket}"
        self._moto: Any = DomainDispatcherApplication(create_backend_app)
        self._fault: tuple[int, str] | None = None
        self.before: Callable[[dict[str, Any]], None] = lambda _: None
        self.requests: list[tuple[str, str]] = []
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.requests.append(_described(environ))
        self.before(environ)
        if self._fault is None:
            answer: Iterable[bytes] = self._moto(environ, start_response)
            return answer
        status, code = self._fault
        body = f"<Error><Code>{code}</Code><Message>{code} of the test</Message></Error>".encode()
        start_response(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def fail(self, status: int | None, code: str = "") -> None:
        """Answer every request with an error from now on, or none."""
        self._fault = None if status is None else (status, code)

    def put(self, key: str, content: bytes) -> None:
        """Replace an object as another machine would, without a cache."""
        other = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
        other.pipe_file(f"{self.bucket}/{key}", content)

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def _described(environ: dict[str, Any]) -> tuple[str, str]:
    query = parse_qs(environ["QUERY_STRING"])
    if "list-type" in query:
        return "LIST", query.get("prefix", [""])[0]
    return environ["REQUEST_METHOD"], environ["PATH_INFO"].split("/", 2)[-1]


@contextmanager
def running_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """Run an S3 server with an empty bucket, and let `s3://` URLs lead to it; clients do not retry for long."""
    store = ObjectStore()
    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**access, "AWS_ENDPOINT_URL": store.url, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    fsspec.filesystem("s3").mkdir(store.bucket)
    yield store
    s3fs.S3FileSystem.clear_instance_cache()
    store.stop()
