"""Two real processes of the service over one database: shared work, and the end of one of them."""

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
from service import ServiceHarness
from switchable import SwitchableApp

from local.service import Service, running_service
from local.todoist import Fault

SECRET = "canary title 4711"


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    return [tmp_path / "one", tmp_path / "other"]


@pytest.fixture
def processes(
    harness: ServiceHarness, account: Any, todoist_server: tuple[SwitchableApp, str], logs: list[Path]
) -> Iterator[list[Service]]:
    """Two processes, and a user with a context that is seven hours old."""
    long_ago = datetime.now(UTC) - timedelta(hours=7)
    harness.add_with_context("ann", account(SECRET, "call bob", "buy milk"), at=long_ago)
    environment = {
        "DATABASE_URL": harness.database_url,
        "CREDENTIALS_KEYS": harness.world.key,
        "TODOIST_API_URL": todoist_server[1],
        "LLM_MODEL": "openai-chat:local",
    }
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        starting = [pool.submit(stack.enter_context, running_service(environment, log)) for log in logs]
        yield [each.result() for each in starting]


def concurrent_responses(processes: list[Service], n: int) -> list[httpx.Response]:
    """The responses to n concurrent requests for the user's tip to each of the processes."""
    with ThreadPoolExecutor(n * len(processes)) as pool:
        return list(pool.map(tip, [each for each in processes for _ in range(n)]))


def tip(service: Service) -> httpx.Response:
    headers = {"Authorization": f"Bearer {service.token}"}
    return httpx.post(f"{service.url}/v1/users/ann/tip", headers=headers, timeout=30)


def waiting_request(harness: ServiceHarness, pool: ThreadPoolExecutor, service: Service) -> Future[httpx.Response]:
    """A request that waits for Todoist."""
    request, until = pool.submit(tip, service), monotonic() + 10
    while not harness.todoist.calls and monotonic() < until:
        sleep(0.01)
    return request


def test_two_processes(harness: ServiceHarness, processes: list[Service], logs: list[Path]) -> None:
    """Two processes with concurrent requests for a stale user do the work once.

    They call Todoist and the LLM once and write the context once. Later requests need no work. No title and no token
    is in their logs.
    """
    harness.watch_writes()
    harness.todoist.fail("ann", Fault.slow(delay_s=0.5))
    harness.llm.seconds = 0.5
    responses = concurrent_responses(processes, 8)
    assert {response.status_code for response in responses} == {200}
    assert {(each.json()["source"], each.json()["llm"]) for each in responses} == {
        ("inline", "called"),
        ("stored", "skipped"),
    }
    assert len({response.json()["context_hash"] for response in responses}) == 1
    assert (*harness.calls(), harness.n_writes()) == (1, 1, 1)
    assert harness.one("SELECT count(*) FROM candidate_sets") == 1

    again = concurrent_responses(processes, 8)
    assert {(each.json()["source"], each.json()["llm"]) for each in again} == {("stored", "skipped")}
    assert len({response.json()["decision_id"] for response in again}) == 16
    assert (*harness.calls(), harness.n_writes()) == (1, 1, 1)
    for log in logs:
        text = log.read_text()
        assert "Uvicorn running" in text
        assert [word for word in (SECRET, "token-of-ann", *(each.token for each in processes)) if word in text] == []


def test_killed_process(harness: ServiceHarness, processes: list[Service]) -> None:
    """The locks of a killed process are free at once: the other process does the work without waiting."""
    one, other = processes
    harness.todoist.fail("ann", Fault.slow(delay_s=20))
    with ThreadPoolExecutor(1) as pool:
        request = waiting_request(harness, pool, one)
        os.kill(one.pid, signal.SIGKILL)
        response = tip(other)
        assert isinstance(request.exception(), httpx.TransportError)
    assert response.json()["source"] == "inline"
    assert response.elapsed < timedelta(seconds=2)


def test_ended_process(harness: ServiceHarness, processes: list[Service]) -> None:
    """A process that is told to end answers its open requests first."""
    one, _ = processes
    harness.todoist.fail("ann", Fault.slow(delay_s=0.7))
    with ThreadPoolExecutor(1) as pool:
        request = waiting_request(harness, pool, one)
        os.kill(one.pid, signal.SIGTERM)
        assert request.result().json()["source"] == "inline"
    assert os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1]) == 0
