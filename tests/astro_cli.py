"""What the Astro CLI does with a project without Docker (`airflow/standalone.go` and `settings/settings.go` of 1.45).

The CLI itself downloads constraints and packages first, which are here already.
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

from local.airflow import ROOT, Airflow

_STOP_SECONDS = 10


def copy_project(folder: Path, names: list[str] | None = None) -> Path:
    """The project's files in a folder of their own, links as links; names: these only."""
    listed = names or tracked()
    for name in listed:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return folder


def tracked() -> list[str]:
    """The files of the project that are, or would be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).exists() or (ROOT / name).is_symlink()]


def runtime_version(project: Path) -> str:
    """The version of the Runtime, from the first FROM of the Dockerfile: flavours at the tag's end say no version."""
    image = re.search(r"^FROM\s+(\S+)", (project / "Dockerfile").read_text(), re.M)
    assert image
    return re.sub(r"(-python-[\d.]+)?(-base|-slim)?$", "", image[1].partition(":")[2])


def variables(text: str) -> dict[str, str]:
    """What a file of variables says, without the quotes around values."""
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return {name: value.strip("'") for name, value in (line.split("=", 1) for line in lines)}


def environment(project: Path, env_file: Path, port: int) -> dict[str, str]:
    """The variables of `airflow standalone`: inherited ones, above them the file's, above those the CLI's own."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    secret = "feature-to-prompt_0c4f21"
    critical = {
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
    return inherited | variables(env_file.read_text()) | critical


def apply_settings(airflow: Airflow, project: Path) -> list[str]:
    """Put connections, pools and variables of airflow_settings.yaml into a running Airflow; gives their names."""
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load((project / "airflow_settings.yaml").read_text())[
        "airflow"
    ]
    assert found.keys() <= {"connections", "pools", "variables"}
    done = []
    for pool in found["pools"] or ():
        assert pool.keys() == {"pool_name", "pool_slot", "pool_description"}
        path = f"/api/v2/pools/{pool['pool_name']}"  # `default_pool` is there already: only its slots can be changed
        sent = {"pool": pool["pool_name"], "slots": pool["pool_slot"], "include_deferred": False}
        done.append(airflow.request("PATCH", path, params={"update_mask": "slots"}, json=sent)["name"])
    for row in found["connections"] or ():
        fields = {name.removeprefix("conn_"): value for name, value in row.items() if value is not None}
        sent = {"type": "conn_type", "id": "connection_id"}
        body = {sent.get(name, name): value for name, value in fields.items()}
        done.append(airflow.request("POST", "/api/v2/connections", json=body)["connection_id"])
    for row in found["variables"] or ():
        body = {"key": row["variable_name"], "value": row["variable_value"]}
        done.append(airflow.request("POST", "/api/v2/variables", json=body)["key"])
    return done


def stop(airflow: Airflow) -> None:
    """`astro dev stop`: SIGTERM to the whole group, SIGKILL to what is left after ten seconds."""
    group = [each for each in psutil.process_iter() if _group(each.pid) == airflow.pid]
    os.killpg(airflow.pid, signal.SIGTERM)
    until = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < until and psutil.pid_exists(airflow.pid):
        psutil.wait_procs(group, timeout=0.5)
    for left in group:
        if left.is_running():
            left.kill()


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None
