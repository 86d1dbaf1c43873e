"""Trials of the service: a real process over its own database, with a proxy before it and stand-ins for the rest."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import psutil
from psycopg import sql

from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Signals, TaskGroups
from contexts.assembly.store import ContextStore, StoredContext
from contexts.postgres.migrate import migrate
from contexts.postgres.sql import connect
from contexts.todoist.accounts import Accounts
from contexts.todoist.credentials import CredentialCipher, Credentials, new_key
from contexts.todoist.mirror import Mirror, fold, open_tasks
from faults.load import Caller, Load, Reply, offer, together
from faults.proxy import PostgresProxy
from faults.row import require
from faults.trial import Bench
from local.llm import LocalLLM, running_llm
from local.postgres import create_database
from local.samples import SampleUser, plain_users
from local.service import Service, running_service
from local.todoist import LocalTodoist, running_todoist

N_READY, N_COLD, _N_SAMPLES = 200, 1000, 40
_WELL_MS, _WELL_TIMEOUT_S = 1000.0, 60.0

_T = TypeVar("_T")
_numbers = itertools.count()

SLOW_DECISIONS = """
CREATE FUNCTION be_slow() RETURNS TRIGGER LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep({seconds}); RETURN new; END $$;
CREATE TRIGGER slow BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION be_slow()
"""


class ServiceStage:
    """A database with users who have contexts: the ready ones also have candidates, the cold ones need the LLM."""

    def __init__(self, bench: Bench, stack: ExitStack) -> None:
        self.bench, self.key, self.name = bench, new_key(), f"service_{bench.seed}_{next(_numbers)}"
        self.folder = bench.folder / self.name
        self.folder.mkdir()
        bench.stage_names.add(self.name)
        self.todoist = LocalTodoist(full_limit=100_000, incremental_limit=100_000)
        self.llm = LocalLLM()
        self.todoist_url = stack.enter_context(running_todoist(self.todoist))
        self.llm_url = stack.enter_context(running_llm(self.llm))
        users = [f"user-{number:04d}" for number in range(N_READY + N_COLD)]
        self.ready, self.cold = users[:N_READY], users[N_READY:]
        self._fill(users)
        self._warm_up()

    @contextmanager
    def trial(self, number: int, chance: Random) -> Iterator[ServiceTrial]:
        """A trial on a copy of the database."""
        name = f"{self.name}_{next(_numbers)}"
        with connect(self.bench.server) as connection:
            copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(copy.format(sql.Identifier(name), sql.Identifier(self.name)))
        url = self.bench.server.replace("/postgres?", f"/{name}?", 1)
        try:
            with PostgresProxy(self.bench.server).running() as proxy, ExitStack() as stack:
                yield ServiceTrial(self, number, chance, url, proxy, stack)
        finally:
            self._heal()
            with connect(self.bench.server) as connection:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def environment(self, database_url: str) -> dict[str, str]:
        """The settings of a service, with an LLM and a Todoist that answer at once."""
        return {
            "DATABASE_URL": database_url,
            "CREDENTIALS_KEYS": self.key,
            "TODOIST_API_URL": self.todoist_url,
            "LLM_MODEL": "openai-chat:local",
            "OPENAI_BASE_URL": f"{self.llm_url}/v1",
            "OPENAI_API_KEY": "none",
        }

    def _heal(self) -> None:
        """Let Todoist and the LLM answer as before the trial."""
        self.todoist.fail_at_rate(0)
        for user in (*self.ready, *self.cold):
            self.todoist.heal(user)
        self.llm.behaviour, self.llm.seconds = LocalLLM().behaviour, 0.0

    def _fill(self, users: Sequence[str]) -> None:
        """Add users with accounts and contexts; many have the same tasks."""
        now = datetime.now(UTC)
        samples = plain_users(_N_SAMPLES, today=now.date())
        contexts = [_context(sample, now) for sample in samples]
        url = create_database(self.bench.server, self.name, replace=True)
        with connect(url) as connection:
            migrate(connection)
            accounts, store = Accounts(connection, CredentialCipher([self.key])), ContextStore(connection)
            with connection.transaction():
                for user, sample in zip(users, cycle(samples)):
                    token = f"token-of-{user}"
                    self.todoist.load(token, sample.document, user=user)
                    credentials = Credentials(token)
                    accounts.add(user, email=f"{user}@example.org", timezone=sample.timezone, credentials=credentials)
            connection.execute("UPDATE todoist_accounts SET observed_at = %s", [now])
            store.put([replace(context, user_id=user) for user, context in zip(users, cycle(contexts))])

    def _warm_up(self) -> None:
        """Let the ready users have candidates by the LLM."""
        url = self.bench.server.replace("/postgres?", f"/{self.name}?", 1)
        with running_service(self.environment(url), self.folder / "warm-up.log") as service:
            caller = Caller(service.port, service.token)
            for begin in range(0, N_READY, 10):
                load = asyncio.run(_closing(caller, together(caller, self.ready[begin : begin + 10])))
                require(load.statuses == {200: 10}, f"the first tips were not answered: {load.statuses}")
        with connect(url) as connection:
            connection.execute("TRUNCATE decisions, llm_calls CASCADE")


class ServiceTrial:
    """One copy of the database, and the services over it.

    number: of the trial in its row. chance: seeded random numbers.
    """

    def __init__(
        self, stage: ServiceStage, number: int, chance: Random, url: str, proxy: PostgresProxy, stack: ExitStack
    ) -> None:
        self.stage, self.number, self.chance, self.database_url, self.proxy = stage, number, chance, url, proxy
        self.todoist, self.llm, self.ready, self.cold = stage.todoist, stage.llm, stage.ready, stage.cold
        self.connection = stack.enter_context(connect(url))
        self.accounts = Accounts(self.connection, CredentialCipher([stage.key]))
        self._stack = stack

    def start(self, **settings: object) -> RunningService:
        """A service behind the proxy. settings: variables by their names in lower case."""
        environment = self.stage.environment(self.proxy.url(self.database_url))
        environment |= {name.upper(): str(value) for name, value in settings.items()}
        log_file = self.stage.folder / f"service-{next(_numbers)}.log"
        service = self._stack.enter_context(running_service(environment, log_file))
        return RunningService(service, log_file)

    def slow_decisions(self, seconds: float) -> None:
        """Let Postgres take so long for each decision."""
        self.connection.execute(SLOW_DECISIONS.format(seconds=seconds))

    def fast_decisions(self) -> None:
        """Let Postgres be as fast as before."""
        self.connection.execute("DROP TRIGGER slow ON decisions; DROP FUNCTION be_slow")

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self.connection.execute(statement.encode(), values).fetchall()

    def one(self, statement: str, *values: object) -> Any:
        """The only value of the only row of a query."""
        [[value]] = self.rows(statement, *values)
        return value


class RunningService:
    """A running service and its clients. Each method of a load makes new connections and closes them."""

    def __init__(self, service: Service, log_file: Path) -> None:
        self.service, self.log_file, self.port = service, log_file, service.port
        self.process = psutil.Process(service.pid)

    def tip(self, user: str) -> Reply:
        """Request a tip."""
        return self.request("POST", f"/v1/users/{user}/tip")

    def request(self, method: str, path: str, body: bytes = b"") -> Reply:
        """Send one request."""
        caller = self._caller()
        return asyncio.run(_closing(caller, caller.request(method, path, body)))

    def offer(self, users: Sequence[str], *, rate: float, seconds: float) -> Load:
        """Request tips at a rate, see `faults.load.offer`."""
        caller = self._caller()
        return asyncio.run(_closing(caller, offer(caller, users, rate=rate, seconds=seconds)))

    def together(self, users: Sequence[str]) -> Load:
        """Request one tip for each user at the same time."""
        caller = self._caller()
        return asyncio.run(_closing(caller, together(caller, users)))

    def connect(self) -> socket.socket:
        """A raw connection, to be closed by the caller."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def seconds_until_well(self, users: Sequence[str]) -> float:
        """The seconds until tips of ten users in a row are answered within `_WELL_MS`; at most `_WELL_TIMEOUT_S`."""
        started = time.monotonic()
        while time.monotonic() - started < _WELL_TIMEOUT_S:
            replies = [self.tip(user) for user in users[:10]]
            if all(reply.status == 200 and 1e3 * reply.seconds < _WELL_MS for reply in replies):
                break
        return time.monotonic() - started

    def memory_mib(self) -> float:
        """The resident memory of the process."""
        return float(self.process.memory_info().rss) / 2**20

    def n_open_files(self) -> int:
        """The number of open files and sockets of the process."""
        return int(self.process.num_fds())

    def counters(self) -> dict[str, float]:
        """The counters of `/metrics`, see `local.service.Service.counters`."""
        return self.service.counters()

    def under_way(self) -> float:
        """The number of requests under way, as `/metrics` shows it."""
        page = self.request("GET", "/metrics").body.decode()
        return float(page.split("\nrequests_under_way ")[1].split()[0])

    def log(self) -> str:
        """The log so far."""
        return self.log_file.read_text()

    def _caller(self) -> Caller:
        return Caller(self.port, self.service.token)


def _context(sample: SampleUser, now: datetime) -> StoredContext:
    """The row of a sample user, as a night without themes makes it."""
    tasks = open_tasks(fold(Mirror(), sample.document).mirror)
    made = assemble(Signals(sample.user_id, sample.timezone, "en", tasks), now, Budget(2000))
    until, groups_json = now + timedelta(days=1), TaskGroups().to_json()
    return StoredContext(sample.user_id, now, made.context_json, made.context_hash, until, groups_json)


def service_trial(bench: Bench, number: int, chance: Random) -> Any:
    """Open a trial of the service; the stage is shared by all rows."""
    return bench.once(ServiceStage, _open_stage).trial(number, chance)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> float:
    """The seconds until a condition holds; PromiseBroken with `what` after the time-out."""
    started = time.monotonic()
    while not condition():
        require(time.monotonic() - started < timeout_s, what)
        time.sleep(0.02)
    return time.monotonic() - started


@contextmanager
def _open_stage(bench: Bench) -> Iterator[ServiceStage]:
    with ExitStack() as stack:
        yield ServiceStage(bench, stack)


async def _closing(caller: Caller, work: Coroutine[Any, Any, _T]) -> _T:
    try:
        return await work
    finally:
        await caller.close()
