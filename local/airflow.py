"""A whole Airflow on this machine: `airflow standalone`, spoken to over its REST API."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
Say = Callable[[str], None]

_BOOT_SECONDS = 300
_STOP_SECONDS = 60
_QUIET_SECONDS = 5.0
_RUN_SECONDS = 3600


class AirflowError(Exception):
    """Airflow did not start, or a run did not end; the message says where its log lies."""


@dataclass(frozen=True)
class Run:
    """One DAG run as it ended."""

    dag_id: str
    run_id: str
    state: str
    seconds: float


@dataclass
class Airflow:
    """A running Airflow. pid: of the process that started it, which leads a process group of its own."""

    url: str
    dag_ids: tuple[str, ...]
    log_file: Path
    pid: int
    _client: httpx.Client = field(repr=False)

    def trigger(self, dag_id: str) -> None:
        """Start a run now."""
        self.request("POST", f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": {}})

    def runs_since(self, instant: datetime) -> list[dict[str, Any]]:
        """The pipeline's runs that were queued at or after an instant."""
        newest = {"limit": 100, "order_by": "-run_after"}
        return [
            run
            for dag_id in self.dag_ids
            for run in self.request("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=newest)["dag_runs"]
            if datetime.fromisoformat(run["queued_at"] or run["run_after"]) >= instant
        ]

    def events_since(self, instant: datetime) -> list[dict[str, Any]]:
        """The asset events since an instant."""
        asked = {"limit": 100, "timestamp_gte": instant.isoformat()}
        events: list[dict[str, Any]] = self.request("GET", "/api/v2/assets/events", params=asked)["asset_events"]
        return events

    def tasks_of(self, run: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The task instances of a run."""
        path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances"
        tasks: list[dict[str, Any]] = self.request("GET", path, params={"limit": 1000})["task_instances"]
        return tasks

    def wait(self, since: datetime, say: Say) -> list[Run]:
        """Follow all runs that started since an instant until none was under way for some seconds."""
        told: dict[str, str] = {}
        until, quiet_since = time.monotonic() + _RUN_SECONDS, time.monotonic()
        while time.monotonic() < until:
            runs = self.runs_since(since)
            for run in runs:
                self._tell(run, told, say)
            if any(run["state"] in ("queued", "running") for run in runs) or not runs:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > _QUIET_SECONDS:
                return [_ended(run) for run in sorted(runs, key=lambda run: str(run["start_date"]))]
            time.sleep(0.5)
        raise AirflowError(f"runs did not end within {_RUN_SECONDS} s; see {self.url} and {self.log_file}")

    def _tell(self, run: Mapping[str, Any], told: dict[str, str], say: Say) -> None:
        key = run["dag_run_id"]
        if run["state"] in ("success", "failed") and told.get(key, "").startswith(run["state"]):
            return
        states = [str(each["state"]) for each in self.tasks_of(run)]
        n_done = sum(state in ("success", "skipped", "failed", "upstream_failed") for state in states)
        n_again = states.count("up_for_retry")
        again = f", {n_again} to be tried again" if n_again else ""
        now = f"{run['state']:8} {n_done:>3}/{len(states)} tasks{again}"
        if told.get(key) != now:
            told[key] = now
            say(f"  {run['dag_id']:16} {now}")

    def request(self, verb: str, path: str, **options: Any) -> dict[str, Any]:
        """A call of the REST API as admin; httpx.HTTPStatusError when it is refused."""
        answer = self._client.request(verb, path, **options)
        if answer.status_code == 401:  # the token's time is up
            self._client.headers["Authorization"] = _bearer(self.url)
            answer = self._client.request(verb, path, **options)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def running(home: Path, environment: Mapping[str, str], dag_ids: tuple[str, ...], say: Say) -> Iterator[Airflow]:
    """`airflow standalone` with its files in `home`; stopped with SIGINT, and gone, at the end."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "airflow", "standalone"]
    found = {**os.environ, **_configuration(home, port), **environment}
    with started(command, found, f"http://127.0.0.1:{port}", home / "standalone.log", dag_ids, say) as airflow:
        yield airflow


@contextmanager
def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    url: str,
    log_file: Path,
    dag_ids: tuple[str, ...],
    say: Say,
    *,
    folder: Path = ROOT,
) -> Iterator[Airflow]:
    """A command that serves Airflow at a URL, run in a folder with these variables and no others."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            _await_boot(client, process, dag_ids, log_file, say)
            yield Airflow(url, dag_ids, log_file, process.pid, client)
    finally:
        _stop(process)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _configuration(home: Path, port: int) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "airflow" / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW_CONN_AIRFLOW_API": f"http://127.0.0.1:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "NO_PROXY": "127.0.0.1,localhost",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _await_boot(
    client: httpx.Client, process: subprocess.Popen[bytes], dag_ids: tuple[str, ...], log_file: Path, say: Say
) -> None:
    began, told = time.monotonic(), 0.0
    while not _is_up(client, dag_ids):
        waited = time.monotonic() - began
        has_died = process.poll() is not None or b"Exception in thread" in log_file.read_bytes()
        if has_died or waited > _BOOT_SECONDS:
            raise AirflowError(f"Airflow did not start within {waited:.0f} s; its log: {log_file}")
        if waited - told > 10:
            told = waited
            say(f"  still starting ({waited:.0f} s)")
        time.sleep(0.5)


def _is_up(client: httpx.Client, dag_ids: tuple[str, ...]) -> bool:
    try:
        health = client.get("/api/v2/monitor/health").json()
        if any(health[part]["status"] != "healthy" for part in ("metadatabase", "scheduler", "dag_processor")):
            return False
        client.headers["Authorization"] = _bearer(str(client.base_url))
        found = client.get("/api/v2/dags", params={"limit": 100}).json()["dags"]
    except (httpx.HTTPError, ValueError, KeyError):
        return False
    return set(dag_ids) <= {dag["dag_id"] for dag in found}


def _bearer(url: str) -> str:
    answer = httpx.get(url.rstrip("/") + "/auth/token", timeout=30, trust_env=False)
    return f"Bearer {answer.json()['access_token']}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGINT, which Airflow heeds (SIGTERM leaves orphans); the whole session is ended if it takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ended(run: Mapping[str, Any]) -> Run:
    began, ended = (datetime.fromisoformat(run[key]) for key in ("start_date", "end_date"))
    return Run(run["dag_id"], run["dag_run_id"], run["state"], (ended - began).total_seconds())


def now() -> datetime:
    """The present instant, aware, UTC."""
    return datetime.now(UTC)
