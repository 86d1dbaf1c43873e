"""`python -m benchmarks.requests`: cost of a tip from a fresh context, beside a bare read and a minimal server.

The yardstick is `benchmarks.minimal_server`, which answers the same request with one read and one logged insert.
Rounds of all three are interleaved, so that whatever else the machine does slows each of them.
"""

from __future__ import annotations

import json
import statistics
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from rich.console import Console

from benchmarks.meter import CpuMeter
from benchmarks.output import LOCAL_FOLDER, numbers_table
from benchmarks.subprocesses import module_process
from benchmarks.tip_client import BareReads, Round, TipClient
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
from tips.sets import REUSE_PERIOD, next_midnight
from tips.validity import subject_hash

_N_USERS = 500
_N_CANDIDATES = (4, 5, 6)
"""Numbers of candidates, of one user after the other."""

_N_WARM_UP_REQUESTS = 500
_N_MISSES, _MISS_CONNECTIONS = 64, 8
_LLM_SECONDS = 1.0
KEY = new_key()

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Level:
    """The rounds of each client at one number of connections; the rounds of the same position ran side by side."""

    n_connections: int
    rounds: Mapping[str, Sequence[Round]]

    def medians(self, measure: Callable[[Round], float]) -> list[float]:
        """The median of each client, and of the ratio of a tip to the minimal server in the same rounds."""
        values = {name: [measure(each) for each in rounds] for name, rounds in self.rounds.items()}
        pairs = zip(values["tip"], values["minimal server"], strict=True)
        return [*map(statistics.median, values.values()), statistics.median(tip / least for tip, least in pairs)]

    def figures(self) -> dict[str, dict[str, float]]:
        """The medians by measure and column."""
        columns = (*self.rounds, _RATIO)
        return {name: dict(zip(columns, self.medians(each), strict=True)) for name, each in _MEASURES.items()}


_RATIO = "tip / minimal server"
_MEASURES: Mapping[str, Callable[[Round], float]] = {
    "CPU of the process, us": lambda each: each.cpu_us,
    "CPU of Postgres, us": lambda each: each.postgres_us,
    "p50, ms": lambda each: each.quantile_ms(0.5),
    "p99, ms": lambda each: each.quantile_ms(0.99),
    "requests per second": lambda each: each.per_second,
}


def main() -> int:
    """Run the rounds, print the tables, write `.local/bench-requests.json`."""
    parser = ArgumentParser(prog="python -m benchmarks.requests", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds at each number of connections")
    parser.add_argument("--requests", type=int, default=4000, help="requests of a round; a quarter at 1 connection")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64], help="of the client (1 8 64)")
    options = parser.parse_args()
    LOCAL_FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        server = stack.enter_context(postgres.running_postgres(LOCAL_FOLDER / "bench-postgres"))
        url = postgres.create_database(server, "bench_requests", replace=True)
        _console.print(f"{_N_USERS} users with a context and {min(_N_CANDIDATES)} to {max(_N_CANDIDATES)} candidates")
        users, n_bytes = fill_database(url)
        meter = CpuMeter(stack.enter_context(connect(url)))
        reads = BareReads(stack.enter_context(module_process("benchmarks.floor", url)), meter)
        minimal = stack.enter_context(module_process("benchmarks.minimal_server", url))
        tips = stack.enter_context(_running_service(url, users, meter))
        clients: dict[str, TipClient | BareReads] = {
            "bare read": reads,
            "minimal server": TipClient(minimal.pid, int(minimal.read_line()), "none", users, meter),
            "tip": tips,
        }
        levels = [_run_level(clients, each, options.requests, options.rounds) for each in options.connections]
        _delete_candidates(url)
        misses = tips.run_round(_N_MISSES, _MISS_CONNECTIONS)
    _print_and_save(levels, misses, n_bytes)
    return 0


def _run_level(clients: Mapping[str, TipClient | BareReads], n_connections: int, n: int, n_rounds: int) -> Level:
    """Interleaved rounds at one number of connections, after a warm-up."""
    n = n // 4 if n_connections == 1 else n
    for client in clients.values():
        client.run_round(max(_N_WARM_UP_REQUESTS, n_connections), n_connections)
    rounds: dict[str, list[Round]] = {name: [] for name in clients}
    for number in range(1, n_rounds + 1):
        _console.print(f"  {n_connections} connections, round {number} of {n_rounds}")
        for name, client in clients.items():
            rounds[name].append(client.run_round(n, n_connections))
    return Level(n_connections, rounds)


def _print_and_save(levels: Sequence[Level], misses: Round, n_bytes: float) -> None:
    for level in levels:
        table = numbers_table(
            f"A tip from a fresh context, connections: {level.n_connections}",
            "",
            *level.rounds,
            "tip / minimal server",
        )
        for name, measure in _MEASURES.items():
            *medians, ratio = level.medians(measure)
            table.add_row(name, *(f"{each:,.2f}" for each in medians), f"{ratio:.2f}")
        _console.print(table)
    p50 = statistics.median(each.quantile_ms(0.5) for each in levels[0].rounds["tip"])
    miss_p50 = misses.quantile_ms(0.5)
    _console.print(
        f"Medians of {len(levels[0].rounds['tip'])} rounds; mean size of contexts: {n_bytes:,.0f} bytes.\n"
        f"A miss (an LLM of {_LLM_SECONDS:.0f} s): p50 {miss_p50:,.0f} ms, {miss_p50 / p50:,.0f} times a hit's."
    )
    figures = {str(level.n_connections): level.figures() for level in levels}
    path = LOCAL_FOLDER / "bench-requests.json"
    path.write_text(json.dumps({"medians": figures, "miss_p50_ms": miss_p50}, indent=2) + "\n")


def fill_database(url: str) -> tuple[list[str], float]:
    """Add users with contexts and candidates; return the users and the mean size of a context in bytes."""
    now = datetime.now(UTC)
    samples = plain_users(_N_USERS, today=now.date())
    rows, candidates = [], []
    for user, n_candidates in zip(samples, cycle(_N_CANDIDATES)):
        mirror = fold(Mirror(), user.document).mirror
        context = assemble(Signals(user.user_id, user.timezone, "en", open_tasks(mirror)), now, Budget(2000))
        valid_until = now + timedelta(days=1)
        groups_json = TaskGroups().to_json()
        rows.append(
            StoredContext(user.user_id, now, context.context_json, context.context_hash, valid_until, groups_json)
        )
        candidates.append(_candidate_set(rows[-1], n_candidates, now))
    with connect(url) as connection:
        migrate(connection)
        accounts = Accounts(connection, CredentialCipher([KEY]), clock=lambda: now)
        with connection.cursor() as cursor, connection.transaction():
            for user in samples:
                credentials = Credentials(user.api_token)
                accounts.add(user.user_id, email=user.email, timezone=user.timezone, credentials=credentials)
            connection.execute("UPDATE todoist_accounts SET observed_at = %s", [now])
            ContextStore(connection).put(rows)
            cursor.executemany(
                "INSERT INTO candidate_sets VALUES (%s, %s, %s, 'llm', %s, %s, %s, %s, %s, %s, %s, %s)", candidates
            )
        connection.execute("ANALYZE")
    return [user.user_id for user in samples], statistics.mean(len(row.context_json.encode()) for row in rows)


def _candidate_set(row: StoredContext, n_candidates: int, now: datetime) -> tuple[Any, ...]:
    """The values of a row of `candidate_sets`."""
    context = UserContext.model_validate_json(row.context_json)
    midnight, _ = next_midnight(ZoneInfo(context.profile.timezone), now)
    task_ids = list(tasks_shown(context))
    tips = [
        Tip(
            kind="focus",
            title=f"Start with number {n}",
            body="Ten minutes are enough to begin.",
            task_ids=(task_ids[n],),
        )
        for n in range(n_candidates)
    ]
    return (
        uuid4(),
        row.user_id,
        row.context_hash,
        now,
        midnight,
        midnight + REUSE_PERIOD,
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
def _running_service(url: str, users: Sequence[str], meter: CpuMeter) -> Iterator[TipClient]:
    with module_process("local.llm", "--seconds", str(_LLM_SECONDS)) as llm:
        environment = {
            "DATABASE_URL": url,
            "CREDENTIALS_KEYS": KEY,
            "LLM_MODEL": "openai-chat:local",
            "OPENAI_BASE_URL": llm.read_line(),
            "OPENAI_API_KEY": "none",
        }
        with service.running_service(environment, LOCAL_FOLDER / "bench-service.log") as running:
            yield TipClient(running.pid, running.port, running.token, users, meter)


if __name__ == "__main__":
    sys.exit(main())
