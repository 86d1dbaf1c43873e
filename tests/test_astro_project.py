"""The repository as an Astro project: the files that the CLI and Docker read, and the image that comes of them."""

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
from local.airflow import ROOT, free_port
from local.dotenv import filled

BIN = Path(sys.executable).parent

# What `astro deployment create --deployment-file` knows (cloud/deployment/inspect/inspect.go of 1.45).
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
"""Astro's machines by name: cores and GiB."""

GIB_A_TASK = {"default": 0.9, "embed": 1.5}
"""What a task of a queue holds at most."""


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


class TestDeployment:
    """astro.yaml"""

    @pytest.fixture
    def deployment(self) -> Any:
        found = read("astro.yaml")
        assert found.keys() == {"deployment"}
        return found["deployment"]

    def test_fields(self, deployment: Any) -> None:
        """Every field is one that the CLI reads, of the type that it reads; what it needs is there."""
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
        """There is the default queue, and the one that `EMBEDDING_QUEUE` names, with no more tasks at once than their
        machines have cores and memory for.
        """
        queues = {queue["name"]: queue for queue in deployment["worker_queues"]}
        variables = {each["key"]: each["value"] for each in deployment["environment_variables"]}
        assert queues.keys() == {"default", variables["EMBEDDING_QUEUE"]}
        for queue in queues.values():
            assert {name: type(value) for name, value in queue.items()} == QUEUE
            assert queue["min_worker_count"] <= queue["max_worker_count"]
            cores, gib = MACHINES[queue["worker_type"]]
            assert queue["worker_concurrency"] <= cores
            assert queue["worker_concurrency"] * GIB_A_TASK[queue["name"]] <= gib - 2  # for the worker itself

    def test_variables(self, deployment: Any) -> None:
        """Variables are texts that our settings and Airflow take; what is secret is marked, and has no value here."""
        listed = deployment["environment_variables"]
        for each in listed:
            assert {name: type(value) for name, value in each.items()} == {
                "is_secret": bool,
                "key": str,
                "value": str,
            }
            assert each["is_secret"] == (each["value"] == "")
        ours = {name.upper() for name in Settings.model_fields} | {"CREDENTIALS_KEYS"}
        keys = [each["key"] for each in listed]
        assert {key for key in keys if not key.startswith("AIRFLOW_")} <= ours
        assert {each["key"] for each in listed if each["is_secret"]} == {
            "AIRFLOW_CONN_CONTEXT_STORE",
            "CREDENTIALS_KEYS",
        }
        assert Settings.model_validate({each["key"].lower(): each["value"] for each in listed if each["key"] in ours})


class TestSecrets:
    """.env.example and the files that are committed"""

    def test_dotenv_is_filled(self) -> None:
        """`make env` puts new secrets in each place, one password in all three; comments stay as they are."""
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
        """`make env` makes a file that only its owner reads, and refuses to replace one."""
        project = astro_cli.copy_project(tmp_path, ["local/dotenv.py", ".env.example"])
        command = [sys.executable, "local/dotenv.py"]
        assert subprocess.run(command, cwd=project, capture_output=True).returncode == 0
        made = (project / ".env").read_text()
        assert (project / ".env").stat().st_mode & 0o077 == 0
        again = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert (again.returncode, again.stdout) == (1, "")
        assert "remove it first" in again.stderr
        assert (project / ".env").read_text() == made

    def test_dotenv_is_not_committed(self) -> None:
        """Neither git nor an image takes .env."""
        ignored = subprocess.run(["git", "check-ignore", ".env", ".astro/standalone/airflow.db"], cwd=ROOT)
        assert ignored.returncode == 0
        assert ".env" not in astro_cli.tracked()

    def test_settings_file_holds_no_secret(self) -> None:
        """airflow_settings.yaml names connections, pools and variables, without any password."""
        text = (ROOT / "airflow_settings.yaml").read_text()
        found = yaml.safe_load(text)["airflow"]
        assert found.keys() == {"connections", "pools", "variables"}
        assert {row["conn_id"] for row in found["connections"]} == {"todoist"}
        assert not [row for row in found["connections"] if row.get("conn_password") or row.get("conn_extra")]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with its arguments on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", "")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, rest) for name, rest in lines]


class TestDockerfile:
    def test_hadolint(self) -> None:
        """hadolint has nothing to warn of."""
        command = [str(BIN / "hadolint"), "--failure-threshold", "warning", "--no-color", "Dockerfile"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    def test_code_comes_last(self) -> None:
        """Packages and the model are layers before the project's code: a change of code repeats none of them."""
        found = [rest if name == "COPY" else name for name, rest in instructions() if name in ("COPY", "RUN")]
        assert found == ["packages.txt .", "RUN", "requirements.txt .", "RUN", "RUN", "--chown=astro:0 . ."]

    def test_the_model_that_is_baked_in_is_the_one_that_is_used(self) -> None:
        """The build arguments name the default model at its pinned commit."""
        given = [shlex.split(rest)[0] for name, rest in instructions() if name == "ARG" and "=" in rest]
        arguments = dict(each.split("=") for each in given)
        assert (arguments["EMBEDDING_MODEL"], arguments["EMBEDDING_REVISION"]) == (NOMIC, NOMIC_REVISION)
        assert arguments["BAKE_MODEL"] == ""

    def test_the_user_is_not_root(self) -> None:
        """What runs in the image runs as astro."""
        assert [rest for name, rest in instructions() if name == "USER"][-1] == "astro"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file tree of the image's last layer: what .dockerignore leaves of a checkout with all that lies about."""
    context = astro_cli.copy_project(tmp_path_factory.mktemp("context"))
    strays = (".env", ".local/data/x.parquet", ".venv/bin/python", ".astro/standalone/airflow.db", "logs/a.log")
    for stray in (*strays, "sql/__marimo__/x"):
        (context / stray).parent.mkdir(parents=True, exist_ok=True)
        (context / stray).write_text("stray")
    (context / "assets/__pycache__").mkdir()
    (context / "assets/__pycache__/asset.pyc").write_text("stray")
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    made = tmp_path_factory.mktemp("image")
    for name in exclude_paths(str(context), patterns):
        if not (context / name).is_symlink() and not (context / name).is_file():
            continue
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).rename(made / name)
    return made


def until(happens: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something to be so; fails when it is not in time."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


IMPORT = """
import json, os, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
import assets.__main__, contexts.migrate, serving.__main__
ours = ("assets", "contexts", "include", "serving", "local")
print("RESULT", json.dumps({
    "errors": {str(path): error for path, error in bag.import_errors.items()},
    "dags": sorted(bag.dags),
    "from": sorted({str(module.__file__) for name, module in sys.modules.items()
                    if name.split(".")[0] in ours and getattr(module, "__file__", None)}),
}))
"""


class TestImage:
    def test_holds_what_runs_and_no_more(self, image: Path) -> None:
        """The image has the packages, the SQL and the DAGs; no tests, no secrets, nothing that lay about."""
        top = {path.name for path in image.iterdir()}
        assert top - {"Dockerfile", ".dockerignore"} == {  # which the engine reads, and leaves out itself
            "airflow", "assets", "contexts", "dags", "include", "packages.txt", "pyproject.toml", "requirements.lock",
            "requirements.txt", "serving", "sql", "Makefile", "README.md",
        }  # fmt: skip
        assert (image / "dags").is_symlink()
        assert not [path for path in image.rglob("*") if path.is_file() and path.read_bytes() == b"stray"]

    def test_every_dag_is_imported_from_it_alone(self, image: Path, tmp_path: Path) -> None:
        """From the image's files alone all DAGs are parsed, and the service and the commands can be imported."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
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
        assert done.returncode == 0, done.stderr[-3000:]
        [found] = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        assert found["errors"] == {}
        assert found["dags"] == sorted(GRAPH.steps)
        assert found["from"]
        assert not [path for path in found["from"] if not path.startswith(str(image))]


MOCKED = """
import json, os, sys
from unittest.mock import patch
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import BaseHook, Connection, Variable

def getenv(key, default=None):
    return os.environ.get(key) or default or f"MOCKED_{key.upper()}_VALUE"

asked = []
def mocked(kind, value):
    return lambda *args, **_: asked.append((kind, *map(str, args))) or value

with (
    patch("os.getenv", getenv),
    patch.object(Variable, "get", mocked("variable", "MOCKED_VARIABLE")),
    patch.object(BaseHook, "get_connection", mocked("connection", None)),
    patch.object(Connection, "get", mocked("connection", None)),
):
    bag = DagBag(dag_folder=sys.argv[1])
print("RESULT", json.dumps({
    "errors": {str(path): error for path, error in bag.import_errors.items()},
    "asked": asked,
    "dags": {dag.dag_id: [sorted(dag.tags), dag.default_args.get("retries")] for dag in bag.dags.values()},
}))
"""


def test_dags_are_sound_by_the_clis_measure(tmp_path: Path) -> None:
    """With environment, variables and connections mocked, as by `astro dev parse`, every DAG is imported, asks for
    none of them, has tags, and tries tasks again twice or more.
    """
    environment = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere/at/all.db",
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [sys.executable, "-c", MOCKED, str(ROOT / "dags")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [found] = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert found["errors"] == {}
    assert found["asked"] == []
    assert found["dags"].keys() == GRAPH.steps.keys()
    for tags, retries in found["dags"].values():
        assert tags
        assert retries >= 2


class TestCompose:
    """docker-compose.override.yml"""

    @pytest.fixture
    def override(self) -> Any:
        return read("docker-compose.override.yml")

    def test_is_a_compose_file(self, override: Any) -> None:
        """With the services that the CLI starts itself it meets the Compose specification."""
        image = {"image": "feature-to-prompt/airflow:latest", "networks": ["airflow"]}
        theirs = ("db-migration", "scheduler", "dag-processor", "api-server", "triggerer")
        services = {name: dict(image) for name in theirs} | {"postgres": {"image": "postgres:12.6"}}
        for name, service in override["services"].items():
            services[name] = services.get(name, {}) | service
        whole = {**override, "services": services, "networks": {"airflow": {"driver": "bridge"}}}
        parsed = PyCompose.from_yaml(yaml.safe_dump(whole))
        parsed.validate()
        assert parsed.to_spec().services.keys() == services.keys()

    def test_what_stands_in_it(self, override: Any) -> None:
        """Images have versions, ports are open to this machine only, secrets come from .env alone."""
        services = override["services"]
        for name in ("context-store", "todoist", "service"):
            own = services[name]
            assert own["env_file"] == ".env"
            assert own["networks"] == ["airflow"]
            assert all(port.startswith("127.0.0.1:") for port in own["ports"])
            assert re.search(r":\d+\.\d+$", own["image"]) or own["pull_policy"] == "never"
            for needed in own.get("depends_on", {}):
                assert "healthcheck" in services[needed]
        volumes = {each.split(":")[0] for own in services.values() for each in own.get("volumes", ())}
        assert {each for each in volumes if not each.startswith(".")} == override["volumes"].keys()
        example = (ROOT / ".env.example").read_text()
        assert "@context-store:5432/" in example
        assert "http://todoist:8200" in example
        [todoist] = read("airflow_settings.yaml")["airflow"]["connections"]
        assert (todoist["conn_host"], str(todoist["conn_port"])) == ("todoist", "8200")

    def test_the_stand_in_is_no_stand_in_for_the_real_one(self) -> None:
        """Where nights would look for sample users at Todoist itself, the local Todoist gives nobody an account."""
        environment = {name: value for name, value in os.environ.items() if name != "TODOIST_API_URL"}
        done = subprocess.run(
            [sys.executable, "-m", "local.todoist"], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "TODOIST_API_URL is not set" in done.stderr

    def test_the_containers_commands_work_together(
        self, override: Any, image: Path, server: str, tmp_path: Path
    ) -> None:
        """The commands of `todoist` and `service`, run with the image's files and the mounts, serve a first tip."""
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
            own = override["services"][name]
            command = [sys.executable if word == "python" else ports.get(word, word) for word in own["command"]]
            extra = {key: ports.get(value, value) for key, value in own.get("environment", {}).items()}
            process = subprocess.Popen(command, cwd=image, env={**environment, **extra})
            try:
                yield
            finally:
                process.terminate()
                assert process.wait(30) in (0, -15, 143)

        def answer(path: str, port: str) -> httpx.Response | None:
            try:
                return httpx.get(f"http://127.0.0.1:{ports[port]}{path}", trust_env=False)
            except httpx.TransportError:
                return None

        with container("todoist"):
            until(lambda: answer("/", "8200") is not None)
            with psycopg.connect(database, autocommit=True) as connection:
                until(lambda: connection.execute("SELECT to_regclass('todoist_accounts')").fetchone() != (None,))
                until(lambda: connection.execute("SELECT count(*) FROM todoist_accounts").fetchone() == (3,))
                [user, *_] = [row[0] for row in connection.execute("SELECT user_id FROM users ORDER BY user_id")]
            with container("service"):
                until(lambda: (found := answer("/readyz", "8100")) is not None and found.status_code == 200)
                url = f"http://127.0.0.1:{ports['8100']}/v1/users/{user}/tip"
                bearer = {"Authorization": f"Bearer {values['SERVICE_TOKENS']}"}
                tip = httpx.post(url, headers=bearer, trust_env=False, timeout=30).json()
        assert tip["source"] == "inline"
        assert tip["tip"]["title"]
