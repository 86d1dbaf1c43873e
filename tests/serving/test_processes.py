"""Two real processes of the service over one database: what is done once, and what is left when one of them ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from service import House, Switch

from local.service import Service, running
from local.todoist import Fault

SECRET = "canary title 4711"


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    return [tmp_path / "one", tmp_path / "other"]


@pytest.fixture
def processes(
    house: House, account: Any, todoist_server: tuple[Switch, str], logs: list[Path]
) -> Iterator[list[Service]]:
    """Two processes, and a user whose context is seven hours old."""
    long_ago = datetime.now(UTC) - timedelta(hours=7)
    house.prepare("ann", account(SECRET, "call bob", "buy milk"), at=long_ago)
    environment = {
        "DATABASE_URL": house.database_url,
        "CREDENTIALS_KEYS": house.world.key,
        "TODOIST_API_URL": todoist_server[1],
        "LLM_MODEL": "openai-chat:local",
    }
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        starting = [pool.submit(stack.enter_context, running(environment, log)) for log in logs]
        yield [each.result() for each in starting]


def asked(processes: list[Service], n: int) -> list[httpx.Response]:
    """The answers to n requests for the user's tip to each of the processes, all at once."""
    with ThreadPoolExecutor(n * len(processes)) as pool:
        return list(pool.map(tip, [each for each in processes for _ in range(n)]))


def tip(service: Service) -> httpx.Response:
    headers = {"Authorization": f"Bearer {service.token}"}
    return httpx.post(f"{service.url}/v1/users/ann/tip", headers=headers, timeout=30)


def under_way(house: House, pool: ThreadPoolExecutor, service: Service) -> Future[httpx.Response]:
    """A request that waits for Todoist."""
    asking, until = pool.submit(tip, service), monotonic() + 10
    while not house.todoist.calls and monotonic() < until:
        sleep(0.01)
    return asking


def test_two_processes(house: House, processes: list[Service], logs: list[Path]) -> None:
    """Asked at once for a stale user, two processes call Todoist and the LLM once and write the context once; so they
    do not when asked again. No title and no token is in their logs.
    """
    house.watch_writes()
    house.todoist.fail("ann", Fault.slow(before=0.5))
    house.llm.seconds = 0.5
    answers = asked(processes, 8)
    assert {answer.status_code for answer in answers} == {200}
    assert {(each.json()["source"], each.json()["llm"]) for each in answers} == {
        ("inline", "called"),
        ("stored", "skipped"),
    }
    assert len({answer.json()["context_hash"] for answer in answers}) == 1
    assert (*house.calls(), house.n_writes()) == (1, 1, 1)
    assert house.one("SELECT count(*) FROM candidate_sets") == 1

    again = asked(processes, 8)
    assert {(each.json()["source"], each.json()["llm"]) for each in again} == {("stored", "skipped")}
    assert len({answer.json()["decision_id"] for answer in again}) == 16
    assert (*house.calls(), house.n_writes()) == (1, 1, 1)
    for log in logs:
        said = log.read_text()
        assert "Uvicorn running" in said
        assert [word for word in (SECRET, "token-of-ann", *(each.token for each in processes)) if word in said] == []


def test_killed_at_work(house: House, processes: list[Service]) -> None:
    """What a process held when it was killed is free at once: another one does the work, and does not wait."""
    one, other = processes
    house.todoist.fail("ann", Fault.slow(before=20))
    with ThreadPoolExecutor(1) as pool:
        asking = under_way(house, pool, one)
        os.kill(one.pid, signal.SIGKILL)
        answer = tip(other)
        assert isinstance(asking.exception(), httpx.TransportError)
    assert answer.json()["source"] == "inline"
    assert answer.elapsed < timedelta(seconds=2)


def test_ended_at_work(house: House, processes: list[Service]) -> None:
    """A process that is told to end answers first what it was asked before."""
    one, _ = processes
    house.todoist.fail("ann", Fault.slow(before=0.7))
    with ThreadPoolExecutor(1) as pool:
        asking = under_way(house, pool, one)
        os.kill(one.pid, signal.SIGTERM)
        assert asking.result().json()["source"] == "inline"
    assert os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1]) == 0
