"""`python -m serving` on this machine: a process of its own, spoken to as the product's backend would."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from local.airflow import ROOT, free_port

_BOOT_SECONDS = 60.0
_STOP_SECONDS = 20.0


class ServiceError(Exception):
    """The service did not start; the message is its own, or says where its log lies."""


@dataclass
class Service:
    """A running service. token: of a caller; pid: of its process."""

    url: str
    token: str
    pid: int
    log_file: Path
    _client: httpx.Client = field(repr=False)

    def tip(self, user_id: str) -> tuple[dict[str, Any], float]:
        """A tip for a user, and the milliseconds until it was there."""
        began = time.perf_counter()
        answer = self._client.post(f"/v1/users/{user_id}/tip")
        milliseconds = 1000 * (time.perf_counter() - began)
        answer.raise_for_status()
        return answer.json(), milliseconds

    def react(self, decision_id: str, reaction: str) -> None:
        """Tell what the user made of a tip."""
        self._client.post(f"/v1/decisions/{decision_id}/reaction", json={"reaction": reaction}).raise_for_status()

    def counters(self) -> dict[str, float]:
        """The counters of `/metrics` by name, summed over their labels."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self._client.get("/metrics").text):
            for sample in family.samples:
                if family.type == "counter" and sample.name.endswith("_total"):
                    found[family.name] = found.get(family.name, 0.0) + sample.value
        return found


@contextmanager
def running(environment: Mapping[str, str], log_file: Path) -> Iterator[Service]:
    """The service with these variables on top of ours, on a free port; stopped, and gone, at the end."""
    token, port = secrets.token_urlsafe(32), free_port()
    url = f"http://127.0.0.1:{port}"
    ours = {"SERVICE_TOKENS": token, "SERVING_PORT": str(port), "NO_PROXY": "127.0.0.1,localhost"}
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment, **ours},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        authorization = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=authorization, timeout=30, trust_env=False) as client:
            _await_boot(client, process, log_file)
            yield Service(url, token, process.pid, log_file, client)
    finally:
        _stop(process)


def _await_boot(client: httpx.Client, process: subprocess.Popen[bytes], log_file: Path) -> None:
    until = time.monotonic() + _BOOT_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    lines = log_file.read_text().strip().splitlines() or ["it said nothing"]
    raise ServiceError(f"the service did not start: {lines[-1]} (its log: {log_file})")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
