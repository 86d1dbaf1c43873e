"""A whole cluster on this machine: Airflow with Celery, two workers, a Redis, and an S3 server for all data."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from contexts.todoist.credentials import new_key
from local.airflow import local_configuration, search_path, wait_for_boot
from local.airflow_api import Airflow, AirflowError, PrintLine
from local.broker import BROKER, Broker, start_broker
from local.fleet import Fleet, Program, running_fleet
from local.object_store import ObjectStore, start_object_store
from local.processes import NotReady, free_port, wait_until_ready
from local.worker_name import VARIABLE, worker_name

_EMBEDDING_QUEUE = "embed"
QUEUES = {"default": 3, _EMBEDDING_QUEUE: 1}
"""The queues, with the number of tasks that the only worker of each runs at once."""

_COMPONENTS = ("scheduler", "dag-processor", "triggerer")
_MIGRATION_TIMEOUT_S = 300
_WORKER_TIMEOUT_S = 120
_POLL_S = 0.2


@dataclass(frozen=True)
class Cluster:
    """A running cluster. Its processes can be killed and started again."""

    airflow: Airflow
    broker: Broker
    store: ObjectStore
    _services: Fleet
    _components: Fleet

    def kill_worker(self, queue: str) -> None:
        """End the worker of a queue and its tasks by SIGKILL."""
        self._components.kill(_worker(queue))

    def start_worker(self, queue: str) -> None:
        """Start the worker of a queue again, as the supervisor of a real cluster does."""
        self._components.restart(_worker(queue))

    def kill_broker(self) -> None:
        """End Redis by SIGKILL."""
        self._services.kill(BROKER)

    def start_broker(self) -> None:
        """Start Redis again, with the messages that it had."""
        self._services.restart(BROKER)

    def ended(self) -> list[str]:
        """The names of processes that have ended without `kill_worker` or `kill_broker`."""
        return self._services.ended() + self._components.ended()


@contextmanager
def running_object_store(folder: Path) -> Iterator[ObjectStore]:
    """An S3 server with an empty bucket; stopped at the end."""
    with running_fleet(folder / "logs") as fleet:
        yield start_object_store(fleet, folder / "s3")


@contextmanager
def running_cluster(
    folder: Path, store: ObjectStore, environment: Mapping[str, str], dag_ids: tuple[str, ...], print_line: PrintLine
) -> Iterator[Cluster]:
    """Airflow with Celery over an S3 server, with all files in `folder`; stopped at the end.

    environment: variables of all processes on top of the inherited ones and the configuration of a local Airflow.
    dag_ids: DAGs that must be parsed before the cluster counts as ready.

    Raises AirflowError if a process does not start.
    """
    port = free_port()
    with running_fleet(folder / "logs") as services, running_fleet(folder / "logs") as components:
        broker = start_broker(services, folder / "redis")
        variables = {
            **local_configuration(folder / "airflow", port),
            **_celery_configuration(broker),
            **data_settings(store),
            **environment,
        }
        inherited = {**os.environ, **variables, "PATH": search_path(), VARIABLE: "control"}
        (folder / "airflow").mkdir(parents=True, exist_ok=True)
        _migrate(components, inherited)
        server = components.start("api-server", _program("api-server", inherited))
        for name in _COMPONENTS:
            components.start(name, _program(name, inherited))
        for queue, n_tasks in QUEUES.items():
            _start_worker(components, queue, n_tasks, folder, inherited)
        url, log_file = f"http://127.0.0.1:{port}", components.log_file("scheduler")
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            wait_for_boot(client, server, dag_ids, log_file, print_line, has_failed=lambda: bool(components.ended()))
            _wait_for_workers(components, server)
            airflow = Airflow(url, dag_ids, log_file, server.pid, client, variables=variables)
            yield Cluster(airflow, broker, store, services, components)


def data_settings(store: ObjectStore) -> dict[str, str]:
    """The settings of a pipeline with its data in an object store and its embedding tasks in a queue of their own."""
    return {**store.environment, "DATA_ROOT": store.root, "EMBEDDING_QUEUE": _EMBEDDING_QUEUE}


def _celery_configuration(broker: Broker) -> dict[str, str]:
    # By default a task fails if its message cannot be sent for a second. Here sending waits up to a minute for a
    # broker: Celery tries again until Airflow's time-out of one second, and Airflow sixty times.
    patience = {"task_publish_retry_policy": {"max_retries": None, "interval_start": 0.2, "interval_max": 0.2}}
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__FERNET_KEY": new_key(),
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": f"{worker_name.__module__}.{worker_name.__qualname__}",
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
        "AIRFLOW__CELERY__BROKER_URL": broker.url,
        "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": json.dumps(patience),
        "AIRFLOW__CELERY__TASK_PUBLISH_MAX_RETRIES": "60",
        "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "86400",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    }


def _program(command: str, environment: Mapping[str, str]) -> Program:
    return Program([sys.executable, "-m", "airflow", *command.split()], environment)


def _migrate(fleet: Fleet, environment: Mapping[str, str]) -> None:
    process = fleet.start("migrate", _program("db migrate", environment))
    with suppress(subprocess.TimeoutExpired):
        process.wait(_MIGRATION_TIMEOUT_S)
    if process.poll() != 0:
        raise AirflowError(f"Airflow's database was not created; the log: {fleet.log_file('migrate')}")
    fleet.forget("migrate")


def _start_worker(fleet: Fleet, queue: str, n_tasks: int, folder: Path, environment: Mapping[str, str]) -> None:
    """Start a worker that shares no folder with others, except that of the tasks' logs, which the UI reads."""
    home = folder / _worker(queue)
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    variables = {**environment, "AIRFLOW_HOME": str(home), "TMPDIR": str(home / "tmp"), VARIABLE: _worker(queue)}
    options = f"--queues {queue} --concurrency {n_tasks} --celery-hostname {queue}"
    command = f"celery worker {options} --skip-serve-logs --without-gossip --without-mingle"
    fleet.start(_worker(queue), Program(_program(command, {}).command, variables, home))


def _wait_for_workers(fleet: Fleet, server: subprocess.Popen[bytes]) -> None:
    for queue in QUEUES:
        log_file = fleet.log_file(_worker(queue))
        is_ready = partial(_has_line, log_file, b" ready.")
        try:
            wait_until_ready(
                server,
                is_ready,
                timeout_s=_WORKER_TIMEOUT_S,
                poll_s=_POLL_S,
                has_failed=lambda: bool(fleet.ended()),
            )
        except NotReady as error:
            raise AirflowError(f"no worker within {error.waited_s:.0f} s; its log: {log_file}") from None


def _has_line(log_file: Path, words: bytes) -> bool:
    return words in log_file.read_bytes()


def _worker(queue: str) -> str:
    """The name of the worker of a queue."""
    return f"worker-{queue}"
