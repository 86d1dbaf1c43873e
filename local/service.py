"""`python -m serving` as a child process, and a client that calls it as the product's backend does."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from local.paths import ROOT
from local.processes import NotReady, child_process, free_port, wait_until_ready

_BOOT_TIMEOUT_S = 60.0
_BOOT_POLL_S = 0.1
_STOP_TIMEOUT_S = 20.0


class ServiceError(Exception):
    """The service did not start; the message has the last line of its log, and the log's path."""


@dataclass
class Service:
    """A running service.

    token: a bearer token that it accepts.
    pid: of its process.
    variables: the environment variables with its token and its port.
    """

    url: str
    token: str
    pid: int
    log_file: Path
    _client: httpx.Client = field(repr=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rpartition(":")[2])

    def tip(self, user_id: str) -> tuple[dict[str, Any], float]:
        """A tip for a user, and the milliseconds that the request took."""
        started = time.perf_counter()
        response = self._client.post(f"/v1/users/{user_id}/tip")
        milliseconds = 1000 * (time.perf_counter() - started)
        response.raise_for_status()
        return response.json(), milliseconds

    def react(self, decision_id: str, reaction: str) -> None:
        """Send the user's reaction to a tip."""
        self._client.post(f"/v1/decisions/{decision_id}/reaction", json={"reaction": reaction}).raise_for_status()

    def counters(self) -> dict[str, float]:
        """The counters of `/metrics` by name, summed over their labels."""
        counters: dict[str, float] = {}
        for family in text_string_to_metric_families(self._client.get("/metrics").text):
            for sample in family.samples:
                if family.type == "counter" and sample.name.endswith("_total"):
                    counters[family.name] = counters.get(family.name, 0.0) + sample.value
        return counters


@contextmanager
def running_service(environment: Mapping[str, str], log_file: Path, *, preferred_port: int = 0) -> Iterator[Service]:
    """The service on a free port; stopped at the end.

    environment: variables on top of the inherited ones.
    preferred_port: taken if it is free.
    Raises ServiceError if the service does not start.
    """
    token, port = secrets.token_urlsafe(32), free_port(preferred_port)
    url = f"http://127.0.0.1:{port}"
    own_variables = {"SERVICE_TOKENS": token, "SERVING_PORT": str(port), "NO_PROXY": "127.0.0.1,localhost"}
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "DRAIN_DELAY": "0", **environment, **own_variables}
    headers = {"Authorization": f"Bearer {token}"}
    command = [sys.executable, "-m", "serving"]
    with (
        child_process(command, variables, log_file, stop_timeout_s=_STOP_TIMEOUT_S) as process,
        httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client,
    ):
        try:
            wait_until_ready(process, lambda: _is_ready(client), timeout_s=_BOOT_TIMEOUT_S, poll_s=_BOOT_POLL_S)
        except NotReady:
            lines = log_file.read_text().strip().splitlines() or ["its log is empty"]
            raise ServiceError(f"the service did not start: {lines[-1]} (its log: {log_file})") from None
        yield Service(url, token, process.pid, log_file, client, own_variables)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
