"""A whole Airflow on this machine: starts `airflow standalone` and waits until it has parsed the DAGs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx

from local.airflow_api import Airflow, AirflowError, PrintLine, fetch_authorization_header
from local.paths import PROGRAMS, ROOT
from local.processes import NotReady, child_process, free_port, wait_until_ready

_BOOT_TIMEOUT_S = 300
_BOOT_POLL_S = 0.5
_PROGRESS_INTERVAL_S = 10
_STOP_TIMEOUT_S = 60


@contextmanager
def running_airflow(
    home: Path, environment: Mapping[str, str], dag_ids: tuple[str, ...], print_line: PrintLine
) -> Iterator[Airflow]:
    """`airflow standalone` with its files in `home`; stopped at the end.

    environment: variables on top of the inherited ones and the configuration of a local Airflow.
    dag_ids: DAGs that must be parsed before Airflow counts as ready.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "airflow", "standalone"]
    own_variables = {**local_configuration(home, port), **environment}
    variables = {**os.environ, **own_variables, "PATH": search_path()}
    url, log_file = f"http://127.0.0.1:{port}", home / "standalone.log"
    with airflow_process(command, variables, url, log_file, dag_ids, print_line) as airflow:
        yield replace(airflow, variables=own_variables)


@contextmanager
def airflow_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    url: str,
    log_file: Path,
    dag_ids: tuple[str, ...],
    print_line: PrintLine,
    *,
    folder: Path = ROOT,
) -> Iterator[Airflow]:
    """A command that serves Airflow at `url`; stopped at the end.

    environment: all variables of the command; none are inherited.
    folder: its working directory.
    Raises AirflowError if Airflow does not start.
    """
    with (
        child_process(command, environment, log_file, stop_timeout_s=_STOP_TIMEOUT_S, folder=folder) as process,
        httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
    ):
        # `airflow standalone` goes on if one of its components dies, so the log tells.
        wait_for_boot(
            client,
            process,
            dag_ids,
            log_file,
            print_line,
            has_failed=lambda: b"Exception in thread" in log_file.read_bytes(),
        )
        yield Airflow(url, dag_ids, log_file, process.pid, client)


def search_path() -> str:
    """The PATH of this process with the programs of the virtual environment first."""
    return f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}"


def local_configuration(home: Path, port: int) -> dict[str, str]:
    """The variables of an Airflow that only this machine reaches. port: of its api-server."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "airflow" / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",  # 30 s are not enough on a machine that is busy otherwise
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "150",
        "AIRFLOW_CONN_AIRFLOW_API": f"http://127.0.0.1:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "NO_PROXY": "127.0.0.1,localhost",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "airflow" / "config")]),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def wait_for_boot(
    client: httpx.Client,
    process: subprocess.Popen[bytes],
    dag_ids: tuple[str, ...],
    log_file: Path,
    print_line: PrintLine,
    *,
    has_failed: Callable[[], bool],
) -> None:
    """Wait until Airflow is healthy and has parsed the DAGs; raises AirflowError if it does not start.

    process: the first process of Airflow. has_failed: whether a process has ended without which Airflow cannot start.
    """
    printed_at_s = 0.0

    def on_wait(waited_s: float) -> None:
        nonlocal printed_at_s
        if waited_s - printed_at_s > _PROGRESS_INTERVAL_S:
            printed_at_s = waited_s
            print_line(f"  still starting ({waited_s:.0f} s)")

    try:
        wait_until_ready(
            process,
            lambda: _is_ready(client, dag_ids),
            timeout_s=_BOOT_TIMEOUT_S,
            poll_s=_BOOT_POLL_S,
            has_failed=has_failed,
            on_wait=on_wait,
        )
    except NotReady as error:
        raise AirflowError(f"Airflow did not start within {error.waited_s:.0f} s; its log: {log_file}") from None


def _is_ready(client: httpx.Client, dag_ids: tuple[str, ...]) -> bool:
    try:
        health = client.get("/api/v2/monitor/health").json()
        if any(health[part]["status"] != "healthy" for part in ("metadatabase", "scheduler", "dag_processor")):
            return False
        client.headers["Authorization"] = fetch_authorization_header(str(client.base_url))
        dags = client.get("/api/v2/dags", params={"limit": 100}).json()["dags"]
    except (httpx.HTTPError, ValueError, KeyError):
        return False
    return set(dag_ids) <= {dag["dag_id"] for dag in dags}
