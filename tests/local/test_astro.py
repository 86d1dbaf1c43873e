"""The Astro CLI's standalone mode: Airflow without Docker, with `make services`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import astro_cli
import httpx
import psutil
import psycopg
import pytest

from assets.definitions import GRAPH
from contexts.postgres.run_log import RunLog
from contexts.postgres.sql import connect
from contexts.todoist.mirror import Mirror, fold
from local.airflow import airflow_process
from local.airflow_api import Airflow
from local.clock import utc_now
from local.nights import NightFigures, run_night
from local.processes import free_port
from local.samples import sample_users

VENV = Path(sys.executable).parent.parent
N_USERS = 5


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the project, with a virtual environment in the CLI's place."""
    clone = astro_cli.copy_project(tmp_path_factory.mktemp("project"))
    (clone / ".venv").symlink_to(VENV)
    return clone


def test_requirements_fit_the_runtimes_airflow(project: Path) -> None:
    """`requirements.txt` and exact versions of Airflow can be installed together, as the CLI does.

    The locked packages fulfil them, and the locked Airflow is the Runtime's.
    """
    installed = {name: version(name) for name in ("apache-airflow", "apache-airflow-task-sdk")}
    assert astro_cli.runtime_version(project).split("-")[0] == ".".join(installed["apache-airflow"].split(".")[:2])
    command = ["uv", "pip", "install", "--dry-run", "--offline", "--python", str(project / ".venv/bin/python")]
    pinned = [f"{name}=={number}" for name, number in installed.items()]
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, "-r", "requirements.txt", *pinned],
        cwd=project,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Would make no changes" in done.stderr


@pytest.fixture
def services(project: Path, tiny_nomic: Path) -> Iterator[dict[str, str]]:
    """`make services` in the project with the tiny model; yields the variables that it wrote for Airflow."""
    model = {"EMBEDDING_MODEL": str(tiny_nomic), "EMBEDDING_DIM": "32", "EMBEDDING_DEVICE": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "local.services"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "USERS": str(N_USERS), **model},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    printed = []
    for line in process.stdout:
        printed.append(line)
        if "astro dev start --standalone" in line:
            break
    try:
        assert process.poll() is None, printed
        yield astro_cli.variables((project / ".local/astro.env").read_text())
    finally:
        process.terminate()
        process.terminate()  # an impatient second signal
        assert process.wait(30) == 0
        commands = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
        assert not [command for command in commands if command and str(project / ".local/postgres") in command]


@dataclass(frozen=True)
class Night:
    """A night. runs, events: the number of runs of each step, and of events of each asset."""

    runs: Counter[str]
    events: Counter[str]
    figures: NightFigures

    @classmethod
    def run(cls, airflow: Airflow, connection: psycopg.Connection[Any]) -> Night:
        started_at = utc_now()
        figures = run_night(airflow, RunLog(connection), started_at, print)
        runs = Counter(run["dag_id"] for run in airflow.runs_since(started_at))
        return cls(runs, Counter(event["name"] for event in airflow.events_since(started_at)), figures)


@pytest.mark.live
def test_nights_in_standalone_mode(project: Path, services: dict[str, str]) -> None:
    """Nights run in an Airflow that is started as `astro dev start --standalone` starts it, and run only stale steps.

    Airflow accepts the settings file, writes to the context store, and ends with `astro dev stop`; all files are
    inside the project. Steps run and assets emit events only after changes: all at first, then for one due date, then
    none. The note of each run has the plan of its assets.
    """
    port, env_file = free_port(), project / ".local/astro.env"
    (project / ".astro/standalone").mkdir(parents=True)
    url = f"http://localhost:{port}"
    environment = astro_cli.environment(project, env_file, port) | {
        f"AIRFLOW__LOGGING__{each}_LOG_SERVER_PORT": str(free_port()) for each in ("WORKER", "TRIGGER")
    }
    environment["AIRFLOW_CONN_AIRFLOW_API"] = url  # through which a task writes the note of its run
    log_file = project / ".astro/standalone/airflow.log"
    command = [str(project / ".venv/bin/airflow"), "standalone"]
    steps = tuple(GRAPH.steps)
    with airflow_process(command, environment, url, log_file, steps, print, folder=project) as airflow:
        assert astro_cli.apply_settings(airflow, project) == ["default_pool", "todoist"]
        with connect(services["DATABASE_URL"]) as connection:
            first = Night.run(airflow, connection)
            rows = connection.execute("SELECT count(*) FROM context_store").fetchone()
            runs = airflow.runs_since(datetime.min.replace(tzinfo=UTC))
            add_due_date(services["TODOIST_API_URL"])
            second, third = Night.run(airflow, connection), Night.run(airflow, connection)
        astro_cli.stop(airflow)
    commands = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
    ours = [command for command in commands if command and str(project) in " ".join(command)]
    assert not [command for command in ours if "airflow" in command]
    assert (project / ".local/data/user_contexts").is_dir()
    assert (project / ".astro/standalone/airflow.db").exists()

    assert all(night.figures.succeeded for night in (first, second, third))
    noted = [run for run in runs if run["note"]]  # the others found nothing to do
    assert {run["dag_id"] for run in noted} == {run["dag_id"] for run in runs}
    for run in noted:
        assert all(asset.name in run["note"] for asset in GRAPH.steps[run["dag_id"]]), run["note"]
    assert first.runs == {"fetch_signals": 1, "embed_tasks": 1, "cluster_tasks": 1, "compute_context": 2}
    published = {"todoist_tasks", "signals_observed", "task_embeddings", "task_clusters", "context_store"}
    assert first.events.keys() >= published
    assert (first.figures.users, first.figures.users_clustered, first.figures.rows_written) == (N_USERS,) * 3
    assert first.figures.texts_embedded == n_texts()
    assert rows == (N_USERS,)

    assert second.runs == {"fetch_signals": 1, "embed_tasks": 1, "compute_context": 1}
    changed = ("todoist_tasks", "signals_observed", "user_contexts", "context_store", "contexts_observed")
    assert second.events == dict.fromkeys(changed, 1)
    assert second.figures.users_clustered == 0
    assert (second.figures.rows_written, second.figures.saved["rows_written"]) == (1, N_USERS - 1)

    assert third.runs == {"fetch_signals": 1, "compute_context": 1}
    assert third.events == {"signals_observed": 1, "contexts_observed": 1}
    assert (third.figures.texts_embedded, third.figures.rows_written) == (0, 0)
    assert third.figures.saved["rows_written"] == N_USERS


def n_texts() -> int:
    """The number of different texts of the tasks of all users."""
    mirrors = [fold(Mirror(), user.document).mirror for user in sample_users(N_USERS, today=utc_now().date())]
    tasks = ((mirror.directory, task) for mirror in mirrors for task in mirror.tasks.values())
    return len({task.text for directory, task in tasks if directory.is_actionable(task)})


def add_due_date(todoist_url: str) -> None:
    """Give a task of the first user a due date."""
    user = sample_users(N_USERS, today=utc_now().date())[0]
    task = next(item for item in user.document["items"] if item["due"] is None)
    delta = {"items": [task | {"due": {"date": "2030-01-01"}}]}
    httpx.post(f"{todoist_url}/_control/advance", json={"user": user.user_id, "delta": delta}).raise_for_status()
