"""The service for tests: over a real database and HTTP stand-ins, with a clock that tests move."""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
from clock import Clock
from switchable import SwitchableApp
from world import NOON, World

from contexts.assembly.assemble import assemble
from contexts.assembly.model import Signals, TaskGroups
from contexts.assembly.store import StoredContext
from contexts.postgres.sql import connect
from contexts.todoist.credentials import CredentialCipher
from contexts.todoist.mirror import Mirror, fold, open_tasks
from local.llm import AnswerFunction, LocalLLM
from local.llm.context import context_in
from local.todoist import LocalTodoist
from serving.composition import POLICY, open_app
from serving.connections import ConnectionTable
from serving.gate import Gate
from serving.limits import ShutdownTimes
from serving.server import Server
from serving.settings import ServingSettings
from tips.bandit import Posterior

HOURS = timedelta(hours=1)
TOKEN = "token-of-the-product"
NEVER_S = 1e6
"""An interval in which a test does not see a second time."""


@dataclass(frozen=True)
class ServiceResponse:
    """The response to a request. seconds: until it was complete."""

    status: int
    headers: Mapping[str, str]
    text: str
    body: Any
    seconds: float

    @property
    def origin(self) -> tuple[str, str]:
        """The source of a tip's context, and the LLM's part in its candidates."""
        return self.body["source"], self.body["llm"]


@dataclass(frozen=True)
class Service:
    """One service, called as the product's backend calls it."""

    client: httpx.AsyncClient
    url: str
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    def tip(self, user: str = "ann") -> ServiceResponse:
        """A tip; fails if there is none."""
        response = self.request("POST", f"/v1/users/{user}/tip")
        assert response.status == 200, response.text
        return response

    def react(self, decision_id: str, reaction: str, **body: Any) -> ServiceResponse:
        return self.request("POST", f"/v1/decisions/{decision_id}/reaction", json={"reaction": reaction, **body})

    def context(self, user: str = "ann") -> Any:
        """The context as the service shows it."""
        return self.request("GET", f"/v1/users/{user}/context").body["context"]

    def metric(self, name: str, **labels: str) -> float:
        """A counter of /metrics; 0 if it has not counted yet."""
        value: float = self.run(self.metric_async(name, **labels))
        return value

    async def metric_async(self, name: str, **labels: str) -> float:
        label_text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        prefix = f"{name}{{{label_text}}} " if label_text else f"{name} "
        lines = (await self.request_async("GET", "/metrics")).text.splitlines()
        return sum(float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))

    def request(self, method: str, path: str, **options: Any) -> ServiceResponse:
        response: ServiceResponse = self.run(self.request_async(method, path, **options))
        return response

    async def request_async(self, method: str, path: str, **options: Any) -> ServiceResponse:
        """Send a request without blocking, for tests with concurrent requests."""
        started_at = time.perf_counter()
        response = await self.client.request(method, path, **options)
        seconds = time.perf_counter() - started_at
        is_json = "json" in response.headers.get("content-type", "")
        body = response.json() if is_json else None
        return ServiceResponse(response.status_code, response.headers, response.text, body, seconds)

    async def tip_async(self, user: str = "ann") -> ServiceResponse:
        return await self.request_async("POST", f"/v1/users/{user}/tip")


@dataclass
class ServiceHarness:
    """Postgres, Todoist and an LLM, one clock, and any number of services over them."""

    world: World
    llm: LocalLLM
    database_url: str
    todoist_server: SwitchableApp
    clock: Clock = field(default_factory=lambda: Clock(NOON, tick=timedelta(microseconds=1)))

    def __post_init__(self) -> None:
        self.connection = self.world.connection
        self.use_todoist(self.world.todoist)
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()

    def open(
        self,
        database_url: str | None = None,
        *,
        new_users_interval_s: float = NEVER_S,
        event_refresh_interval_s: float = NEVER_S,
        listens: bool = False,
        **settings: Any,
    ) -> Service:
        """A service; its settings are those of a production with an LLM, with shorter time-outs.

        new_users_interval_s, event_refresh_interval_s: see `open_app`. listens: whether it has a port of its own.
        """
        url = database_url or self.database_url
        intervals = {
            "new_users_interval_s": new_users_interval_s,
            "event_refresh_interval_s": event_refresh_interval_s,
        }
        return self.run(self._open(url, intervals, listens, **settings))  # type: ignore[no-any-return]

    async def _open(
        self, database_url: str, intervals: Mapping[str, float], listens: bool, **settings: Any
    ) -> Service:
        defaults: dict[str, Any] = {
            "service_tokens": TOKEN,
            "todoist_api_url": self.world.client.base_url,
            "todoist_timeout": 2.0,
            "llm_model": "openai-chat:local",
            "llm_timeout": 3.0,
            "request_budget": 8.0,
            "database_connections": 3,
        }
        read = ServingSettings(**defaults | settings)
        app = await self._stack.enter_async_context(
            open_app(
                read,
                database_url,
                CredentialCipher([self.world.key]),
                clock=self.clock,
                **intervals,
            )
        )
        url = await self._stack.enter_async_context(listening(app, read)) if listens else "http://service"
        client = httpx.AsyncClient(
            transport=None if listens else httpx.ASGITransport(app),
            base_url=url,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
        )
        return Service(await self._stack.enter_async_context(client), url, self.run)

    @contextmanager
    def without_database(self) -> Iterator[None]:
        """Refuse all connections but that of the test while the block lasts."""
        name, mine = self.connection.info.dbname, self.connection.info.backend_pid
        with connect(self.database_url.replace(f"/{name}?", "/postgres?")) as other:
            other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS FALSE")
            others = "FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
            other.execute(f"SELECT pg_terminate_backend(pid) {others}", [name, mine])
            yield
            other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS TRUE")

    async def todoist_called(self, timeout_s: float = 30.0) -> None:
        """Wait for the first call of Todoist."""
        async with asyncio.timeout(timeout_s):
            while not self.todoist.calls:
                await asyncio.sleep(0.005)

    def use_todoist(self, todoist: LocalTodoist) -> None:
        """Replace the Todoist that answers."""
        self.todoist, self.todoist_server.app = todoist, todoist.app

    def add_with_context(
        self, user: str, document: dict[str, Any], timezone: str = "UTC", at: datetime = NOON
    ) -> None:
        """Add a user with a context assembled at `at`, like that of a pipeline run but without themes."""
        self.world.add(user, document, timezone)
        mirror = fold(Mirror(), document).mirror
        signals = Signals(user, timezone, mirror.directory.language or "en", open_tasks(mirror))
        made = assemble(signals, at, self.world.budget)
        groups_json = TaskGroups().to_json()
        row = StoredContext(user, at, made.context_json, made.context_hash, made.valid_until, groups_json)
        self.put_context(row)

    def put_context(self, row: StoredContext) -> None:
        """Store a context as a run does that fetched the user at the row's instant."""
        self.connection.execute(
            "UPDATE todoist_accounts SET observed_at = greatest(observed_at, %s) WHERE user_id = %s",
            [row.materialized_at, row.user_id],
        )
        self.world.store.put([row])

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run the services until `work` is done; between two calls they are paused."""
        return self._runner.run(work)

    def together(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        """The results of concurrent work."""

        async def gather() -> list[Any]:
            return await asyncio.gather(*work)

        results: list[Any] = self.run(gather())
        return results

    def until(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        """Run the services until a condition holds, which may be a coroutine; fails after `timeout_s`."""

        async def holds() -> object:
            result = condition()
            return await result if inspect.isawaitable(result) else result

        async def wait() -> None:
            async with asyncio.timeout(timeout_s):
                while not await holds():
                    await asyncio.sleep(0.01)

        self.run(wait())

    def finish_tasks(self, *task_ids: str) -> None:
        """Check off tasks of ann in Todoist."""
        self.todoist.advance("ann", {"items": [{"id": task_id, "checked": True} for task_id in task_ids]})

    def candidates(self) -> list[dict[str, Any]]:
        """The newest candidates, from which the next request would choose."""
        tips = self.one("SELECT tips FROM candidate_sets ORDER BY made_at DESC LIMIT 1")
        return [json.loads(tip) for tip in tips]

    def posterior(self) -> Posterior:
        """The posterior that all processes have learned so far."""
        columns = "n_features, precision, weighted, n_updates"
        [row] = self.rows(f"SELECT {columns} FROM policies WHERE policy = %s", POLICY)
        return Posterior.from_bytes(*row)

    def calls(self) -> tuple[int, int]:
        """The numbers of calls to Todoist and to the LLM so far."""
        return len(self.todoist.calls), len(self.llm.calls)

    def watch_writes(self) -> None:
        """Count every write of a context from now on."""
        self.connection.execute("CREATE TABLE IF NOT EXISTS writes (user_id TEXT)")
        self.connection.execute("TRUNCATE writes")
        self.connection.execute(
            "CREATE OR REPLACE FUNCTION count_write() RETURNS TRIGGER LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO writes VALUES (new.user_id); RETURN new; END $$"
        )
        self.connection.execute(
            "CREATE OR REPLACE TRIGGER counted AFTER INSERT OR UPDATE ON context_store"
            " FOR EACH ROW EXECUTE FUNCTION count_write()"
        )

    def n_writes(self) -> int:
        """The number of writes of a context since `watch_writes`."""
        return int(self.one("SELECT count(*) FROM writes"))

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, values).fetchall()

    def one(self, sql: str, *values: Any) -> Any:
        """The only value of the only row."""
        [[value]] = self.rows(sql, *values)
        return value

    def close(self) -> None:
        self.run(self._stack.aclose())
        self._runner.close()


@asynccontextmanager
async def listening(app: Gate, settings: ServingSettings) -> AsyncIterator[str]:
    """The URL of an app that is served on a free port."""
    table = ConnectionTable(settings.connection_limits, app.metrics.refused_connection)
    server = Server(app, table, ShutdownTimes(0.0, 3.0), host="127.0.0.1", port=0)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.handle_exit(signal.SIGTERM, None)
        server.force_exit = True
        await serving
        server.last_resort.cancel()


@contextmanager
def service_harness(
    world: World, llm: LocalLLM, database_url: str, todoist_server: SwitchableApp
) -> Iterator[ServiceHarness]:
    harness = ServiceHarness(world, llm, database_url, todoist_server)
    try:
        yield harness
    finally:
        harness.close()


def is_problem(response: ServiceResponse, status: int, detail: str) -> bool:
    """Whether a response is a problem document of RFC 9457 with this status and detail."""
    assert response.headers["content-type"] == "application/problem+json"
    assert set(response.body) == {"type", "title", "status", "detail", "reason"}
    assert response.body["status"] == response.status
    return response.status == status and detail in response.body["detail"]


_LAST_TASK = 3
"""The number of the last task of most users of these tests."""


def tip_about(
    task_id: str, kind: str = "focus", *, only_today: bool = False, reference: str | None = None
) -> dict[str, Any]:
    """An LLM's candidate about one task.

    reference: the name of the task in the prompt; None if all tasks t0, t1, ... before it, or else all tasks after it
    up to t3, are in the prompt, too.
    """
    number = int(task_id[1:])
    body = ["Ten minutes for ", {"task": reference or number}, " are enough to begin with."]
    return {"kind": kind, "title": f"Take up number {number}", "body": body, "only_today": only_today}


def answering(*candidates: Mapping[str, Any]) -> AnswerFunction:
    """An LLM that always writes these candidates."""

    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        n_tasks = len(context_in(" ".join(str(message["content"]) for message in request["messages"])).task_ids)
        return {
            "candidates": [{**each, "body": [_named(part, n_tasks) for part in each["body"]]} for each in candidates]
        }

    return answer


def _named(part: Any, n_tasks: int) -> Any:
    """A part of a body whose task has the name that it has in a prompt with so many tasks."""
    if isinstance(part, str) or isinstance(part["task"], str):
        return part
    number = part["task"]
    place = number if number < n_tasks else n_tasks - 1 - (_LAST_TASK - number)
    return {"task": f"t{place + 1}"}


def task_ids(tips: list[dict[str, Any]]) -> set[str]:
    """The ids of all tasks in these tips."""
    return {task["id"] for tip in tips for task in tip["tasks"]}
