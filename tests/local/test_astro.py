"""The Astro CLI's standalone mode: Airflow without Docker, beside `make services`."""

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
from contexts.ledger import Ledger
from local import airflow, nights

VENV = Path(sys.executable).parent.parent


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as somebody has it who cloned it, with a virtual environment where the CLI makes it."""
    made = astro_cli.copy_project(tmp_path_factory.mktemp("project"))
    (made / ".venv").symlink_to(VENV)
    return made


def test_requirements_stand_beside_the_runtimes_airflow(project: Path) -> None:
    """`requirements.txt` and exact versions of Airflow can be installed in one go, as the CLI does: what the lock has
    is all that they ask for, and its Airflow is the Runtime's.
    """
    found = {name: version(name) for name in ("apache-airflow", "apache-airflow-task-sdk")}
    assert astro_cli.runtime_version(project).split("-")[0] == ".".join(found["apache-airflow"].split(".")[:2])
    command = ["uv", "pip", "install", "--dry-run", "--offline", "--python", str(project / ".venv/bin/python")]
    pinned = [f"{name}=={number}" for name, number in found.items()]
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
    """`make services` in the project, for five users; gives what it wrote for Airflow."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "local.services"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "USERS": "5"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    told = []
    for line in process.stdout:
        told.append(line)
        if "astro dev start --standalone" in line:
            break
    try:
        assert process.poll() is None, told
        yield astro_cli.variables((project / ".local/astro.env").read_text())
    finally:
        process.terminate()
        process.terminate()  # somebody who has no patience
        assert process.wait(30) == 0
        left = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
        assert not [command for command in left if command and str(project / ".local/postgres") in command]


@pytest.mark.live
def test_a_night_in_standalone_mode(project: Path, services: dict[str, str]) -> None:
    """Started as `astro dev start --standalone` starts it, Airflow takes our settings file, runs a night into the
    context store, and is gone after `astro dev stop`; all files lie inside the project.
    """
    port, env_file = airflow.free_port(), project / ".local/astro.env"
    (project / ".astro/standalone").mkdir(parents=True)
    found = astro_cli.environment(project, env_file, port) | {
        f"AIRFLOW__LOGGING__{each}_LOG_SERVER_PORT": str(airflow.free_port()) for each in ("WORKER", "TRIGGER")
    }
    log_file = project / ".astro/standalone/airflow.log"
    command = [str(project / ".venv/bin/airflow"), "standalone"]
    steps = tuple(GRAPH.steps)
    with airflow.started(
        command, found, f"http://localhost:{port}", log_file, steps, print, folder=project
    ) as running:
        assert astro_cli.apply_settings(running, project) == ["default_pool", "todoist"]
        with psycopg.connect(services["DATABASE_URL"], autocommit=True) as connection:
            night = nights.run_night(running, Ledger(connection), airflow.now(), print)
            rows: Any = connection.execute("SELECT count(*), min(context_hash) FROM context_store").fetchone()
        assert night.succeeded
        assert (night.users, night.rows_written) == (5, 5)
        assert rows[0] == 5
        astro_cli.stop(running)
    left = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
    assert not [command for command in left if command and str(project) in " ".join(command) and "airflow" in command]
    assert (project / ".local/data/user_contexts").is_dir()
    assert (project / ".astro/standalone/airflow.db").exists()
