"""A replaced account, in every order of what is under way: fetch, assembly, pipeline and requests."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from service import Service, ServiceHarness
from starlette.types import ASGIApp, Receive, Scope, Send
from world import World

from assets.engine.plan import Plan
from assets.options import RunOptions
from assets.steps import StepRunner
from contexts.todoist.credentials import Credentials
from local.todoist import Fault

EVENTS = ("add", "fetch", "fetched", "assemble", "assembled", "plan", "write")
STARTS = {"fetched": "fetch", "assembled": "assemble", "write": "plan"}
ORDERS = [
    order
    for order in permutations(EVENTS)
    if all(order.index(start) < order.index(end) for end, start in STARTS.items())
]
OLD, NEW = "water the old plants", "pack the new tent"


@dataclass
class Gate:
    """Todoist behind a gate: while it is closed, answers wait for their turn."""

    app: ASGIApp
    is_open: bool = True
    waiting: list[threading.Event] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.is_open and scope["type"] == "http":
            turn = threading.Event()
            self.waiting.append(turn)
            while not turn.is_set():
                await asyncio.sleep(0.001)
        await self.app(scope, receive, send)


class Scene:
    """One user, whose account is replaced at some moment, and the work that is under way."""

    def __init__(self, harness: ServiceHarness, service: Service, account: Any, pool: ThreadPoolExecutor) -> None:
        self.harness, self.service, self.account, self.pool = harness, service, account, pool
        self.gate = Gate(harness.todoist.app)
        harness.todoist_server.app = self.gate
        self.is_replaced = False
        self.turns: dict[str, threading.Event | None] = {}

    def run(self, order: tuple[str, ...]) -> None:
        for event in order:
            getattr(self, f"do_{event}")()
            if self.is_replaced:
                self.check()

    def do_add(self) -> None:
        document = self.account({"id": "t0", "content": NEW}, {"id": "t1", "content": f"{NEW} again"})
        self.harness.todoist.load("another-token", document, user="other")
        accounts = self.harness.world.accounts
        accounts.add("ann", email="a@example.org", timezone="UTC", credentials=Credentials("another-token"))
        self.is_replaced = True

    def do_fetch(self) -> None:
        world, now = self.harness.world, self.harness.clock()
        runner = StepRunner(world.graph, world.runtime, world.resources, now, RunOptions())
        plan, _ = runner.plan("fetch_signals")
        self.fetch: Future[Any] = self._started("fetch", lambda: list(runner.materialize(plan)))

    def do_fetched(self) -> None:
        self._finish("fetch")
        self.fetch.result(timeout=20)

    def do_assemble(self) -> None:
        async def begin() -> None:
            self.tip = asyncio.create_task(self.service.tip_async())
            while not self.tip.done() and not self.gate.waiting[n_before:]:
                await asyncio.sleep(0.001)

        n_before = len(self.gate.waiting)
        self.gate.is_open = False
        self.harness.run(begin())
        self._remember("assemble", n_before)

    def do_assembled(self) -> None:
        self._finish("assemble")

        async def end() -> Any:
            return await self.tip

        assert self.harness.run(end()).status == 200

    def do_plan(self) -> None:
        world = self.harness.world
        runner = StepRunner(world.graph, world.runtime, world.resources, self.harness.clock(), RunOptions())
        self.computation: tuple[StepRunner, Plan] = runner, runner.plan("compute_context")[0]

    def do_write(self) -> None:
        runner, plan = self.computation
        list(runner.materialize(plan))

    def check(self) -> None:
        """No answer is about the former account."""
        response = self.service.request("GET", "/v1/users/ann/context")
        assert response.status in (200, 404), response.text
        assert OLD not in response.text

    def _started(self, name: str, work: Any) -> Future[Any]:
        n_before = len(self.gate.waiting)
        self.gate.is_open = False
        future = self.pool.submit(work)
        while not future.done() and not self.gate.waiting[n_before:]:
            time.sleep(0.001)
        self._remember(name, n_before)
        return future

    def _remember(self, name: str, n_before: int) -> None:
        self.gate.is_open = True
        self.turns[name] = next(iter(self.gate.waiting[n_before:]), None)

    def _finish(self, name: str) -> None:
        if turn := self.turns[name]:
            turn.set()


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def patient(harness: ServiceHarness) -> Service:
    """A service that waits for Todoist as long as a test takes."""
    return harness.open(todoist_timeout=30, request_budget=60, llm_model=None)


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(order=st.sampled_from(ORDERS))
@example(order=("fetch", "add", "fetched", "plan", "write", "assemble", "assembled"))
@example(order=("assemble", "add", "assembled", "fetch", "fetched", "plan", "write"))
@example(order=("fetch", "fetched", "plan", "add", "write", "assemble", "assembled"))
@example(order=("fetch", "fetched", "plan", "add", "assemble", "assembled", "write"))
@example(order=("plan", "assemble", "fetch", "add", "fetched", "assembled", "write"))
def test_every_order(
    harness: ServiceHarness, patient: Service, account: Any, pool: ThreadPoolExecutor, order: tuple[str, ...]
) -> None:
    """Whatever was under way when an account was replaced, nothing of the former one is used from then on."""
    world = harness.world
    _begin_again(world)
    world.add("ann", account({"id": "t0", "content": OLD}, {"id": "t1", "content": f"{OLD} again"}))
    harness.clock.forward(hours=7)
    world.night(harness.clock())
    service = patient
    service.tip()
    harness.clock.forward(hours=7)
    scene = Scene(harness, service, account, pool)
    scene.run(order)
    _check_stored(harness)
    harness.clock.forward(hours=7)
    harness.todoist.fail("other", Fault.rate_limited())
    assert OLD not in json.dumps(service.tip().body)
    harness.clock.forward(hours=1)
    tip = service.tip().body
    assert tip["source"] == "inline"
    world.night(harness.clock())
    assert {row["content"] for row in world.rows("todoist_tasks")} == {NEW, f"{NEW} again"}
    assert OLD not in str(world.stored()) + str(world.rows("user_contexts"))
    assert service.tip().body["source"] == "stored"


def _begin_again(world: World) -> None:
    world.connection.execute("TRUNCATE users, context_store CASCADE")
    world.root = world.root.with_name(f"data-{time.monotonic_ns()}")


def _check_stored(harness: ServiceHarness) -> None:
    """The account has the new tokens, and only the new account's sync token and context are in use."""
    [loaded] = harness.world.accounts.load(["ann"])[0]
    assert loaded.credentials == Credentials("another-token")
    in_use = harness.rows(
        "SELECT context_json FROM context_store c JOIN todoist_accounts a USING (user_id, connection_number)"
    )
    assert OLD not in str(in_use)
    used = harness.rows(
        "SELECT s.tips FROM candidate_sets s JOIN todoist_accounts a USING (user_id, connection_number)"
    )
    assert OLD not in str(used)
