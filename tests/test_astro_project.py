"""The repository as an Astro project: the files that the CLI and Docker read, and the image built from them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import astro_cli
import httpx
import psycopg
import pytest
import yaml
from compose_spec import PyCompose
from docker.utils.build import exclude_paths

from assets.definitions import GRAPH
from contexts.settings import NOMIC, NOMIC_REVISION, Settings
from local import postgres
from local.dotenv import filled
from local.paths import ROOT
from local.processes import free_port

BIN = Path(sys.executable).parent
DAGS = {*GRAPH.steps, "housekeeping"}

# The fields of `astro deployment create --deployment-file` (cloud/deployment/inspect/inspect.go of 1.45).
CONFIGURATION = {
    "name": str,
    "description": str,
    "runtime_version": str,
    "dag_deploy_enabled": bool,
    "ci_cd_enforcement": bool,
    "scheduler_size": str,
    "is_high_availability": bool,
    "is_development_mode": bool,
    "executor": str,
    "scheduler_count": int,
    "cluster_name": str,
    "workspace_name": str,
    "deployment_type": str,
    "cloud_provider": str,
    "region": str,
    "workload_identity": str,
}
QUEUE = {
    "name": str,
    "max_worker_count": int,
    "min_worker_count": int,
    "worker_concurrency": int,
    "worker_type": str,
}
MACHINES = {"A5": (1, 2), "A10": (2, 4), "A20": (4, 8), "A40": (8, 16), "A60": (12, 24)}
"""Cores and GiB of Astro's worker types."""

GIB_PER_TASK = {"default": 0.9, "embed": 1.5}
"""Maximum memory of a task by queue."""

GIB_PER_WORKER = 2
"""Memory of the worker itself."""


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


class TestDeployment:
    """The file astro.yaml."""

    @pytest.fixture
    def deployment(self) -> Any:
        document = read("astro.yaml")
        assert document.keys() == {"deployment"}
        return document["deployment"]

    def test_fields(self, deployment: Any) -> None:
        """All fields are known to the CLI and have the right types, and all required fields are present."""
        parts = {"configuration", "environment_variables", "worker_queues", "alert_emails", "hibernation_schedules"}
        assert deployment.keys() == parts
        configuration = deployment["configuration"]
        assert configuration.keys() <= CONFIGURATION.keys()
        for name, value in configuration.items():
            assert type(value) is CONFIGURATION[name], name
        assert configuration["executor"] == "CELERY"
        assert configuration["name"] == read(".astro/config.yaml")["project"]["name"]
        assert configuration["runtime_version"] == astro_cli.runtime_version(ROOT)

    def test_queues(self, deployment: Any) -> None:
        """The default queue and `EMBEDDING_QUEUE` run no more tasks at once than fit into their machines."""
        queues = {queue["name"]: queue for queue in deployment["worker_queues"]}
        variables = {variable["key"]: variable["value"] for variable in deployment["environment_variables"]}
        assert queues.keys() == {"default", variables["EMBEDDING_QUEUE"]}
        for queue in queues.values():
            assert {name: type(value) for name, value in queue.items()} == QUEUE
            assert queue["min_worker_count"] <= queue["max_worker_count"]
            cores, gib = MACHINES[queue["worker_type"]]
            assert queue["worker_concurrency"] <= cores
            assert queue["worker_concurrency"] * GIB_PER_TASK[queue["name"]] <= gib - GIB_PER_WORKER

    def test_variables(self, deployment: Any) -> None:
        """All variables are valid settings of the project or of Airflow; secrets are marked and have no value."""
        variables = deployment["environment_variables"]
        for variable in variables:
            assert {name: type(value) for name, value in variable.items()} == {
                "is_secret": bool,
                "key": str,
                "value": str,
            }
            assert variable["is_secret"] == (variable["value"] == "")
        project_settings = {name.upper() for name in Settings.model_fields} | {"CREDENTIALS_KEYS"}
        values = {variable["key"]: variable["value"] for variable in variables}
        assert len(values) == len(variables)
        assert {key for key in values if not key.startswith("AIRFLOW_")} <= project_settings
        assert {variable["key"] for variable in variables if variable["is_secret"]} == {
            "AIRFLOW_CONN_CONTEXT_STORE",
            "CREDENTIALS_KEYS",
        }
        assert Settings.model_validate({key.lower(): values[key] for key in values.keys() & project_settings})


class TestSecrets:
    """The file .env.example and the committed files."""

    def test_dotenv_is_filled(self) -> None:
        """`make env` fills in new secrets, the same password in all three places, and keeps the comments."""
        example = (ROOT / ".env.example").read_text()
        first, second = filled(example), filled(example)
        assert [line for line in first.splitlines() if line.startswith("#")] == [
            line for line in example.splitlines() if line.startswith("#")
        ]
        values = astro_cli.variables(first)
        assert not [value for value in values.values() if "<" in value]
        password = values["POSTGRES_PASSWORD"]
        assert len(password) >= 32
        assert password not in second
        for name in ("DATABASE_URL", "AIRFLOW_CONN_CONTEXT_STORE"):
            assert f":{password}@" in values[name]

    def test_dotenv_is_never_overwritten(self, tmp_path: Path) -> None:
        """`make env` creates a file that only its owner can read, and refuses to replace an existing one."""
        project = astro_cli.copy_project(tmp_path, ["local/dotenv.py", ".env.example"])
        command = [sys.executable, "local/dotenv.py"]
        assert subprocess.run(command, cwd=project, capture_output=True).returncode == 0
        content = (project / ".env").read_text()
        assert (project / ".env").stat().st_mode & 0o077 == 0
        again = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert (again.returncode, again.stdout) == (1, "")
        assert "Remove it first" in again.stderr
        assert (project / ".env").read_text() == content

    def test_dotenv_is_not_committed(self) -> None:
        """Git ignores .env and the local files of Airflow."""
        ignored = subprocess.run(["git", "check-ignore", ".env", ".astro/standalone/airflow.db"], cwd=ROOT)
        assert ignored.returncode == 0
        assert ".env" not in astro_cli.tracked()

    def test_settings_file_holds_no_secret(self) -> None:
        """The file airflow_settings.yaml has connections, pools and variables, but no password."""
        text = (ROOT / "airflow_settings.yaml").read_text()
        settings = yaml.safe_load(text)["airflow"]
        assert settings.keys() == {"connections", "pools", "variables"}
        assert {row["conn_id"] for row in settings["connections"]} == {"todoist"}
        assert not [row for row in settings["connections"] if row.get("conn_password") or row.get("conn_extra")]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, each with its arguments on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", "")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, arguments) for name, arguments in lines]


class TestDockerfile:
    """The file Dockerfile."""

    def test_hadolint(self) -> None:
        """The linter hadolint reports no warnings."""
        command = [str(BIN / "hadolint"), "--failure-threshold", "warning", "--no-color", "Dockerfile"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    def test_code_comes_last(self) -> None:
        """The layers of packages and model come before the code, so that a change of code does not rebuild them."""
        layers = [text if name == "COPY" else name for name, text in instructions() if name in ("COPY", "RUN")]
        assert layers == ["packages.txt .", "RUN", "requirements.txt .", "RUN", "RUN", "--chown=astro:0 . ."]

    def test_the_built_in_model_is_the_default_one(self) -> None:
        """The build arguments name the default model at its pinned commit."""
        defaults = [shlex.split(text)[0] for name, text in instructions() if name == "ARG" and "=" in text]
        arguments = dict(default.split("=") for default in defaults)
        assert (arguments["EMBEDDING_MODEL"], arguments["EMBEDDING_REVISION"]) == (NOMIC, NOMIC_REVISION)
        assert arguments["BAKE_MODEL"] == ""

    def test_the_user_is_not_root(self) -> None:
        """The processes of the image run as the user astro."""
        assert [text for name, text in instructions() if name == "USER"][-1] == "astro"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the image's last layer: a checkout with stray files, filtered by .dockerignore."""
    context = astro_cli.copy_project(tmp_path_factory.mktemp("context"))
    strays = (".env", ".local/data/x.parquet", ".venv/bin/python", ".astro/standalone/airflow.db", "logs/a.log")
    for stray in (*strays, "sql/__marimo__/x"):
        (context / stray).parent.mkdir(parents=True, exist_ok=True)
        (context / stray).write_text("stray")
    (context / "assets/__pycache__").mkdir()
    (context / "assets/__pycache__/asset.pyc").write_text("stray")
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    target = tmp_path_factory.mktemp("image")
    for name in exclude_paths(str(context), patterns):
        if not (context / name).is_symlink() and not (context / name).is_file():
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).rename(target / name)
    return target


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Wait for a condition; fail if the time-out passes."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


IMPORT = """
import json, os, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
import assets.__main__, contexts.__main__, serving.__main__
packages = ("assets", "contexts", "include", "serving", "tips", "local")
print("RESULT", json.dumps({
    "errors": {str(path): error for path, error in bag.import_errors.items()},
    "dags": sorted(bag.dags),
    "from": sorted({str(module.__file__) for name, module in sys.modules.items()
                    if name.split(".")[0] in packages and getattr(module, "__file__", None)}),
}))
"""


class TestImage:
    """The files in the image."""

    def test_content(self, image: Path) -> None:
        """The image has the packages, the SQL and the DAGs, but no tests, secrets or stray files."""
        top = {path.name for path in image.iterdir()}
        assert top - {"Dockerfile", ".dockerignore"} == {  # both are read by Docker, but not copied
            "airflow", "assets", "config", "contexts", "dags", "include", "packages.txt", "pyproject.toml",
            "requirements.lock", "requirements.txt", "serving", "sql", "tips", "LICENSE", "Makefile", "README.md",
        }  # fmt: skip
        assert (image / "dags").is_symlink()
        assert not [path for path in image.rglob("*") if path.is_file() and path.read_bytes() == b"stray"]

    def test_the_image_is_self_contained(self, image: Path, tmp_path: Path) -> None:
        """All DAGs, the service and the commands can be imported from the image's files alone."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.run(
            [sys.executable, "-c", IMPORT],
            cwd=image,
            env={
                **inherited,
                "AIRFLOW_HOME": str(tmp_path),
                "AIRFLOW__CORE__DAGS_FOLDER": str(image / "dags"),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "PYTHONPATH": str(image),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        [result] = [json.loads(line[7:]) for line in process.stdout.splitlines() if line.startswith("RESULT ")]
        assert result["errors"] == {}
        assert result["dags"] == sorted(DAGS)
        assert result["from"]
        assert not [path for path in result["from"] if not path.startswith(str(image))]


MOCKED = """
import json, os, sys
from unittest.mock import patch
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import BaseHook, Connection, Variable

def getenv(key, default=None):
    return os.environ.get(key) or default or f"MOCKED_{key.upper()}_VALUE"

lookups = []
def mocked(kind, value):
    return lambda *args, **_: lookups.append((kind, *map(str, args))) or value

with (
    patch("os.getenv", getenv),
    patch.object(Variable, "get", mocked("variable", "MOCKED_VARIABLE")),
    patch.object(BaseHook, "get_connection", mocked("connection", None)),
    patch.object(Connection, "get", mocked("connection", None)),
):
    bag = DagBag(dag_folder=sys.argv[1])
print("RESULT", json.dumps({
    "errors": {str(path): error for path, error in bag.import_errors.items()},
    "lookups": lookups,
    "dags": {dag.dag_id: [sorted(dag.tags), dag.default_args.get("retries")] for dag in bag.dags.values()},
}))
"""


def test_dags_pass_the_checks_of_the_cli(tmp_path: Path) -> None:
    """With mocks as in `astro dev parse`, every DAG is imported, has tags and two retries.

    The mocked environment, variables and connections are not looked up.
    """
    environment = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere/at/all.db",
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
    }
    process = subprocess.run(
        [sys.executable, "-c", MOCKED, str(ROOT / "dags")], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]
    [result] = [json.loads(line[7:]) for line in process.stdout.splitlines() if line.startswith("RESULT ")]
    assert result["errors"] == {}
    assert result["lookups"] == []
    assert result["dags"].keys() == DAGS
    for tags, retries in result["dags"].values():
        assert tags
        assert retries >= 2


class TestCompose:
    """The file docker-compose.override.yml."""

    @pytest.fixture
    def override(self) -> Any:
        return read("docker-compose.override.yml")

    def test_is_a_compose_file(self, override: Any) -> None:
        """Together with the CLI's own services the file conforms to the Compose specification."""
        image = {"image": "feature-to-prompt/airflow:latest", "networks": ["airflow"]}
        cli_services = ("db-migration", "scheduler", "dag-processor", "api-server", "triggerer")
        services = {name: dict(image) for name in cli_services} | {"postgres": {"image": "postgres:12.6"}}
        for name, service in override["services"].items():
            services[name] = services.get(name, {}) | service
        merged = {**override, "services": services, "networks": {"airflow": {"driver": "bridge"}}}
        parsed = PyCompose.from_yaml(yaml.safe_dump(merged))
        parsed.validate()
        assert parsed.to_spec().services.keys() == services.keys()

    def test_services(self, override: Any) -> None:
        """Images have pinned versions, ports are open to this machine only, and secrets come from .env only."""
        services = override["services"]
        for name in ("context-store", "todoist", "service"):
            service = services[name]
            assert service["env_file"] == ".env"
            assert service["networks"] == ["airflow"]
            assert all(port.startswith("127.0.0.1:") for port in service["ports"])
            assert re.search(r":\d+\.\d+$", service["image"]) or service["pull_policy"] == "never"
            for dependency in service.get("depends_on", {}):
                assert "healthcheck" in services[dependency]
        sources = {mount.split(":")[0] for service in services.values() for mount in service.get("volumes", ())}
        assert {source for source in sources if not source.startswith(".")} == override["volumes"].keys()
        example = (ROOT / ".env.example").read_text()
        assert "@context-store:5432/" in example
        assert "http://todoist:8200" in example
        [todoist] = read("airflow_settings.yaml")["airflow"]["connections"]
        assert (todoist["conn_host"], str(todoist["conn_port"])) == ("todoist", "8200")

    def test_no_sample_accounts_for_the_real_todoist(self) -> None:
        """The local Todoist adds no accounts without TODOIST_API_URL, because runs would call the real Todoist."""
        environment = {name: value for name, value in os.environ.items() if name != "TODOIST_API_URL"}
        process = subprocess.run(
            [sys.executable, "-m", "local.todoist_server"], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert (process.returncode, process.stdout) == (1, "")
        assert "TODOIST_API_URL is not set" in process.stderr

    def test_commands_of_the_containers(self, override: Any, image: Path, server: str, tmp_path: Path) -> None:
        """The commands of `todoist` and `service`, run with the image's files and mounts, serve a first tip."""
        database = postgres.create_database(server, "compose")
        values = astro_cli.variables(filled((ROOT / ".env.example").read_text()))
        image = Path(shutil.copytree(image, tmp_path / "image", symlinks=True))
        astro_cli.copy_project(image, [name for name in astro_cli.tracked() if name.startswith("local/")])
        ports = {"8200": str(free_port()), "8100": str(free_port())}
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            **values,
            "PYTHONPATH": str(image),
            "DATABASE_URL": database,
            "TODOIST_API_URL": f"http://127.0.0.1:{ports['8200']}",
            "USERS": "3",
        }

        @contextmanager
        def container(name: str) -> Iterator[None]:
            service = override["services"][name]
            command = [sys.executable if word == "python" else ports.get(word, word) for word in service["command"]]
            extra = {key: ports.get(value, value) for key, value in service.get("environment", {}).items()}
            process = subprocess.Popen(command, cwd=image, env={**environment, **extra})
            try:
                yield
            finally:
                process.terminate()
                assert process.wait(30) in (0, -15, 143)

        def get(path: str, port: str) -> httpx.Response | None:
            try:
                return httpx.get(f"http://127.0.0.1:{ports[port]}{path}", trust_env=False)
            except httpx.TransportError:
                return None

        with container("todoist"):
            wait_until(lambda: get("/", "8200") is not None)
            with psycopg.connect(database, autocommit=True) as connection:
                wait_until(lambda: connection.execute("SELECT to_regclass('todoist_accounts')").fetchone() != (None,))
                wait_until(lambda: connection.execute("SELECT count(*) FROM todoist_accounts").fetchone() == (3,))
                [user, *_] = [row[0] for row in connection.execute("SELECT user_id FROM users ORDER BY user_id")]
            with container("service"):
                wait_until(lambda: (response := get("/readyz", "8100")) is not None and response.status_code == 200)
                url = f"http://127.0.0.1:{ports['8100']}/v1/users/{user}/tip"
                bearer = {"Authorization": f"Bearer {values['SERVICE_TOKENS']}"}
                tip = httpx.post(url, headers=bearer, trust_env=False, timeout=30).json()
        assert tip["source"] == "inline"
        assert tip["tip"]["title"]
