"""The service for tests: over real doors, by a clock that tests move, with counts of what it asked of others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send
from world import NOON, World

from contexts.assemble import assemble
from contexts.mirror import Mirror, fold, open_tasks
from contexts.model import Signals
from contexts.sql import connect
from contexts.store import StoredContext
from contexts.vault import Vault
from local.llm import LocalLLM
from local.todoist import LocalTodoist
from serving.__main__ import opened
from serving.settings import ServingSettings

TOKEN = "token-of-the-product"


class Clock:
    """Moved by tests alone, but for a microsecond with each look: no two things happen at once."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def __call__(self) -> datetime:
        self.at += timedelta(microseconds=1)
        return self.at

    def forward(self, **by: float) -> None:
        self.at += timedelta(**by)


class Switch:
    """An app that hands over to whichever stand-in a test has: one server serves them all."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)


@dataclass(frozen=True)
class Answered:
    """What a request got. seconds: until it was there."""

    status: int
    headers: Mapping[str, str]
    text: str
    body: Any
    seconds: float

    @property
    def how(self) -> tuple[str, str]:
        """Where a tip's context came from, and what the LLM had to do."""
        return self.body["source"], self.body["llm"]


@dataclass(frozen=True)
class Service:
    """One service, asked as the product's backend would."""

    client: httpx.AsyncClient
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    def tip(self, user: str = "ann") -> Answered:
        """A tip that was given."""
        answered = self.ask("POST", f"/v1/users/{user}/tip")
        assert answered.status == 200, answered.text
        return answered

    def react(self, decision_id: str, reaction: str, **body: Any) -> Answered:
        return self.ask("POST", f"/v1/decisions/{decision_id}/reaction", json={"reaction": reaction, **body})

    def context(self, user: str = "ann") -> Any:
        """The context as the service shows it."""
        return self.ask("GET", f"/v1/users/{user}/context").body["context"]

    def metric(self, name: str, **labels: str) -> float:
        """A counter of /metrics; 0 where it has not counted yet."""
        told = ",".join(f'{key}="{value}"' for key, value in labels.items())
        wanted = f"{name}{{{told}}} " if told else f"{name} "
        lines = self.ask("GET", "/metrics").text.splitlines()
        return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))

    def ask(self, method: str, path: str, **options: Any) -> Answered:
        answered: Answered = self.run(self.asking(method, path, **options))
        return answered

    async def asking(self, method: str, path: str, **options: Any) -> Answered:
        """The same for tests that ask several things at once."""
        began = time.perf_counter()
        answer = await self.client.request(method, path, **options)
        seconds = time.perf_counter() - began
        is_json = "json" in answer.headers.get("content-type", "")
        body = answer.json() if is_json else None
        return Answered(answer.status_code, answer.headers, answer.text, body, seconds)

    async def tipping(self, user: str = "ann") -> Answered:
        return await self.asking("POST", f"/v1/users/{user}/tip")


@dataclass
class House:
    """Postgres, Todoist and an LLM, one clock, and as many services over them as a test opens."""

    world: World
    llm: LocalLLM
    database_url: str
    todoist_server: Switch
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.connection = self.world.connection
        self.let_answer(self.world.todoist)
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()

    def open(self, database_url: str | None = None, **settings: Any) -> Service:
        """A service over the house; its settings are those of a production with an LLM, and shorter of breath."""
        return self.run(self._open(database_url or self.database_url, **settings))  # type: ignore[no-any-return]

    async def _open(self, database_url: str, **settings: Any) -> Service:
        ours: dict[str, Any] = {
            "service_tokens": TOKEN,
            "todoist_api_url": self.world.client.base_url,
            "todoist_timeout": 0.5,
            "llm_model": "openai-chat:local",
            "llm_timeout": 1.0,
            "request_budget": 3.0,
            "database_connections": 3,
        }
        app = await self._stack.enter_async_context(
            opened(ServingSettings(**ours | settings), database_url, Vault([self.world.key]), clock=self.clock)
        )
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://service",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
        )
        return Service(await self._stack.enter_async_context(client), self.run)

    @contextmanager
    def without_database(self) -> Iterator[None]:
        """Nobody but the test is connected, and nobody can be, for as long as the block lasts."""
        name, mine = self.connection.info.dbname, self.connection.info.backend_pid
        with connect(self.database_url.replace(f"/{name}?", "/postgres?")) as other:
            other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS FALSE")
            others = "FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
            other.execute(f"SELECT pg_terminate_backend(pid) {others}", [name, mine])
            yield
            other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS TRUE")

    def let_answer(self, todoist: LocalTodoist) -> None:
        """From now on it is this Todoist that answers."""
        self.todoist, self.todoist_server.app = todoist, todoist.app

    def prepare(self, user: str, document: dict[str, Any], timezone: str = "UTC", at: datetime = NOON) -> None:
        """A user whose context was made ahead, at `at`, as a night would have made it but for the themes."""
        self.world.add(user, document, timezone)
        mirror = fold(Mirror(), document).mirror
        signals = Signals(user, timezone, mirror.directory.language or "en", open_tasks(mirror))
        made = assemble(signals, at, self.world.budget)
        row = StoredContext(user, at, made.context_json, made.context_hash, made.valid_until, "[]")
        self.world.store.put([row])

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let the services go on until this is done; between two calls of it they stand still."""
        return self._runner.run(work)

    def together(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        """The results of what goes on at once."""

        async def all_of_it() -> list[Any]:
            return await asyncio.gather(*work)

        found: list[Any] = self.run(all_of_it())
        return found

    def until(self, happens: Callable[[], object], seconds: float = 5.0) -> None:
        """Let the services go on until something is true; fails when it is not after so many seconds."""

        async def wait() -> None:
            async with asyncio.timeout(seconds):
                while not happens():
                    await asyncio.sleep(0.01)

        self.run(wait())

    def calls(self) -> tuple[int, int]:
        """How often Todoist and the LLM were asked so far."""
        return len(self.todoist.calls), len(self.llm.calls)

    def watch_writes(self) -> None:
        """From now on every write of a context is counted, whoever makes it."""
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


@contextmanager
def inhabited(world: World, llm: LocalLLM, database_url: str, todoist_server: Switch) -> Iterator[House]:
    house = House(world, llm, database_url, todoist_server)
    try:
        yield house
    finally:
        house.close()
