"""Several processes of the service behind one port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from switchable import SwitchableApp
from world import World

from contexts.postgres.sql import connect
from contexts.todoist.client import Todoist
from contexts.todoist.credentials import new_key
from local.paths import ROOT
from local.service import Service, running_service
from local.todoist import LocalTodoist

N_PROCESSES = 2
TIMEOUT_S = 60


class Group:
    """A running group, called over connections of one request each, so that every process has its turn."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.process = psutil.Process(service.pid)

    def tip(self) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.service.token}"}
        return httpx.post(f"{self.service.url}/v1/users/ann/tip", headers=headers, timeout=30, trust_env=False)

    def tips(self, n: int) -> list[httpx.Response]:
        """The responses to n requests, four at a time."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda _: self.tip(), range(n)))

    def answering(self) -> set[str]:
        """The processes that answered some of many requests, by the part of the request's id that names them."""
        return {name_of(response) for response in self.tips(40)}

    def members(self) -> list[psutil.Process]:
        return [child for child in self.process.children() if child.status() != psutil.STATUS_ZOMBIE]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with some labels."""
        page = httpx.get(f"{self.service.url}/metrics", timeout=30, trust_env=False).text
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def name_of(response: httpx.Response) -> str:
    return response.headers["x-request-id"][:8]


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < until, f"nothing after {TIMEOUT_S} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the module's database, which is not emptied between the tests: a group lasts for several."""
    with connect(database_url) as opened:
        yield opened


@pytest.fixture(scope="module")
def environment(
    connection: psycopg.Connection[Any],
    database_url: str,
    todoist_server: tuple[SwitchableApp, str],
    account: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """The variables of a group of two processes; there is a user with tasks."""
    todoist = LocalTodoist(full_limit=10_000, incremental_limit=10_000)
    todoist_server[0].app = todoist.app
    world = World(connection, todoist, Todoist(todoist_server[1]), tmp_path_factory.mktemp("data"))
    world.add("ann", account("call bob", "buy milk", "water the plants"))
    return {
        "DATABASE_URL": database_url,
        "CREDENTIALS_KEYS": world.key,
        "TODOIST_API_URL": todoist_server[1],
        "SERVING_WORKERS": str(N_PROCESSES),
        "GRACE_PERIOD": "10",
        "DRAIN_DELAY": "0.5",
    }


@pytest.fixture(scope="module")
def lasting_group(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """The group of the tests after which it goes on."""
    with running_service(environment, tmp_path_factory.mktemp("group") / "log") as service:
        yield Group(service)


@pytest.fixture
def group(lasting_group: Group) -> Group:
    """A group of two processes that all answer."""
    return when_complete(lasting_group)


@pytest.fixture
def ending_group(environment: dict[str, str], tmp_path: Path) -> Iterator[Group]:
    """A group of two processes that all answer, for a test that ends it; what it leaves is removed."""
    with (
        TemporaryDirectory() as temporary,
        running_service({**environment, "TMPDIR": temporary}, tmp_path / "log") as service,
    ):
        yield when_complete(Group(service))


def when_complete(group: Group) -> Group:
    """The group, once it has all of its processes and each of them answers."""
    wait_for(lambda: len(group.members()) == len(group.answering()) == N_PROCESSES)
    return group


def test_metrics_are_those_of_all_processes(group: Group) -> None:
    """Whichever process is asked, /metrics has the sums of all, and a killed process takes none of them away."""
    before = group.metric("http_responses_total", route="/v1/users/{user_id}/tip")
    n_timed = group.metric("tip_seconds_count")
    answers = Counter(map(name_of, group.tips(40)))
    assert len(answers) == N_PROCESSES
    for _ in range(10):
        assert group.metric("http_responses_total", route="/v1/users/{user_id}/tip") == before + 40
        assert group.metric("tip_seconds_count") == n_timed + 40
        assert group.metric("requests_limit") == N_PROCESSES * 256
        assert group.metric("ready") == 1
    [victim, _] = group.members()
    victim.kill()
    wait_for(lambda: victim.pid not in {member.pid for member in group.members()})
    wait_for(lambda: group.metric("requests_limit") == N_PROCESSES * 256)
    assert group.metric("http_responses_total", route="/v1/users/{user_id}/tip") == before + 40


def test_a_killed_process_is_replaced(group: Group) -> None:
    """The others go on without a refused request while a killed process is replaced."""
    [victim, _] = group.members()
    victim.kill()
    victim.wait()
    assert {response.status_code for response in group.tips(20)} == {200}
    wait_for(lambda: len(group.answering()) == N_PROCESSES)


def test_every_process_learns_within_a_second(group: Group, connection: psycopg.Connection[Any]) -> None:
    """A second after a reaction, every process decides by the posterior that has learned from it."""
    group.service.react(group.tip().json()["decision_id"], "done")
    time.sleep(1)
    responses = group.tips(40)
    assert len(set(map(name_of, responses))) == N_PROCESSES
    ids = [response.json()["decision_id"] for response in responses]
    sql = "SELECT DISTINCT policy_version FROM decisions WHERE decision_id = ANY(%s::uuid[])"
    versions = connection.execute(sql, [ids]).fetchall()
    assert [version.rpartition("@")[2] for (version,) in versions] == ["1"]


def test_a_restart_refuses_nothing(group: Group) -> None:
    """SIGHUP replaces all processes while every request is answered, on new and on kept connections."""
    before, answered, is_over = group.answering(), list[int](), threading.Event()
    headers = {"Authorization": f"Bearer {group.service.token}"}

    def ask(keeps: bool) -> None:
        with httpx.Client(base_url=group.service.url, headers=headers, timeout=30, trust_env=False) as client:
            while not is_over.is_set():
                answered.append((client.post("/v1/users/ann/tip") if keeps else group.tip()).status_code)
                answered.append(client.get("/readyz").status_code if keeps else 200)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, keeps) for keeps in (True, True, False, False)]
        try:
            group.process.send_signal(signal.SIGHUP)
            wait_for(lambda: len(after := group.answering()) == N_PROCESSES and before.isdisjoint(after))
        finally:
            is_over.set()
        for each in asking:
            each.result()
    assert set(answered) == {200}
    wait_for(lambda: len(group.members()) == N_PROCESSES)


def test_a_process_that_ends_during_a_restart(group: Group) -> None:
    """The group has as many processes as before if one is killed while its successor starts."""
    former = sorted(group.members(), key=psutil.Process.create_time)
    group.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(group.members()) > N_PROCESSES)
    former[0].kill()
    wait_for(lambda: not {each.pid for each in former} & {each.pid for each in group.members()})
    wait_for(lambda: len(group.members()) == N_PROCESSES)


def test_the_end_of_the_group(ending_group: Group) -> None:
    """SIGTERM ends all processes with the status 0, also if they get the signal themselves."""
    group, members = ending_group, ending_group.members()
    os.kill(group.service.pid, signal.SIGTERM)
    for member in members:
        member.send_signal(signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(group.service.pid, 0)[1]) == 0
    assert not any(member.is_running() for member in members)


def test_processes_without_a_group_end(ending_group: Group) -> None:
    """If the group's first process is killed, the others end by themselves."""
    members = ending_group.members()
    ending_group.process.kill()
    psutil.wait_procs(members, timeout=30)
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members)


def test_a_group_that_cannot_start(environment: dict[str, str]) -> None:
    """A group that cannot start says why once, and ends with the status 1."""
    changed = {"CREDENTIALS_KEYS": new_key(), "SERVICE_TOKENS": "a-token-of-16-and-more", "SERVING_PORT": "0"}
    url = environment["DATABASE_URL"].replace("serving_test_process_group", "postgres")
    done = subprocess.run(
        [sys.executable, "-m", "serving"],
        env={**os.environ, **environment, **changed, "DATABASE_URL": url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.count("the database lacks the tables") == 1
