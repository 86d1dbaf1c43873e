"""`python -m benchmarks.inline`: the CPU of a tip whose context is assembled during the request, and of its parts.

Rounds of requests from outdated and from ready contexts take turns, over one service and a local Todoist that answers
at once. Then each part of an assembly runs alone in this process. What the parts leave of the difference between both
kinds of requests is the request path's own.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median

import uvloop
from rich.console import Console

from benchmarks.meter import CpuMeter
from benchmarks.output import LOCAL_FOLDER, numbers_table
from benchmarks.requests import KEY, fill_database
from benchmarks.tip_client import Round, TipClient
from benchmarks.todoist import TodoistProcess, todoist_process
from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Signals, TaskGroups
from contexts.assembly.store import StoredContext
from contexts.postgres.sql import connect
from contexts.todoist.accounts import Account
from contexts.todoist.client import SyncCalls, Todoist, TodoistSession
from contexts.todoist.credentials import CredentialCipher
from contexts.todoist.mirror import Directory, Mirror, fold, open_tasks
from local import postgres, service
from local.samples import SampleUser, plain_users
from serving.metrics import Metrics
from serving.row_formats import read_stored_context
from serving.single_flight import AdvisoryLocks
from serving.store import Store, open_store

_N_CONNECTIONS = 4
_N_ROUNDS = 5
_N_READS = 2
"""Additional reads of the user in an assembly that no other part counts."""

_OUTDATE = "UPDATE context_store SET materialized_at = now() - INTERVAL '7 hours'"
_REFRESH = "UPDATE context_store SET materialized_at = now()"
_BUDGET = Budget(2000)

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Run the rounds and the parts, and print the table."""
    parser = ArgumentParser(prog="python -m benchmarks.inline", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_N_ROUNDS, help="rounds of each kind")
    options = parser.parse_args()
    LOCAL_FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        server = stack.enter_context(postgres.running_postgres(LOCAL_FOLDER / "bench-postgres"))
        url = postgres.create_database(server, "bench_inline", replace=True)
        users, n_bytes = fill_database(url)
        samples = plain_users(len(users), today=datetime.now(UTC).date())
        todoist = stack.enter_context(todoist_process(full_limit=1000))
        for sample in samples:
            todoist.load(sample.user_id, sample.api_token, sample.document)
        ready, inline = _run_rounds(stack, url, users, todoist, options.rounds)
        parts = uvloop.run(_measure_parts(url, todoist, samples))
    _print(ready, inline, parts, n_bytes)
    return 0


def _run_rounds(
    stack: ExitStack, url: str, users: Sequence[str], todoist: TodoistProcess, n_rounds: int
) -> tuple[list[Round], list[Round]]:
    """Rounds from ready and from outdated contexts, after a warm-up of each."""
    connection = stack.enter_context(connect(url))
    environment = {"DATABASE_URL": url, "CREDENTIALS_KEYS": KEY, "TODOIST_API_URL": todoist.url}
    running = stack.enter_context(service.running_service(environment, LOCAL_FOLDER / "bench-service.log"))
    client = TipClient(running.pid, running.port, running.token, users, CpuMeter(connection))
    rounds: dict[str, list[Round]] = {_REFRESH: [], _OUTDATE: []}
    for number in range(n_rounds + 1):
        for statement, of_kind in rounds.items():
            connection.execute(statement.encode())
            n_calls = todoist.n_calls()
            of_kind.append(client.run_round(len(users), _N_CONNECTIONS))
            n_expected = len(users) if statement is _OUTDATE else 0
            if todoist.n_calls() - n_calls != n_expected:
                raise RuntimeError(f"{todoist.n_calls() - n_calls} calls of Todoist, expected {n_expected}")
        _console.print(f"  round {number} of {n_rounds}" if number else "  warmed up")
    return rounds[_REFRESH][1:], rounds[_OUTDATE][1:]


async def _measure_parts(url: str, todoist: TodoistProcess, samples: Sequence[SampleUser]) -> dict[str, float]:
    """The CPU of each part in microseconds of this process for one user, by its name: medians of rounds of all users.

    All parts of a user run before those of the next one: a part that runs alone finds everything in the CPU's caches.
    """
    async with (
        open_store(url, Metrics(), n_connections=4, timeout_s=10) as store,
        AdvisoryLocks.connected(url, timeout_s=10) as locks,
        Todoist(todoist.url).session() as session,
    ):
        parts = _Parts(store, locks, session, samples).by_name()
        costs: list[dict[str, float]] = []
        for _ in range(_N_ROUNDS + 1):
            costs.append(dict.fromkeys(parts, 0.0))
            for sample in samples:
                for name, part in parts.items():
                    started = time.process_time()
                    await part(sample)
                    costs[-1][name] += 1e6 * (time.process_time() - started) / len(samples)
    return {name: median(each[name] for each in costs[1:]) for name in parts}


class _Parts:
    """The parts of an assembly during a request, each for one user, with what the parts before it returned."""

    def __init__(
        self, store: Store, locks: AdvisoryLocks, session: TodoistSession, samples: Sequence[SampleUser]
    ) -> None:
        self._store = store
        self._locks = locks
        self._session = session
        self._cipher = CredentialCipher([KEY])
        self._now = datetime.now(UTC)
        self._accounts: dict[str, Account] = {}
        self._mirrors = {each.user_id: fold(Mirror(), each.document).mirror for each in samples}
        self._rows = {each.user_id: self._row(each) for each in samples}

    def by_name(self) -> dict[str, Callable[[SampleUser], Awaitable[object]]]:
        """The parts in the order of a request."""
        return {
            "lock taken and released": self.hold_lock,
            f"user read {_N_READS} times more": self.read_user,
            "account read and decrypted": self.read_account,
            "Todoist called, JSON read": self.call_todoist,
            "tasks read from it": self.fold,
            "groups and reactions read": self.read_groups_and_reactions,
            "context assembled": self.assemble,
            "row written": self.write_row,
            "row read and parsed": self.read_context,
        }

    async def hold_lock(self, sample: SampleUser) -> None:
        async with self._locks.hold(sample.user_id):
            pass

    async def read_user(self, sample: SampleUser) -> None:
        for _ in range(_N_READS):
            await self._store.read_user(sample.user_id)

    async def read_context(self, sample: SampleUser) -> object:
        user = await self._store.read_user(sample.user_id)
        assert user is not None
        stored = await self._store.read_context(user)
        assert stored is not None
        return read_stored_context(stored)

    async def read_account(self, sample: SampleUser) -> object:
        row = await self._store.read_account(sample.user_id)
        assert row is not None
        credentials = self._cipher.unseal(sample.user_id, row["credentials"])
        account = Account(sample.user_id, row["connection_number"], credentials, None, Directory(), row["timezone"])
        self._accounts[sample.user_id] = account
        return account

    async def call_todoist(self, sample: SampleUser) -> object:
        return await self._session.sync(sample.api_token, None, SyncCalls())

    async def fold(self, sample: SampleUser) -> object:
        return fold(Mirror(), sample.document)

    async def read_groups_and_reactions(self, sample: SampleUser) -> object:
        groups = await self._store.read_groups(self._accounts[sample.user_id])
        return groups, await self._store.read_reactions(sample.user_id, self._now)

    async def assemble(self, sample: SampleUser) -> object:
        return self._row(sample)

    async def write_row(self, sample: SampleUser) -> object:
        row = replace(self._rows[sample.user_id], materialized_at=datetime.now(UTC))
        if not await self._store.write_context(row, self._accounts[sample.user_id]):
            raise RuntimeError(f"the context of {sample.user_id} was not written")
        return row

    def _row(self, sample: SampleUser) -> StoredContext:
        tasks, groups = open_tasks(self._mirrors[sample.user_id]), TaskGroups()
        context = assemble(Signals(sample.user_id, sample.timezone, "en", tasks, groups), self._now, _BUDGET)
        columns = (context.context_json, context.context_hash, context.valid_until, groups.to_json())
        return StoredContext(sample.user_id, self._now, *columns)


def _print(ready: Sequence[Round], inline: Sequence[Round], parts: dict[str, float], n_bytes: float) -> None:
    from_ready, from_outdated = (median(each.cpu_us for each in rounds) for rounds in (ready, inline))
    postgres = [median(each.postgres_us for each in rounds) for rounds in (ready, inline)]
    title = f"A tip, {_N_CONNECTIONS} connections, medians of {len(ready)} rounds; contexts of {n_bytes:,.0f} bytes"
    table = numbers_table(title, "CPU, microseconds", "of the service", "of Postgres")
    table.add_row("from a ready context", f"{from_ready:,.0f}", f"{postgres[0]:,.0f}")
    table.add_row("assembled during the request", f"{from_outdated:,.0f}", f"{postgres[1]:,.0f}")
    for name, cost in parts.items():
        table.add_row(f"  {name}", f"{cost:,.0f}")
    rest = from_outdated - from_ready - sum(parts.values())
    table.add_row("  the request path beside these parts", f"{rest:,.0f}")
    _console.print(table)


if __name__ == "__main__":
    sys.exit(main())
