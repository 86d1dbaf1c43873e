"""`python -m benchmarks.requests`: cost of a tip from a fresh context, compared with a bare read of the same row."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.output import LOCAL_FOLDER
from benchmarks.subprocesses import ModuleProcess, module_process
from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Signals, TaskGroups, UserContext, tasks_shown
from contexts.assembly.store import ContextStore, StoredContext
from contexts.postgres.migrate import migrate
from contexts.postgres.sql import connect
from contexts.todoist.accounts import Accounts
from contexts.todoist.credentials import CredentialCipher, Credentials, new_key
from contexts.todoist.mirror import Mirror, fold, open_tasks
from local import postgres, service
from local.samples import plain_users
from tips.candidates import Tip
from tips.features import features_of
from tips.served import with_tasks
from tips.validity import subject_hash

_N_USERS = 500
_N_CANDIDATES = 5
_N_REQUESTS = 4000
_N_WARM_UP_REQUESTS = 500
_N_ROUNDS = 7
_CONCURRENCY = 8
_LLM_SECONDS = 1.0
KEY = new_key()

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Round:
    """`n` requests at one concurrency.

    cpu_seconds: CPU time of the processes that answer.
    latencies: in seconds, sorted.
    """

    n: int
    cpu_seconds: float
    seconds: float
    latencies: Sequence[float]

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per request."""
        return 1e6 * self.cpu_seconds / self.n

    def quantile_ms(self, share: float) -> float:
        """A quantile (0 to 1) of the latencies in milliseconds."""
        return 1e3 * self.latencies[min(self.n - 1, int(share * self.n))]


class TipClient:
    """A client of the service with persistent connections."""

    def __init__(self, running: service.Service) -> None:
        self._process = psutil.Process(running.pid)
        self._port = int(running.url.rpartition(":")[2])
        self._token = running.token

    def run_round(self, users: Sequence[str], n: int, concurrency: int) -> Round:
        """Request `n` tips, `concurrency` at a time."""
        cpu_before = self._cpu_seconds()
        seconds, latencies = uvloop.run(self._request_all(users, n, concurrency))
        return Round(n, self._cpu_seconds() - cpu_before, seconds, sorted(latencies))

    def _cpu_seconds(self) -> float:
        """CPU time of all processes of the service."""
        times = [each.cpu_times() for each in (self._process, *self._process.children())]
        return float(sum(each.user + each.system for each in times))

    async def _request_all(self, users: Sequence[str], n: int, concurrency: int) -> tuple[float, list[float]]:
        connections = [await asyncio.open_connection("127.0.0.1", self._port) for _ in range(concurrency)]
        started = time.perf_counter()
        numbers = [range(start, n, concurrency) for start in range(concurrency)]
        parts = await asyncio.gather(
            *(
                self._request(users, *arguments)
                for arguments in zip(numbers, *zip(*connections, strict=True), strict=True)
            )
        )
        seconds = time.perf_counter() - started
        for _, writer in connections:
            writer.close()
        return seconds, [latency for part in parts for latency in part]

    async def _request(
        self, users: Sequence[str], numbers: range, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> list[float]:
        """Request tips one after the other on one connection and return the latencies."""
        latencies = []
        for number in numbers:
            user = users[number % len(users)]
            started = time.perf_counter()
            writer.write(
                f"POST /v1/users/{user}/tip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - started)
        return latencies


class BareReads:
    """A client of `benchmarks.floor`."""

    def __init__(self, process: ModuleProcess) -> None:
        self._process = process

    def run_round(self, n: int, concurrency: int) -> Round:
        """Make `n` reads, `concurrency` at a time."""
        self._process.write_line(f"{n} {concurrency}")
        cpu_seconds, seconds, latencies = json.loads(self._process.read_line())
        return Round(n, cpu_seconds, seconds, latencies)


def main() -> int:
    """Run the rounds, print the table, write `.local/bench-requests.json`."""
    LOCAL_FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        server = stack.enter_context(postgres.running_postgres(LOCAL_FOLDER / "bench-postgres"))
        url = postgres.create_database(server, "bench_requests", replace=True)
        _console.print(f"{_N_USERS} users with a context and {_N_CANDIDATES} candidates each")
        users, n_bytes = fill_database(url)
        reads = BareReads(stack.enter_context(module_process("benchmarks.floor", url)))
        tips = stack.enter_context(_running_service(url))
        rounds = list(_run_rounds(reads, tips, users))
        concurrent = tips.run_round(users, _N_REQUESTS, 4 * _CONCURRENCY)
        _delete_candidates(url)
        misses = tips.run_round(users, 8 * _CONCURRENCY, _CONCURRENCY)
    _print_and_save(rounds, concurrent, misses, n_bytes)
    return 0


def _run_rounds(reads: BareReads, tips: TipClient, users: Sequence[str]) -> Iterator[tuple[Round, Round]]:
    reads.run_round(_N_WARM_UP_REQUESTS, _CONCURRENCY)
    tips.run_round(users, _N_WARM_UP_REQUESTS, _CONCURRENCY)
    for number in range(1, _N_ROUNDS + 1):
        _console.print(f"  round {number} of {_N_ROUNDS}")
        yield reads.run_round(_N_REQUESTS, _CONCURRENCY), tips.run_round(users, _N_REQUESTS, _CONCURRENCY)


def _print_and_save(rounds: Sequence[tuple[Round, Round]], concurrent: Round, misses: Round, n_bytes: float) -> None:
    def medians(name: str, measure: Callable[[Round], float]) -> tuple[str, float, float, float]:
        reads, tips = [measure(read) for read, _ in rounds], [measure(tip) for _, tip in rounds]
        ratio = statistics.median(tip / read for read, tip in zip(reads, tips, strict=True))
        return name, statistics.median(reads), statistics.median(tips), ratio

    lines = [
        medians("CPU, microseconds each", lambda result: result.cpu_us),
        medians("p50, ms", lambda result: result.quantile_ms(0.5)),
        medians("p99, ms", lambda result: result.quantile_ms(0.99)),
        medians("requests per second", lambda result: result.n / result.seconds),
    ]
    table = Table("", "bare read", "tip", "ratio", title=f"A tip from a fresh context, {_CONCURRENCY} connections")
    for name, read, tip, ratio in lines:
        table.add_row(name, f"{read:,.2f}", f"{tip:,.2f}", f"{ratio:.2f}")
    _console.print(table)
    p50 = statistics.median(tip.quantile_ms(0.5) for _, tip in rounds)
    miss_p50 = misses.quantile_ms(0.5)
    notes = [
        f"Medians of {len(rounds)} rounds of {_N_REQUESTS}; mean size of contexts: {n_bytes:,.0f} bytes.",
        f"With {4 * _CONCURRENCY} connections: {concurrent.n / concurrent.seconds:,.0f} requests per second.",
        f"A miss (an LLM of {_LLM_SECONDS:.0f} s): p50 {miss_p50:,.0f} ms, {miss_p50 / p50:,.0f} times a hit's.",
    ]
    _console.print("\n".join(notes))
    figures = {name: {"bare read": read, "tip": tip, "ratio": ratio} for name, read, tip, ratio in lines}
    path = LOCAL_FOLDER / "bench-requests.json"
    path.write_text(json.dumps({"medians": figures, "miss_p50_ms": miss_p50}, indent=2) + "\n")


def fill_database(url: str) -> tuple[list[str], float]:
    """Add users with contexts and candidates; return the users and the mean size of a context in bytes."""
    now = datetime.now(UTC)
    samples = plain_users(_N_USERS, today=now.date())
    rows, candidates = [], []
    for user in samples:
        mirror = fold(Mirror(), user.document).mirror
        context = assemble(Signals(user.user_id, user.timezone, "en", open_tasks(mirror)), now, Budget(2000))
        valid_until = now + timedelta(days=1)
        groups_json = TaskGroups().to_json()
        rows.append(
            StoredContext(user.user_id, now, context.context_json, context.context_hash, valid_until, groups_json)
        )
        candidates.append(_candidate_set(rows[-1], now))
    with connect(url) as connection:
        migrate(connection)
        accounts = Accounts(connection, CredentialCipher([KEY]), clock=lambda: now)
        with connection.cursor() as cursor, connection.transaction():
            for user in samples:
                credentials = Credentials(user.api_token)
                accounts.add(user.user_id, email=user.email, timezone=user.timezone, credentials=credentials)
            ContextStore(connection).put(rows)
            cursor.executemany(
                "INSERT INTO candidate_sets VALUES (%s, %s, %s, 'llm', %s, %s, %s, %s, %s, %s, %s, %s)", candidates
            )
        connection.execute("ANALYZE")
    return [user.user_id for user in samples], statistics.mean(len(row.context_json.encode()) for row in rows)


def _candidate_set(row: StoredContext, now: datetime) -> tuple[Any, ...]:
    """The values of a row of `candidate_sets`."""
    context = UserContext.model_validate_json(row.context_json)
    task_ids = list(tasks_shown(context))
    tips = [
        Tip(
            kind="focus",
            title=f"Start with number {n}",
            body="Ten minutes are enough to begin.",
            task_ids=(task_ids[n],),
        )
        for n in range(_N_CANDIDATES)
    ]
    return (
        uuid4(),
        row.user_id,
        row.context_hash,
        now,
        now + timedelta(days=1),
        now + timedelta(days=1),
        [with_tasks(tip, context).model_dump_json() for tip in tips],
        [subject_hash(tip, context) for tip in tips],
        [tip.kind for tip in tips],
        [""] * len(tips),
        features_of(tips, context).tobytes(),
    )


def _delete_candidates(url: str) -> None:
    with connect(url) as connection:
        connection.execute("DELETE FROM candidate_sets")


@contextmanager
def _running_service(url: str) -> Iterator[TipClient]:
    with module_process("local.llm", "--seconds", str(_LLM_SECONDS)) as llm:
        environment = {
            "DATABASE_URL": url,
            "CREDENTIALS_KEYS": KEY,
            "LLM_MODEL": "openai-chat:local",
            "OPENAI_BASE_URL": llm.read_line(),
            "OPENAI_API_KEY": "none",
        }
        with service.running_service(environment, LOCAL_FOLDER / "bench-service.log") as running:
            yield TipClient(running)


if __name__ == "__main__":
    sys.exit(main())
