"""An S3 server on this machine, as a process of its own; it keeps its objects until it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import fsspec
import httpx

from local.fleet import Fleet, Program
from local.processes import free_port, wait_until_ready

_NAME = "s3"
_BUCKET = "contexts"
_BOOT_TIMEOUT_S = 60.0
_BOOT_POLL_S = 0.1


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 server with one bucket."""

    url: str

    @property
    def root(self) -> str:
        """The URL of the bucket, for DATA_ROOT."""
        return f"s3://{_BUCKET}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which clients find the server; it accepts every key."""
        return {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }

    @property
    def file_system(self) -> fsspec.AbstractFileSystem:
        """A client that does not depend on this process's variables."""
        return fsspec.filesystem("s3", key="local", secret="local", endpoint_url=self.url, use_listings_cache=False)


def start_object_store(fleet: Fleet, folder: Path) -> ObjectStore:
    """Start a server with its temporary files in `folder`, and make the bucket; raises NotReady."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    store = ObjectStore(f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "TMPDIR": str(folder), "MOTO_PORT": str(port)}
    process = fleet.start(_NAME, Program(command, environment, folder))
    with httpx.Client(base_url=store.url, trust_env=False) as client:
        wait_until_ready(process, lambda: _answers(client), timeout_s=_BOOT_TIMEOUT_S, poll_s=_BOOT_POLL_S)
    store.file_system.mkdir(_BUCKET)
    return store


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/moto-api/").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
