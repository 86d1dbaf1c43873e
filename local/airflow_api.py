"""A client of Airflow's REST API: trigger DAG runs, follow them, and read asset events."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx

PrintLine = Callable[[str], None]
"""Prints one line of progress."""

_RUNS_TIMEOUT_S = 3600
_POLL_S = 0.5
_LATE_S = 300.0
"""Seconds for which a busy Airflow may leave calls unanswered."""

_T = TypeVar("_T")


class AirflowError(Exception):
    """Airflow did not start, or a DAG run did not end; the message names the log file."""


@dataclass(frozen=True)
class DagRun:
    """A finished DAG run."""

    dag_id: str
    run_id: str
    state: str
    seconds: float


@dataclass
class Airflow:
    """A running Airflow.

    dag_ids: the pipeline's DAGs.
    pid: of the first process, which is also the id of the process group.
    late_s: seconds for which Airflow may leave calls unanswered.
    variables: the environment variables by which Airflow's commands find it.
    """

    url: str
    dag_ids: tuple[str, ...]
    log_file: Path
    pid: int
    _client: httpx.Client = field(repr=False)
    late_s: float = _LATE_S
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def trigger(self, dag_id: str) -> None:
        """Start one DAG run now, also if Airflow answers so late that the call has to be repeated."""
        path, run_id = f"/api/v2/dags/{dag_id}/dagRuns", f"manual__{uuid4()}"
        body: dict[str, Any] = {"dag_run_id": run_id, "logical_date": None, "conf": {}}
        n_calls = 0

        def start() -> None:
            nonlocal n_calls
            n_calls += 1
            if n_calls == 1 or self._send("GET", f"{path}/{run_id}").status_code == httpx.codes.NOT_FOUND:
                response = self._send("POST", path, json=body)
                if response.status_code != httpx.codes.CONFLICT:  # a call without an answer did start the run
                    response.raise_for_status()

        self._patiently(start)

    def unpause(self) -> list[str]:
        """Unpause the pipeline's DAGs, and return the names of those that were paused."""
        listed = self.request("GET", "/api/v2/dags", params={"paused": True, "limit": 100})["dags"]
        paused = sorted(dag["dag_id"] for dag in listed if dag["dag_id"] in self.dag_ids)
        for dag_id in paused:
            self.request("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})
        return paused

    def runs_since(self, instant: datetime) -> list[dict[str, Any]]:
        """The pipeline's DAG runs that were queued at or after an instant."""
        newest_first = {"limit": 100, "order_by": "-run_after"}
        return [
            run
            for run in self.request("GET", "/api/v2/dags/~/dagRuns", params=newest_first)["dag_runs"]
            if run["dag_id"] in self.dag_ids
            and datetime.fromisoformat(run["queued_at"] or run["run_after"]) >= instant
        ]

    def events_since(self, instant: datetime) -> list[dict[str, Any]]:
        """The asset events at or after an instant."""
        query = {"limit": 100, "timestamp_gte": instant.isoformat()}
        events: list[dict[str, Any]] = self.request("GET", "/api/v2/assets/events", params=query)["asset_events"]
        return events

    def task_instances(self, run: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The task instances of a DAG run."""
        path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances"
        tasks: list[dict[str, Any]] = self.request("GET", path, params={"limit": 1000})["task_instances"]
        return tasks

    def wait_for_runs(self, since: datetime, print_line: PrintLine | None = None) -> list[DagRun]:
        """Follow all DAG runs since an instant until none is active and no asset event waits to trigger another.

        print_line: prints their progress, for which Airflow is asked for all their tasks again and again.
        Raises AirflowError if they take longer than an hour.
        """
        printed: dict[str, str] = {}
        deadline = time.monotonic() + _RUNS_TIMEOUT_S
        while time.monotonic() < deadline:
            runs = self.runs_since(since)
            if print_line:
                for run in runs:
                    self._print_progress(run, printed, print_line)
            if runs and not any(map(_is_active, runs)) and self._stays(runs, since):
                return [_dag_run(run) for run in sorted(runs, key=lambda run: str(run["start_date"]))]
            time.sleep(_POLL_S)
        raise AirflowError(f"DAG runs did not end within {_RUNS_TIMEOUT_S} s; see {self.url} and {self.log_file}")

    def _stays(self, runs: Sequence[Mapping[str, Any]], since: datetime) -> bool:
        """Whether no run will follow these ended ones: no asset event of theirs waits to trigger another."""
        queues = (self.request("GET", f"/api/v2/dags/{dag_id}/assets/queuedEvents") for dag_id in self.dag_ids)
        if any(queue["total_entries"] for queue in queues):
            return False
        # An event may have become a run between the two answers.
        latest = self.runs_since(since)
        return len(latest) == len(runs) and not any(map(_is_active, latest))

    def _print_progress(self, run: Mapping[str, Any], printed: dict[str, str], print_line: PrintLine) -> None:
        """Print a run's state if it differs from the state in `printed`, and store it there."""
        run_id = run["dag_run_id"]
        if run["state"] in ("success", "failed") and printed.get(run_id, "").startswith(run["state"]):
            return
        states = [str(task["state"]) for task in self.task_instances(run)]
        n_done = sum(state in ("success", "skipped", "failed", "upstream_failed") for state in states)
        n_retries = states.count("up_for_retry")
        retries = f", {n_retries} waiting for a retry" if n_retries else ""
        progress = f"{run['state']:8} {n_done:>3}/{len(states)} tasks{retries}"
        if printed.get(run_id) != progress:
            printed[run_id] = progress
            print_line(f"  {run['dag_id']:16} {progress}")

    def request(self, verb: str, path: str, **options: Any) -> dict[str, Any]:
        """Call the REST API as admin; raises httpx.HTTPStatusError if the call is refused.

        A GET is repeated while Airflow does not answer, up to five minutes; then AirflowError is raised.
        """

        def call() -> httpx.Response:
            return self._send(verb, path, **options)

        response = self._patiently(call) if verb == "GET" else call()
        body: dict[str, Any] = response.raise_for_status().json()
        return body

    def _send(self, verb: str, path: str, **options: Any) -> httpx.Response:
        response = self._client.request(verb, path, **options)
        if response.status_code == httpx.codes.UNAUTHORIZED:  # the access token has expired
            self._client.headers["Authorization"] = fetch_authorization_header(self.url)
            response = self._client.request(verb, path, **options)
        return response

    def _patiently(self, call: Callable[[], _T]) -> _T:
        """Repeat a call until Airflow answers; raises AirflowError after `late_s`."""
        deadline = time.monotonic() + self.late_s
        while True:
            try:
                return call()
            except httpx.TransportError as error:
                if time.monotonic() > deadline:
                    raise AirflowError(
                        f"Airflow at {self.url} did not answer for {self.late_s:.0f} s"
                        f" ({type(error).__name__}); its log: {self.log_file}"
                    ) from None
                time.sleep(_POLL_S)


def fetch_authorization_header(url: str) -> str:
    """The Authorization header of a new admin token of the Airflow at a URL."""
    response = httpx.get(url.rstrip("/") + "/auth/token", timeout=30, trust_env=False)
    return f"Bearer {response.json()['access_token']}"


def _is_active(run: Mapping[str, Any]) -> bool:
    return run["state"] in ("queued", "running")


def _dag_run(run: Mapping[str, Any]) -> DagRun:
    started, ended = (datetime.fromisoformat(run[key]) for key in ("start_date", "end_date"))
    return DagRun(run["dag_id"], run["dag_run_id"], run["state"], (ended - started).total_seconds())
