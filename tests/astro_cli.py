"""The handling of a project by the Astro CLI without Docker.

Source: `airflow/standalone.go` and `settings/settings.go` of version 1.45.
Unlike the CLI it does not download constraints and packages, which the tests have already.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from local.airflow_api import Airflow
from local.paths import ROOT

_STOP_TIMEOUT_S = 10


def copy_project(folder: Path, names: list[str] | None = None) -> Path:
    """Copy the project's files to a folder and return it; links stay links. names: the files, by default all."""
    for name in names or tracked():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return folder


def tracked() -> list[str]:
    """Return the files of the project that are, or would be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).exists() or (ROOT / name).is_symlink()]


def runtime_version(project: Path) -> str:
    """Return the Runtime's version from the first FROM of the Dockerfile, without flavours at the end of the tag."""
    image = re.search(r"^FROM\s+(\S+)", (project / "Dockerfile").read_text(), re.M)
    assert image
    return re.sub(r"(-python-[\d.]+)?(-base|-slim)?$", "", image[1].partition(":")[2])


def variables(text: str) -> dict[str, str]:
    """Read the variables of a .env file, without the quotes around values."""
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return {name: value.strip("'") for name, value in (line.split("=", 1) for line in lines)}


def environment(project: Path, env_file: Path, port: int) -> dict[str, str]:
    """Return the variables of `airflow standalone`: inherited, overridden by the file's, then by the CLI's."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    secret = "feature-to-prompt_0c4f21"
    cli_variables = {
        "PATH": f"{project / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(project),
        "AIRFLOW_HOME": str(project / ".astro" / "standalone"),
        "ASTRONOMER_ENVIRONMENT": "local",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
        "AIRFLOW__CORE__FERNET_KEY": "d6Vefz3G9U_ynXB3cr7y_Ak35tAHkEGAVxuz_B-jzWw=",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{port}/execution/",
        "AIRFLOW__API__SECRET_KEY": secret,
        "AIRFLOW__API_AUTH__JWT_SECRET": secret,
        "NO_PROXY": "*",
        "no_proxy": "*",
    }
    return inherited | variables(env_file.read_text()) | cli_variables


def apply_settings(airflow: Airflow, project: Path) -> list[str]:
    """Add the connections, pools and variables of airflow_settings.yaml to a running Airflow; return their names."""
    document = yaml.safe_load((project / "airflow_settings.yaml").read_text())
    settings: dict[str, list[dict[str, Any]]] = document["airflow"]
    assert settings.keys() <= {"connections", "pools", "variables"}
    names = []
    for pool in settings["pools"] or ():
        assert pool.keys() == {"pool_name", "pool_slot", "pool_description"}
        path = f"/api/v2/pools/{pool['pool_name']}"  # `default_pool` exists, and only its slots can change
        body = {"pool": pool["pool_name"], "slots": pool["pool_slot"], "include_deferred": False}
        names.append(airflow.request("PATCH", path, params={"update_mask": "slots"}, json=body)["name"])
    for row in settings["connections"] or ():
        fields = {name.removeprefix("conn_"): value for name, value in row.items() if value is not None}
        api_names = {"type": "conn_type", "id": "connection_id"}
        body = {api_names.get(name, name): value for name, value in fields.items()}
        names.append(airflow.request("POST", "/api/v2/connections", json=body)["connection_id"])
    for row in settings["variables"] or ():
        body = {"key": row["variable_name"], "value": row["variable_value"]}
        names.append(airflow.request("POST", "/api/v2/variables", json=body)["key"])
    return names


def stop(airflow: Airflow) -> None:
    """Stop Airflow like `astro dev stop`: SIGTERM to the process group, SIGKILL to the rest after ten seconds."""
    group = [process for process in psutil.process_iter() if _group_of(process.pid) == airflow.pid]
    os.killpg(airflow.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline and psutil.pid_exists(airflow.pid):
        psutil.wait_procs(group, timeout=0.5)
    for process in group:
        if process.is_running():
            process.kill()


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None
