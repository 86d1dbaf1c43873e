"""`python -m benchmarks.requests`: what a tip costs when its context is ready, beside a bare read of the same row."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, cast
from uuid import uuid4

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from contexts.assemble import Budget, assemble
from contexts.migrate import migrate
from contexts.mirror import Mirror, fold, open_tasks
from contexts.model import Signals, UserContext
from contexts.sql import connect
from contexts.store import ContextStore, StoredContext
from contexts.vault import new_key
from local import postgres, service
from local.samples import sample_users
from serving.candidates import Tip, basis, tasks_of
from serving.features import features_of

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".local"
N_USERS = 500
N_CANDIDATES = 5
N_REQUESTS = 4000
ROUNDS = 7
CONCURRENCY = 8
LLM_SECONDS = 1.0

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Round:
    """N requests at one concurrency. cpu: seconds of the process that answers; latencies: seconds, sorted."""

    n: int
    cpu: float
    seconds: float
    latencies: Sequence[float]

    @property
    def cpu_each(self) -> float:
        """Microseconds of CPU for one."""
        return 1e6 * self.cpu / self.n

    def quantile(self, share: float) -> float:
        """A latency, in milliseconds."""
        return 1e3 * self.latencies[min(self.n - 1, int(share * self.n))]


class Asked:
    """The service, asked over connections that stay open."""

    def __init__(self, running: service.Service) -> None:
        self._process = psutil.Process(running.pid)
        self._port = int(running.url.rpartition(":")[2])
        self._token = running.token

    def round(self, users: Sequence[str], n: int, concurrency: int) -> Round:
        """Ask for `n` tips, `concurrency` at a time."""
        before = self._cpu()
        seconds, latencies = uvloop.run(self._ask(users, n, concurrency))
        return Round(n, self._cpu() - before, seconds, sorted(latencies))

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    async def _ask(self, users: Sequence[str], n: int, concurrency: int) -> tuple[float, list[float]]:
        connections = [await asyncio.open_connection("127.0.0.1", self._port) for _ in range(concurrency)]
        began = time.perf_counter()
        shares = [range(start, n, concurrency) for start in range(concurrency)]
        parts = await asyncio.gather(
            *(self._ask_some(users, share, *pair) for share, pair in zip(shares, connections, strict=True))
        )
        seconds = time.perf_counter() - began
        for _, writer in connections:
            writer.close()
        return seconds, [each for part in parts for each in part]

    async def _ask_some(
        self, users: Sequence[str], share: range, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> list[float]:
        latencies = []
        for number in share:
            user = users[number % len(users)]
            began = time.perf_counter()
            writer.write(
                f"POST /v1/users/{user}/tip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - began)
        return latencies


class Floor:
    """The bare reads, in a process of their own."""

    def __init__(self, questions: IO[str], answers: IO[str]) -> None:
        self._questions = questions
        self._answers = answers

    def round(self, n: int, concurrency: int) -> Round:
        """Make `n` reads, `concurrency` at a time."""
        print(n, concurrency, file=self._questions, flush=True)
        cpu, seconds, latencies = json.loads(self._answers.readline())
        return Round(n, cpu, seconds, latencies)


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        server = stack.enter_context(postgres.running(FOLDER / "bench-postgres"))
        url = postgres.create_database(server, "bench_requests", anew=True)
        console.print(f"{N_USERS} users with a context and {N_CANDIDATES} candidates each")
        users, n_bytes = _fill(url)
        floor = stack.enter_context(_floor(url))
        asked = stack.enter_context(_service(url))
        rounds = list(_rounds(floor, asked, users))
        crowded = asked.round(users, N_REQUESTS, 4 * CONCURRENCY)
        misses = asked.round(_without_candidates(url, users), 8 * CONCURRENCY, CONCURRENCY)
    _report(rounds, crowded, misses, n_bytes)
    return 0


def _rounds(floor: Floor, asked: Asked, users: Sequence[str]) -> Iterator[tuple[Round, Round]]:
    floor.round(500, CONCURRENCY)
    asked.round(users, 500, CONCURRENCY)
    for number in range(1, ROUNDS + 1):
        console.print(f"  round {number} of {ROUNDS}")
        yield floor.round(N_REQUESTS, CONCURRENCY), asked.round(users, N_REQUESTS, CONCURRENCY)


def _report(rounds: Sequence[tuple[Round, Round]], crowded: Round, misses: Round, n_bytes: float) -> None:
    def median(name: str, of: Any) -> tuple[str, float, float, float]:
        floors, hits = [of(floor) for floor, _ in rounds], [of(hit) for _, hit in rounds]
        ratio = statistics.median(hit / floor for floor, hit in zip(floors, hits, strict=True))
        return name, statistics.median(floors), statistics.median(hits), ratio

    lines = [
        median("CPU, microseconds each", lambda each: each.cpu_each),
        median("p50, ms", lambda each: each.quantile(0.5)),
        median("p99, ms", lambda each: each.quantile(0.99)),
        median("requests a second", lambda each: each.n / each.seconds),
    ]
    table = Table("", "bare read", "tip", "ratio", title=f"A tip from a ready context, {CONCURRENCY} connections")
    for name, floor, hit, ratio in lines:
        table.add_row(name, f"{floor:,.2f}", f"{hit:,.2f}", f"{ratio:.2f}")
    console.print(table)
    p50 = statistics.median(hit.quantile(0.5) for _, hit in rounds)
    more = [
        f"Medians of {len(rounds)} interleaved rounds of {N_REQUESTS}; a context has {n_bytes:,.0f} bytes.",
        f"At {4 * CONCURRENCY} connections: {crowded.n / crowded.seconds:,.0f} requests a second of one process.",
        f"A miss (an LLM of {LLM_SECONDS:.0f} s): p50 {misses.quantile(0.5):,.0f} ms,"
        f" the time of {misses.quantile(0.5) / p50:,.0f} hits.",
    ]
    console.print("\n".join(more))
    figures = {name: {"bare read": floor, "tip": hit, "ratio": ratio} for name, floor, hit, ratio in lines}
    path = FOLDER / "bench-requests.json"
    path.write_text(json.dumps({"medians": figures, "miss_p50_ms": misses.quantile(0.5)}, indent=2) + "\n")


def _fill(url: str) -> tuple[list[str], float]:
    """Users, their contexts and candidates; gives the users and the mean size of a context in bytes."""
    now = datetime.now(UTC)
    samples = sample_users(N_USERS, today=now.date())
    rows, candidates = [], []
    for user in samples:
        mirror = fold(Mirror(), user.document).mirror
        made = assemble(Signals(user.user_id, user.timezone, "en", open_tasks(mirror)), now, Budget(2000))
        later = now + timedelta(days=1)
        rows.append(StoredContext(user.user_id, now, made.context_json, made.context_hash, later, "[]"))
        candidates.append(_candidates(rows[-1], now))
    with connect(url) as connection:
        migrate(connection)
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO users (user_id, email, timezone) VALUES (%s, %s, %s)",
                [(user.user_id, user.email, user.timezone) for user in samples],
            )
            ContextStore(connection).put(rows)
            cursor.executemany(
                "INSERT INTO candidate_sets VALUES (%s, %s, %s, 'llm', %s, %s, %s, %s, %s, %s, %s, %s)", candidates
            )
        connection.execute("ANALYZE")
    return [user.user_id for user in samples], statistics.mean(len(row.context_json.encode()) for row in rows)


def _candidates(row: StoredContext, now: datetime) -> tuple[Any, ...]:
    context = UserContext.model_validate_json(row.context_json)
    ids = list(tasks_of(context))
    tips = [
        Tip(kind="focus", title=f"Start with number {n}", body="Ten minutes are enough to begin.", task_ids=(ids[n],))
        for n in range(N_CANDIDATES)
    ]
    return (
        uuid4(),
        row.user_id,
        row.context_hash,
        now,
        now + timedelta(days=1),
        now + timedelta(days=1),
        [tip.model_dump_json() for tip in tips],
        [basis(tip, context) for tip in tips],
        [tip.kind for tip in tips],
        [""] * len(tips),
        features_of(tips, context).tobytes(),
    )


def _without_candidates(url: str, users: Sequence[str]) -> Sequence[str]:
    with connect(url) as connection:
        connection.execute("DELETE FROM candidate_sets")
    return users


@contextmanager
def _floor(url: str) -> Iterator[Floor]:
    with _process("benchmarks.floor", url) as process:
        yield Floor(cast(IO[str], process.stdin), cast(IO[str], process.stdout))


@contextmanager
def _service(url: str) -> Iterator[Asked]:
    with _process("local.llm", "--seconds", str(LLM_SECONDS)) as llm:
        environment = {
            "DATABASE_URL": url,
            "CREDENTIALS_KEYS": new_key(),
            "LLM_MODEL": "openai-chat:local",
            "OPENAI_BASE_URL": cast(IO[str], llm.stdout).readline().strip() + "/v1",
            "OPENAI_API_KEY": "none",
        }
        with service.running(environment, FOLDER / "bench-service.log") as running:
            yield Asked(running)


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A module of ours in a process of its own; it ends when it is told nothing more."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        yield process
        cast(IO[str], process.stdin).close()


if __name__ == "__main__":
    sys.exit(main())
