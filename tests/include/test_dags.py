"""The DAGs as parsed and run by Airflow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest
import yaml
from interpreter import Interpreter, results, running_interpreter
from world import NOON, World

from assets.definitions import GRAPH
from assets.engine.hashing import shard_of
from contexts.postgres.sql import connect
from contexts.settings import Settings, SettingsError, read_settings
from include.pods import embedding_executor_config
from local import postgres
from local.clock import utc_now
from local.llm import LocalLLM, running_llm
from local.paths import ROOT
from local.played_requests import play_requests

PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
def names(condition):
    if hasattr(condition, "name"):
        return [condition.name]
    return [name for part in condition.objects for name in names(part)]
bag = DagBag(dag_folder=sys.argv[1])
print("RESULT", json.dumps({
    "errors": {str(k): v for k, v in bag.import_errors.items()},
    "heavy": [name for name in ("torch", "sentence_transformers", "transformers", "pydantic_ai", "scipy", "duckdb")
              if name in sys.modules],
    "dags": {dag.dag_id: {
        "tasks": sorted(dag.task_ids), "tags": sorted(dag.tags), "runs": dag.max_active_runs,
        "retries": min(task.retries for task in dag.tasks), "owners": sorted({task.owner for task in dag.tasks}),
        "documented": bool(dag.doc_md) and all(task.doc_md for task in dag.tasks),
        "has_deadline": bool(dag.deadline),
        "run_types": sorted(str(run_type.value) for run_type in dag.allowed_run_types),
        "queues": {task.task_id: task.queue for task in dag.tasks},
        "policies": sorted({type(task.retry_policy).__name__ for task in dag.tasks}),
        "inlets": sorted(asset.name for task in dag.tasks for asset in task.inlets),
        "outlets": sorted({asset.name for task in dag.tasks for asset in task.outlets}),
        "publishing": sorted({task.task_id for task in dag.tasks if task.outlets}),
        "schedule": dag.schedule if dag.schedule is None or isinstance(dag.schedule, str) else
            sorted(names(dag.schedule)),
    } for dag in bag.dags.values()},
}))
"""

RUN = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
for dag_id in sys.argv[3:]:
    dag = bag.dags[dag_id]
    dag.deadline = None  # `dag.test()` of Airflow 3.3 cannot store a deadline: it finds no row for its definition
    run = dag.test(run_conf=json.loads(sys.argv[2]))
    states = {f"{task.task_id}[{task.map_index}]": str(task.state) for task in run.get_task_instances()}
    print("RESULT", json.dumps([dag_id, str(run.state), states]))
"""


NOTIFY = """
import sys
from airflow.dag_processing.dagbag import DagBag
from include.alerts import report_late
dag = DagBag(dag_folder=sys.argv[1]).dags["embed_tasks"]
dag.on_failure_callback({"dag": dag, "run_id": "r1"})  # as the processor of DAGs does
report_late("embed_tasks", 60, context={"run_id": "r1"})
"""

POD = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.serialization.serialized_objects import DagSerialization
from kubernetes.client import ApiClient
bag = DagBag(dag_folder=sys.argv[1])
assert not bag.import_errors, bag.import_errors
dags = {dag_id: DagSerialization.from_dict(DagSerialization.to_dict(dag)) for dag_id, dag in bag.dags.items()}
configured = [(dag_id, task) for dag_id, dag in dags.items() for task in dag.tasks
              if (task.partial_kwargs if task.is_mapped else vars(task)).get("executor_config")]
for dag_id, task in configured:
    pod = PodGenerator.construct_pod(
        dag_id=dag_id, task_id=task.task_id, pod_id="p", try_number=1, kube_image="airflow:1", date=None,
        args=["run"], pod_override_object=task.partial_kwargs["executor_config"]["pod_override"],
        base_worker_pod=PodGenerator.deserialize_model_file(sys.argv[2]), namespace="n", scheduler_job_id="1",
    )
    print("RESULT", json.dumps([dag_id, task.task_id, ApiClient().sanitize_for_serialization(pod)]))
"""

BASE_POD = """
apiVersion: v1
kind: Pod
metadata: {name: worker}
spec:
  containers:
    - name: base
      image: base:1
      env: [{name: DATA_ROOT, value: "s3://bucket"}]
      resources: {requests: {cpu: "1"}}
"""


DAGS = str(ROOT / "airflow" / "dags")


def python(code: str, *arguments: str, environment: dict[str, str]) -> list[Any]:
    """Run code in a new interpreter, and return its results."""
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return results(process.stdout)


def airflow_environment(home: Path) -> dict[str, str]:
    """Return the variables of an Airflow with its own folder and without connections."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": DAGS,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The DAGs as a new interpreter parses them."""
    return python(PARSE, DAGS, environment=airflow_environment(tmp_path_factory.mktemp("airflow")))[0]


@dataclass(frozen=True)
class DagRunner:
    """An interpreter that parses and runs DAGs.

    home: the folder of Airflow. metadata_url: of its database.
    """

    interpreter: Interpreter
    home: Path
    metadata_url: str

    def parse(self, **environment: str) -> Any:
        """The DAGs with these variables."""
        return self.interpreter.run(PARSE, DAGS, environment=environment)[0]

    def run(self, *dag_ids: str, environment: dict[str, str], **conf: Any) -> list[Any]:
        """Run DAGs one after the other; returns the name of each DAG, its state and the states of its tasks."""
        return self.interpreter.run(RUN, DAGS, json.dumps(conf), *dag_ids, environment=environment)


@pytest.fixture(scope="module")
def airflow(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagRunner]:
    """One interpreter for all tests: Airflow's first run in a process takes ten times as long as the next."""
    home, metadata_url = tmp_path_factory.mktemp("airflow"), postgres.create_database(server, "airflow")
    variables = {
        **os.environ,
        **airflow_environment(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.airflow_url(metadata_url),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "airflow", ROOT / "tests"))),
    }
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=variables, check=True, capture_output=True)
    with running_interpreter(variables, tmp_path_factory.mktemp("output")) as interpreter:
        yield DagRunner(interpreter, home, metadata_url)


def test_parsing_needs_no_services(parsed: Any) -> None:
    """The DAGs can be parsed without a database or connections, and without importing the model's libraries."""
    assert parsed["errors"] == {}
    assert parsed["heavy"] == []


PRELOAD = """
import json, sys, threading
sys.argv = ["airflow", sys.argv[1]]
import airflow_local_settings
print("RESULT", json.dumps({
    "loaded": [name for name in ("assets.steps", "duckdb", "scipy.cluster", "torch") if name in sys.modules],
    "threads": threading.active_count(), "names": airflow_local_settings.__all__,
}))
"""


@pytest.mark.parametrize("command", ["scheduler", "celery", "dag-processor"])
def test_imports_before_the_fork(command: str) -> None:
    """Processes that fork tasks have imported the pipeline and its libraries, but not torch, and run no thread."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "airflow" / "config")])
    [forking] = python(PRELOAD, command, environment={"PYTHONPATH": path})
    assert forking == {"loaded": ["assets.steps", "duckdb", "scipy.cluster"], "threads": 1, "names": []}


def test_other_processes_of_airflow_import_nothing() -> None:
    """The api-server, the triggerer and commands start without the pipeline's libraries."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "airflow" / "config")])
    [other] = python(PRELOAD, "api-server", environment={"PYTHONPATH": path})
    assert other["loaded"] == []


def test_schedules_and_outlets(parsed: Any) -> None:
    """Each DAG has the schedule and the published assets of the design."""
    table = {dag_id: (dag["schedule"], dag["outlets"]) for dag_id, dag in parsed["dags"].items()}
    assert table == {
        "fetch_signals": (Settings().materialize_schedule, ["signals_observed", "tip_reactions", "todoist_tasks"]),
        "embed_tasks": (["todoist_tasks"], ["task_embeddings"]),
        "cluster_tasks": (["task_embeddings"], ["task_clusters"]),
        "compute_context": (
            ["signals_observed", "task_clusters"],
            ["context_store", "contexts_observed", "user_contexts"],
        ),
        "write_tips": (None, ["tip_candidates"]),
        "housekeeping": ("0 4 * * 0", []),
    }
    assert {tuple(parsed["dags"][step]["publishing"]) for step in GRAPH.steps} == {("collect", "plan")}


def test_consumers(parsed: Any) -> None:
    """Airflow's UI shows each step as a consumer of the assets of other steps that it reads."""
    assert {dag_id: dag["inlets"] for dag_id, dag in parsed["dags"].items()} == {
        "fetch_signals": [],
        "embed_tasks": ["todoist_tasks"],
        "cluster_tasks": ["task_embeddings", "todoist_tasks"],
        "compute_context": ["task_clusters", "tip_reactions", "todoist_tasks"],
        "write_tips": ["context_store", "task_clusters", "tip_reactions", "todoist_tasks"],
        "housekeeping": [],
    }


def test_tips_are_written_after_contexts(airflow: DagRunner) -> None:
    """With LLM_MODEL every observation of contexts triggers `write_tips`, also with TIPS_AHEAD=off: for batches."""
    for more in {}, {"TIPS_AHEAD": "off"}:
        dags = airflow.parse(LLM_MODEL="openai:gpt-5-mini", **more)
        assert dags["dags"]["write_tips"]["schedule"] == ["contexts_observed"]


def test_conventions_of_every_dag(parsed: Any) -> None:
    """Each DAG has one run at a time, retries by our policy, an owner, tags and docs; each step has a deadline."""
    for dag_id, dag in parsed["dags"].items():
        assert dag["runs"] == 1
        assert dag["retries"] >= 2
        assert dag["owners"] == ["contexts"]
        assert dag["tags"] == ["feature-to-prompt"]
        assert dag["documented"]
        assert dag["has_deadline"] == (dag_id in GRAPH.steps)
        assert dag["policies"] == ["HonourRetryAfter"]


def test_backfills_are_refused(parsed: Any) -> None:
    """Airflow refuses backfills of every DAG: each of their runs would fetch the present again."""
    assert parsed["dags"]["housekeeping"]["run_types"] == ["manual", "scheduled"]
    for dag_id in GRAPH.steps:
        dag, trigger = parsed["dags"][dag_id], "scheduled" if dag_id == "fetch_signals" else "asset_triggered"
        assert dag["run_types"] == sorted([trigger, "manual", "operator_triggered", "asset_materialization"])


def test_embedding_queue(parsed: Any, airflow: DagRunner) -> None:
    """EMBEDDING_QUEUE is the queue of the shards of `embed_tasks`, and of a task that deletes its workers' logs."""
    with_queue = airflow.parse(EMBEDDING_QUEUE="embed")
    assert with_queue["errors"] == {}
    assert with_queue["dags"]["housekeeping"]["queues"].items() >= {
        ("task_logs", "default"),
        ("embedding_task_logs", "embed"),
    }
    for dag_id in GRAPH.steps:
        dag = with_queue["dags"][dag_id]
        default_queues = parsed["dags"][dag_id]["queues"]
        assert set(default_queues.values()) == {"default"}
        assert dag["queues"] == default_queues | ({"compute": "embed"} if dag_id == "embed_tasks" else {})


def test_the_logs_of_another_default_queue(airflow: DagRunner) -> None:
    """The task that deletes logs is in the queue that Airflow's setting names, so that a worker takes it.

    The name of the queue can be one that no task may have.
    """
    result = airflow.parse(AIRFLOW__OPERATORS__DEFAULT_QUEUE="https://queues/main")
    assert result["errors"] == {}
    queues = result["dags"]["housekeeping"]["queues"]
    assert {name: queue for name, queue in queues.items() if "logs" in name} == {"task_logs": "https://queues/main"}


def test_pods_that_embed(airflow: DagRunner, tmp_path: Path) -> None:
    """With EMBEDDING_EXECUTOR_CONFIG the pods of `embed_tasks` have its GPU, memory and nodes; other pods do not."""
    limits = {"nvidia.com/gpu": "1", "memory": "8Gi"}
    override = {
        "spec": {
            "containers": [{"name": "base", "resources": {"limits": limits}}],
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        }
    }
    template = tmp_path / "pod.yaml"
    template.write_text(BASE_POD)
    environment = {"EMBEDDING_EXECUTOR_CONFIG": json.dumps({"pod_override": override})}
    [[dag_id, task_id, pod]] = airflow.interpreter.run(POD, DAGS, str(template), environment=environment)
    assert (dag_id, task_id) == ("embed_tasks", "compute")
    [container] = pod["spec"]["containers"]
    assert container["resources"]["limits"] == limits
    assert {"name": "DATA_ROOT", "value": "s3://bucket"} in container["env"]
    assert pod["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert pod["spec"]["tolerations"] == override["spec"]["tolerations"]


def test_the_pod_of_the_page_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/operations.md has blocks of valid YAML, and an EMBEDDING_EXECUTOR_CONFIG that is a pod with a GPU."""
    page = (ROOT / "docs" / "operations.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    [[variable]] = [block for block in blocks if isinstance(block, list)]
    monkeypatch.setenv(variable["name"], variable["value"])
    pod = embedding_executor_config(read_settings(Settings))["pod_override"]
    assert pod.spec.containers[0].resources.limits == {"nvidia.com/gpu": "1", "memory": "16Gi"}
    assert {block["executor"] for block in blocks if isinstance(block, dict)} == {"CeleryExecutor"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{pod: 1}", "Invalid JSON"),
        ('{"KubernetesExecutor": {}}', "write an object with one key"),
        (
            '{"pod_override": {"spec": {"node_selector": {"a": "b"}, "containers": []}}}',
            "no pod_override.spec.node_sel",
        ),
        (
            '{"pod_override": {"spec": {"containers": [{"name": "base", "resources": {"limit": {"cpu": "1"}}}]}}}',
            "no pod_override.spec.containers[0].resources.limit.",
        ),
        ('{"pod_override": {"spec": {"containers": [{"name": "main"}]}}}', "the first container is named 'main'"),
        ('{"pod_override": {"spec": {"containers": [{}]}}}', "is no pod"),
    ],
)
def test_a_wrong_pod_is_refused(config: str, message: str) -> None:
    """A wrong EMBEDDING_EXECUTOR_CONFIG is refused with the place of the fault."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SettingsError) as caught:
        patch.setenv("EMBEDDING_EXECUTOR_CONFIG", config)
        embedding_executor_config(read_settings(Settings))
    assert str(caught.value).startswith("EMBEDDING_EXECUTOR_CONFIG: ")
    assert message in str(caught.value)


def test_an_invalid_setting_is_an_import_error(airflow: DagRunner) -> None:
    """An invalid setting is shown as an import error with its name."""
    result = airflow.parse(MATERIALIZE_SCHEDULE="every night")
    assert "MATERIALIZE_SCHEDULE" in str(result["errors"])


def test_there_is_no_package_named_airflow() -> None:
    """The folder airflow/ has no __init__.py, which would hide Apache Airflow itself."""
    assert not list((ROOT / "airflow").rglob("__init__.py"))


@pytest.fixture
def environment(world: World, database_url: str, tiny_nomic: Path) -> dict[str, str]:
    """The variables of tasks with connections to the world."""
    return {
        "AIRFLOW_CONN_CONTEXT_STORE": database_url,
        "AIRFLOW_CONN_TODOIST": world.client.base_url,
        "DATA_ROOT": str(world.root),
        "N_SHARDS": str(world.n_shards),
        "CREDENTIALS_KEYS": world.key,
        "EMBEDDING_MODEL": str(tiny_nomic),
        "EMBEDDING_DIM": "32",
        "EMBEDDING_DEVICE": "cpu",
    }


def test_each_dag_runs(world: World, account: Any, airflow: DagRunner, environment: dict[str, str]) -> None:
    """All five DAGs, run in order, bring a user from Todoist to context_store and to tips written ahead.

    So little work is done by `plan`, which publishes what changed. A run without changes publishes its observation.
    """
    world.add("ann", account("call the dentist", "buy milk"))
    play_requests(world.connection, ["ann"], utc_now())
    with running_llm(LocalLLM()) as url:
        llm = {
            "LLM_MODEL": "openai-chat:local",
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": "none",
            "MATERIALIZE_SCHEDULE": f"0 {(utc_now().hour + 12) % 24} * * *",
        }
        runs = airflow.run(*GRAPH.steps, environment=environment | llm)
    assert {dag_id: state for dag_id, state, _ in runs} == dict.fromkeys(GRAPH.steps, "success")
    for dag_id, _, tasks in runs:
        assert tasks == {"plan[-1]": "success"} | skipped_after_plan(dag_id)
    assert "call the dentist" in world.stored()["ann"]["context_json"]
    [(origin, tips)] = world.connection.execute("SELECT origin, tips FROM candidate_sets").fetchall()
    assert origin == "ahead"
    counted = "SELECT counts -> 'tips_written' FROM asset_runs WHERE asset = 'tip_candidates'"
    assert world.connection.execute(counted).fetchone() == (1,)
    assert any("call the dentist" in tip or "buy milk" in tip for tip in tips)
    with connect(airflow.metadata_url) as metadata:
        events = "DELETE FROM asset_event USING asset WHERE asset.id = asset_id RETURNING name, source_task_id"
        published = {*GRAPH.assets, "signals_observed", "contexts_observed"}
        assert {(name, "plan") for name in published} <= set(metadata.execute(events))
        again = airflow.run("fetch_signals", "embed_tasks", environment=environment)
        assert again == [[step, "success", runs[number][2]] for number, step in enumerate(list(GRAPH.steps)[:2])]
        assert metadata.execute(events).fetchall() == [("signals_observed", "plan")]


def skipped_after_plan(dag_id: str) -> dict[str, str]:
    """Return the states of the tasks after `plan` in a run whose work `plan` has done."""
    names = ["compute", "collect", "every_shard", *(["refusals"] if dag_id == "fetch_signals" else [])]
    return {f"{name}[-1]": "skipped" for name in names}


def test_groups_for_embedding_workers(
    world: World, account: Any, airflow: DagRunner, environment: dict[str, str]
) -> None:
    """If shards that embed have a queue of their own, no other task does their work, however small it is."""
    world.add("ann", account("call the dentist"))
    queue = environment | {"EMBEDDING_QUEUE": "embed"}
    airflow.run("fetch_signals", environment=queue)
    [[_, state, tasks]] = airflow.run("embed_tasks", environment=queue)
    assert (state, tasks["compute[0]"], tasks["collect[-1]"]) == ("success", "success", "success")


def test_parameters_of_a_manual_run(
    world: World, account: Any, airflow: DagRunner, environment: dict[str, str]
) -> None:
    """The parameters user, shards, select and force restrict a manual run; an unknown name fails it."""
    for user in ("ann", "cem"):  # in shard 0 and in shard 1
        world.add(user, account("call the dentist"))
    world.night()
    n_calls = len(world.todoist.calls)
    [[_, state, tasks]] = airflow.run("fetch_signals", environment=environment, user="ann")
    assert state == "success"
    assert [call.user for call in world.todoist.calls[n_calls:]] == ["ann"]
    airflow.run("embed_tasks", environment=environment)
    forced = {"force": True, "shards": "1", "select": "task_clusters"}
    [[_, state, tasks]] = airflow.run("cluster_tasks", environment=environment, **forced)
    assert state == "success"
    clustered = "SELECT n_shards_run, n_users_computed FROM asset_runs WHERE asset = 'task_clusters'"
    assert world.connection.execute(f"{clustered} ORDER BY started_at DESC LIMIT 1").fetchone() == (1, 1)
    for wrong in {"select": "task_embedings"}, {"users": "ann"}:
        [[_, state, tasks]] = airflow.run("embed_tasks", environment=environment, **wrong)
        assert (state, tasks["plan[-1]"]) == ("failed", "failed")
    without_plan = "SELECT count(*) FROM step_runs WHERE finished_at IS NULL AND planned = '{}'"
    assert world.connection.execute(without_plan).fetchone() == (2,)


def test_a_failed_shard_does_not_stop_the_others(
    world: World, account: Any, airflow: DagRunner, environment: dict[str, str]
) -> None:
    """An unreadable shard fails its group and the run, but the other shard of the group is fetched and published."""
    for number in range(6):
        world.add(f"user-{number}", account("call the dentist"))
    world.night()
    path = world.root / "todoist_tasks" / "shard=0001" / "data.parquet"
    path.write_bytes(path.read_bytes()[:100])
    [[_, state, tasks]] = airflow.run("fetch_signals", environment=environment | {"TASK_SLOTS": "1"})
    assert state == "failed"
    assert (tasks["compute[0]"], tasks["every_shard[-1]"]) == ("failed", "upstream_failed")
    assert tasks["collect[-1]"] == "success"


def test_a_try_of_the_plan_is_the_first_try(
    world: World, account: Any, airflow: DagRunner, environment: dict[str, str]
) -> None:
    """A shard that fails while `plan` runs it is tried again twice, after the delay: three times altogether."""
    world.add("ann", account("call the dentist"))  # in shard 0
    folder = world.root / "todoist_tasks" / "shard=0000"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(world.root / "nowhere")
    [[_, state, tasks]] = airflow.run("fetch_signals", environment=environment | {"RETRY_DELAY": "00:00:00"})
    assert (state, tasks["plan[-1]"], tasks["compute[0]"]) == ("failed", "success", "failed")
    assert len(world.todoist.calls) == 3


def test_a_retry_runs_the_shards_that_failed(
    world: World, account: Any, airflow: DagRunner, environment: dict[str, str], tmp_path: Path
) -> None:
    """The retry of a group runs the shard that failed, and the run counts the results of all its tries."""
    users = [f"user-{number}" for number in range(6)]
    for user in users:
        world.add(user, account("call the dentist"))
    broken = [user for user in users if shard_of(user, world.n_shards) == 1]
    folder, target = world.root / "todoist_tasks" / "shard=0001", tmp_path / "elsewhere"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(target)  # to no folder yet, so nothing can be written

    def repair() -> None:
        while n_calls(broken[0]) < 2:
            sleep(0.01)
        target.mkdir()

    def n_calls(user: str) -> int:
        return sum(call.user == user for call in world.todoist.calls)

    repairing = Thread(target=repair, daemon=True)
    repairing.start()
    patient = environment | {"TASK_SLOTS": "1", "RETRY_DELAY": "00:00:00"}
    [[_, state, tasks]] = airflow.run("fetch_signals", environment=patient)
    assert (state, tasks["compute[0]"]) == ("success", "success")
    assert {user: n_calls(user) for user in users if user not in broken} == {
        user: 1 for user in users if user not in broken
    }
    runs = "SELECT asset, n_shards_run, n_users_computed FROM asset_runs ORDER BY asset"
    assert world.connection.execute(runs).fetchall() == [("tip_reactions", 2, 6), ("todoist_tasks", 2, 6)]


def test_notifications(airflow: DagRunner, tmp_path: Path) -> None:
    """A run that fails, and one that is late, notify through ALERT_NOTIFIER with what happened."""
    told = tmp_path / "told"
    notifying = {
        "ALERT_NOTIFIER": "file_notifier.FileNotifier",
        "ALERT_ARGUMENTS": json.dumps({"path": str(told), "text": "{message}"}),
    }
    airflow.interpreter.run(NOTIFY, DAGS, environment=notifying)
    failed, late = told.read_text().splitlines()
    assert failed.startswith("A run of embed_tasks failed")
    assert late.startswith("embed_tasks has not finished in 60 minutes")
    assert failed.endswith("[r1]")
    assert late.endswith("[r1]")


def test_a_wrong_notifier_stops_no_dag(airflow: DagRunner) -> None:
    """A notifier that does not exist is no import error, and the DAGs are those without one."""
    result = airflow.parse(ALERT_NOTIFIER="nowhere.Notifier")
    assert result["errors"] == {}
    assert set(result["dags"]) == {*GRAPH.steps, "housekeeping"}


@pytest.mark.parametrize("n_slots", ["1", "4"])
def test_an_outage_fails_the_run_at_its_end(
    world: World, account: Any, airflow: DagRunner, environment: dict[str, str], n_slots: str
) -> None:
    """If Todoist refuses most accounts, the others are published before the run fails, and nobody is disconnected."""
    for number in range(6):
        world.add(f"user-{number}", account("call the dentist"))
    for number in range(4):
        world.todoist.revoke(f"user-{number}")
    pending = "SELECT count(*) FROM todoist_accounts WHERE NOT connected OR pending_refused_at IS NOT NULL"
    slots = environment | {"TASK_SLOTS": n_slots}
    [[_, state, tasks]] = airflow.run("fetch_signals", environment=slots)
    assert (state, tasks["refusals[-1]"], tasks["collect[-1]"]) == ("failed", "failed", "success")
    assert max(Counter(call.user for call in world.todoist.calls).values()) == 1
    assert world.connection.execute(pending).fetchone() == (0,)
    for number in range(4):
        world.accounts.set_active(f"user-{number}", active=number == 0)
    [[_, state, tasks]] = airflow.run("fetch_signals", environment=environment)
    assert (state, tasks["refusals[-1]"]) == ("success", "skipped")
    failures = "SELECT count(*) FROM todoist_accounts WHERE auth_failures = 1 AND pending_refused_at IS NULL"
    assert world.connection.execute(failures).fetchone() == (1,)


def test_housekeeping(world: World, account: Any, airflow: DagRunner, environment: dict[str, str]) -> None:
    """Old runs, tasks, events, logs and runs of the pipeline are deleted, new ones stay, and no archive is left.

    Airflow's tables are reached through the connection `airflow_metadata`; without it they are left alone.
    """
    world.add("ann", account("call the dentist"))
    world.night(NOON - timedelta(days=500))
    world.night(utc_now())
    is_old = "SELECT count(*) FILTER (WHERE old), count(*) FILTER (WHERE NOT old)"
    runs = f"{is_old} FROM (SELECT started_at < now() - INTERVAL '400 days' AS old FROM asset_runs)"
    assert world.connection.execute(runs).fetchone() == (len(GRAPH.assets), len(GRAPH.assets))
    logs = airflow.home / "logs" / "dag_id=x"
    for name, n_days in (("old.log", 31), ("new.log", 29)):
        path = logs / name.removesuffix(".log") / name
        path.parent.mkdir(parents=True)
        path.write_text("a line\n")
        at = (utc_now() - timedelta(days=n_days)).timestamp()
        os.utime(path, (at, at))
    airflow.run("fetch_signals", environment=environment)
    [[_, state, tasks]] = airflow.run("housekeeping", environment=environment)
    assert (state, tasks["airflow_metadata[-1]"]) == ("success", "skipped")
    assert [path.name for path in logs.rglob("*")] == ["new", "new.log"]
    assert world.connection.execute(runs).fetchone() == (0, len(GRAPH.assets) + 2)
    with connect(airflow.metadata_url) as metadata:
        ages = {
            "asset_event": "timestamp", "dag_run": "start_date", "log": "dttm", "task_instance": "start_date",
            "xcom": "timestamp",
        }  # fmt: skip
        for table, column in ages.items():
            metadata.execute(f"UPDATE {table} SET {column} = {column} - INTERVAL '31 days'")
        [(n_dags,)] = metadata.execute("SELECT count(*) FROM dag")
        connection = {"AIRFLOW_CONN_AIRFLOW_METADATA": airflow.metadata_url}
        [[_, state, tasks]] = airflow.run("housekeeping", environment=environment | connection)
        assert (state, tasks["airflow_metadata[-1]"]) == ("success", "success")
        left = {table: metadata.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ages}
        assert left["dag_run"] == (1,)
        assert left["task_instance"] == (3,)
        assert left["asset_event"] == (0,)
        assert metadata.execute("SELECT count(*) FROM dag").fetchone() == (n_dags,)
        assert metadata.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE '%deleted%'").fetchall() == []
