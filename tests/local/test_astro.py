"""The Astro CLI's standalone mode: Airflow without Docker, with `make services`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import astro_cli
import psutil
import psycopg
import pytest

from assets.definitions import GRAPH
from contexts.postgres.run_log import RunLog
from local.airflow import airflow_process
from local.clock import utc_now
from local.nights import run_night
from local.processes import free_port

VENV = Path(sys.executable).parent.parent


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
def services(project: Path) -> Iterator[dict[str, str]]:
    """`make services` in the project for five users; yields the variables that it wrote for Airflow."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "local.services"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "USERS": "5"},
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


@pytest.mark.live
def test_a_night_in_standalone_mode(project: Path, services: dict[str, str]) -> None:
    """A night runs in an Airflow that is started as `astro dev start --standalone` starts it.

    Airflow accepts the settings file, writes to the context store, and ends with `astro dev stop`; all files are
    inside the project.
    """
    port, env_file = free_port(), project / ".local/astro.env"
    (project / ".astro/standalone").mkdir(parents=True)
    environment = astro_cli.environment(project, env_file, port) | {
        f"AIRFLOW__LOGGING__{each}_LOG_SERVER_PORT": str(free_port()) for each in ("WORKER", "TRIGGER")
    }
    log_file = project / ".astro/standalone/airflow.log"
    command = [str(project / ".venv/bin/airflow"), "standalone"]
    steps = tuple(GRAPH.steps)
    url = f"http://localhost:{port}"
    with airflow_process(command, environment, url, log_file, steps, print, folder=project) as airflow:
        assert astro_cli.apply_settings(airflow, project) == ["default_pool", "todoist"]
        with psycopg.connect(services["DATABASE_URL"], autocommit=True) as connection:
            night = run_night(airflow, RunLog(connection), utc_now(), print)
            rows: Any = connection.execute("SELECT count(*), min(context_hash) FROM context_store").fetchone()
        assert night.succeeded
        assert (night.users, night.rows_written) == (5, 5)
        assert rows[0] == 5
        astro_cli.stop(airflow)
    commands = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
    ours = [command for command in commands if command and str(project) in " ".join(command)]
    assert not [command for command in ours if "airflow" in command]
    assert (project / ".local/data/user_contexts").is_dir()
    assert (project / ".astro/standalone/airflow.db").exists()
