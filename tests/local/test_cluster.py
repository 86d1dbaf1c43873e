"""Nights of a cluster with Celery, Redis and S3, whose worker and whose broker are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from assets.definitions import GRAPH
from assets.engine.parquet import Shards
from contexts.postgres.run_log import RunLog
from contexts.postgres.sql import connect
from contexts.themes.universal_encoder import UNIVERSAL_DIM, UNIVERSAL_ENCODER
from contexts.todoist.credentials import new_key
from local import nights, postgres
from local.clock import utc_now
from local.cluster import Cluster, running_cluster, running_object_store
from local.paths import ROOT
from local.samples import night_changes, sample_users
from local.scenario import Scenario, install, scenario_from_environment
from local.task_places import TaskPlace, places_since
from local.todoist import Fault

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]

N_USERS = 8
N_SHARDS = 2
BROKER_DOWN_S = 20
WAIT_S = 120

QUICK_RECOVERY = {
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",  # with 0.1 s it takes a fifth of a core
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "RETRY_DELAY": "00:00:05",
}
"""Settings by which Airflow notices in seconds that a worker is gone, and tries its tasks again, at little cost."""


@dataclass
class Pipeline:
    """A context store and a root, and the settings that lead to them."""

    connection: psycopg.Connection[Any]
    settings: Mapping[str, str]

    def contexts(self) -> list[tuple[Any, ...]]:
        """The rows of context_store, without the times at which they were made."""
        sql = "SELECT user_id, context_json, context_hash FROM context_store ORDER BY user_id"
        return list(self.connection.execute(sql))

    def data_versions(self) -> dict[str, dict[int, str]]:
        """The data version of each shard by asset."""
        shards = Shards(self.settings["DATA_ROOT"], N_SHARDS)
        return {
            asset.name: {footer.shard: footer.data_version for footer in shards.footers(asset)} for asset in GRAPH
        }


@dataclass
class Trial:
    """A cluster, and a second context store and root that one process fills from the same Todoist."""

    cluster: Cluster
    scenario: Scenario
    clustered: Pipeline
    single: Pipeline
    n_changes: int = 0

    def change_tasks(self) -> None:
        """Add, complete, reword and move tasks of every user."""
        self.n_changes += 1
        for sample in sample_users(N_USERS, today=utc_now().date()):
            document = self.todoist.document(sample.user_id)
            delta = night_changes(sample, document, today=utc_now().date(), night=self.n_changes)
            self.todoist.advance(sample.user_id, delta)

    @property
    def todoist(self) -> Any:
        return self.scenario.todoist

    def night(self, fault: Callable[[], object] = lambda: None) -> list[TaskPlace]:
        """Run a night in the cluster, with a fault meanwhile, and the same in one process; both succeed."""
        since = utc_now()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(
                nights.run_night, self.cluster.airflow, RunLog(self.clustered.connection), since, print
            )
            fault()
            assert running.result().succeeded
        self.run_single()
        return places_since(self.cluster.airflow, since)

    def run_single(self) -> None:
        """Run the whole pipeline in one process."""
        command = [sys.executable, "-m", "assets", "materialize"]
        environment = {**os.environ, **self.single.settings}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def hold_fetch(self, seconds: float) -> None:
        """Wait until a task of the night fetches a user, whom Todoist lets wait so long."""
        n_calls = len(self.todoist.calls)
        self.todoist.fail(self.scenario.user_ids[0], Fault.slow(delay_s=seconds))
        wait_for(lambda: any(call.user == self.scenario.user_ids[0] for call in self.todoist.calls[n_calls:]))

    def assert_equal(self) -> None:
        """The cluster has the rows and the data versions of one process."""
        assert self.clustered.contexts() == self.single.contexts()
        assert self.clustered.data_versions() == self.single.data_versions()

    def assert_nothing_left(self) -> None:
        """No message waits, no process has ended, no lock is held, and no scratch file is in the bucket."""
        assert [self.cluster.broker.n_waiting(queue) for queue in ("default", "embed")] == [0, 0]
        assert self.cluster.ended() == []
        locks = self.clustered.connection.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database ON database = pg_database.oid"
            " WHERE locktype = 'advisory' AND datname = current_database()"
        ).fetchone()
        assert locks == (0,)
        names = [path.rsplit("/", 1)[1] for path in self.cluster.store.file_system.find(self.cluster.store.root)]
        assert [name for name in names if not name.endswith((".parquet", ".json"))] == []


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, f"nothing after {WAIT_S} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def trial(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A cluster and its twin of one process, with the sample users of `make run`; nothing runs after the tests."""
    folder, key = tmp_path_factory.mktemp("cluster"), new_key()
    hour = (utc_now().hour + 12) % 24
    settings = {
        "N_SHARDS": str(N_SHARDS),
        "CREDENTIALS_KEYS": key,
        "MATERIALIZE_SCHEDULE": f"0 {hour} * * *",
        "NIGHT_HOUR": str(hour),
        "EMBEDDING_MODEL": UNIVERSAL_ENCODER,
        "EMBEDDING_PROMPT": "",
        "EMBEDDING_DIM": str(UNIVERSAL_DIM),
    }
    urls = {
        name: postgres.create_database(server, name, replace=True) for name in ("clustered", "single", "metadata")
    }
    airflow = {
        **settings,
        **QUICK_RECOVERY,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.airflow_url(urls["metadata"]),
        "AIRFLOW_CONN_CONTEXT_STORE": urls["clustered"],
    }
    with (
        scenario_from_environment({"USERS": str(N_USERS)}) as scenario,
        connect(urls["clustered"]) as clustered,
        connect(urls["single"]) as single,
        running_object_store(folder) as store,
        pytest.MonkeyPatch.context() as patch,
    ):
        for connection in (clustered, single):
            install(connection, key, scenario)
        for name, value in store.environment.items():
            patch.setenv(name, value)
        airflow["AIRFLOW_CONN_TODOIST"] = scenario.todoist_url
        alone = {**settings, "DATABASE_URL": urls["single"], "TODOIST_API_URL": scenario.todoist_url}
        with running_cluster(folder, store, airflow, tuple(GRAPH.steps), print) as cluster:
            yield Trial(
                cluster,
                scenario,
                Pipeline(clustered, {"DATA_ROOT": store.root}),
                Pipeline(single, {**alone, "DATA_ROOT": str(folder / "single")}),
            )
    assert processes_of(folder) == []


def processes_of(folder: Path) -> list[list[str]]:
    """The command lines of all processes that have a folder in their command line or environment."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            words = [*process.info["cmdline"], *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process.info["cmdline"])
    return found


def test_a_night_equals_one_process(trial: Trial) -> None:
    """Two workers give the rows and data versions of one process, and texts are embedded on their own queue only."""
    places = trial.night()
    trial.assert_equal()
    trial.assert_nothing_left()
    assert {(each.queue, each.worker) for each in places if (each.step, each.task) == ("embed_tasks", "compute")} == {
        ("embed", "worker-embed")
    }
    assert {(each.queue, each.worker) for each in places if each.task != "compute" or each.step != "embed_tasks"} == {
        ("default", "worker-default")
    }


def test_a_worker_is_killed(trial: Trial) -> None:
    """A night whose worker is killed while it fetches, and started again, ends by itself and equals one process."""
    trial.change_tasks()

    def fault() -> None:
        trial.hold_fetch(30)
        trial.cluster.kill_worker("default")
        trial.cluster.start_worker("default")

    trial.night(fault)
    trial.assert_equal()
    trial.assert_nothing_left()


def test_the_broker_is_away(trial: Trial) -> None:
    """A night whose broker is killed and comes back after 20 seconds ends by itself and equals one process."""
    trial.change_tasks()

    def fault() -> None:
        trial.hold_fetch(3)
        trial.cluster.kill_broker()
        time.sleep(BROKER_DOWN_S)
        trial.cluster.start_broker()

    trial.night(fault)
    trial.assert_equal()
    trial.assert_nothing_left()
