"""`python -m benchmarks.store [ROWS]`: cost of writing contexts, compared with a bare COPY of the same rows.

Each round runs the same steps on two layouts of `context_store`: with and without migration 0006. The fetches of a
run are saved before its contexts are written, and a plan reads which rows are outdated; both are steps of their own.
CPU time is that of this process and of the whole Postgres, including a checkpoint after each step.
"""

from __future__ import annotations

import gc
import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any
from uuid import UUID

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.meter import CpuMeter
from benchmarks.output import LOCAL_FOLDER
from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Signals
from contexts.assembly.store import ContextStore, ObservedContext, StoredContext
from contexts.postgres.sql import ROOT, connect, queries
from contexts.todoist.accounts import Accounts, SyncState
from contexts.todoist.credentials import CredentialCipher, new_key
from contexts.todoist.mirror import Directory, Mirror, fold, open_tasks
from local import postgres
from local.samples import plain_users

_FOLDER = LOCAL_FOLDER / "bench-store"
_N_ROWS, _MAX_ROWS = 20_000, 200_000
_SHARD_ROWS = 400
_N_ROUNDS = 9
_N_REFRESHES = 6
_N_READS = 4000
_N_SAMPLE_USERS = 200
_FIRST_RUN = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
_SKIPPED_MIGRATIONS = {"before": "0006", "now": None}
"""The migration that each layout skips, by the layout's name."""

_COPY_TYPES = ("text", "timestamptz", "text", "text", "timestamptz", "text", "text", "int4", "bytea")
_Connection = psycopg.Connection[Any]
_Step = Callable[[], object]
_Costs = dict[str, float]

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


class StepMeter:
    """Measures steps, each between two checkpoints."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._meter = CpuMeter(connection)

    def measure(self, step: _Step) -> float:
        """Run a step and return the CPU seconds of the step and of the checkpoint after it.

        The checkpoint before it gives every step the same initial state.
        """
        self._connection.execute("CHECKPOINT")
        gc.collect()
        gc.freeze()  # garbage collections during the step need not visit the contexts
        before = self._meter.cpu_seconds()
        step()
        self._connection.execute("CHECKPOINT")
        return self._meter.cpu_seconds() - before


class Upserts:
    """Fetches and upserts of the same contexts, each run a minute after the previous one."""

    def __init__(self, rows: Sequence[StoredContext]) -> None:
        self._shards = [rows[start : start + _SHARD_ROWS] for start in range(0, len(rows), _SHARD_ROWS)]
        self._rows = {row.user_id: row for row in rows}
        self._versions = {row.user_id: row.row_version for row in rows}  # it takes a while to compute them
        self._digests = {row.user_id: b"first" for row in rows}
        self._at = _FIRST_RUN

    def next_fetch(self, accounts: Accounts, changed: Collection[str] = (), mark: str = "") -> _Step:
        """The step that saves the fetches of the next run.

        changed: users with changed tasks. mark: makes these tasks different from all earlier ones.
        """
        self._at = at = self._at + timedelta(minutes=1)
        self._digests |= dict.fromkeys(changed, mark.encode())

        def step() -> None:
            for shard in self._shards:
                fetched = [
                    SyncState(row.user_id, 0, "token", Directory(timezone="UTC"), self._digests[row.user_id])
                    for row in shard
                ]
                accounts.save_sync_states(fetched, [], observed_at=at)

        return step

    def next_step(
        self, store: ContextStore, accounts: Accounts, changed: Collection[str] = (), mark: str = ""
    ) -> _Step:
        """The step that upserts the changed and outdated rows of every shard, after its fetches were saved.

        changed: users with new contexts.
        mark: makes these contexts different from all earlier ones.
        """
        at, due = self._at, accounts.observations(self._at).outdated.union(changed)
        self._rows |= {user: replace(self._rows[user], context_hash=f"{mark} {user}") for user in changed}
        self._versions |= {user: self._rows[user].row_version for user in changed}
        current = {user: replace(row, materialized_at=at) for user, row in self._rows.items()}
        versions = dict(self._versions)

        def read(users: Collection[str]) -> Iterable[StoredContext]:
            return [current[user] for user in users]

        def step() -> None:
            for shard in self._shards:
                users = [row.user_id for row in shard if row.user_id in due]
                store.upsert([ObservedContext(user, versions[user], at) for user in users], read)

        return step


class Layout:
    """A database with one layout of `context_store`, and the empty table `bare` for the COPY."""

    def __init__(self, connection: _Connection, rows: Sequence[StoredContext]) -> None:
        self._connection = connection
        self._store = ContextStore(connection)
        self._accounts = Accounts(connection, CredentialCipher([new_key()]))
        self._meter = StepMeter(connection)
        self._upserts = Upserts(rows)
        self._rows = rows
        self._versions = {row.user_id: row.row_version for row in rows}
        self._users = [row.user_id for row in rows]

    def measure_round(self, number: int) -> _Costs:
        """Run one round and return the CPU seconds of each step."""
        changed = random.Random(number).sample(self._users, max(1, len(self._users) // 100))
        self._connection.execute("TRUNCATE context_store, bare")
        self._connection.execute("VACUUM todoist_accounts")  # no round pays for the fetches of the rounds before it
        costs = {
            "bare COPY": self._meter.measure(self._copy),
            "fetches saved": self._meter.measure(self._upserts.next_fetch(self._accounts)),
            "fetches read by a plan": self._meter.measure(lambda: self._accounts.observations(_FIRST_RUN)),
            "first write": self._meter.measure(self._upserts.next_step(self._store, self._accounts)),
            "full rewrite": self._upsert(self._users, f"rewrite {number}"),
        }
        self._connection.execute("VACUUM context_store")  # the next steps do not pay for the dead rows of the rewrite
        costs["1 % written, 99 % unchanged"] = self._upsert(changed, f"few {number}")
        costs["all unchanged"] = self._upsert()
        refreshes = [self._refresh(f"refresh {number} {time}") for time in range(_N_REFRESHES)]
        return costs | {"all refreshed": refreshes[0], f"all refreshed, {_N_REFRESHES}th time": refreshes[-1]}

    def _upsert(self, changed: Collection[str] = (), mark: str = "") -> float:
        self._upserts.next_fetch(self._accounts, changed, mark)()
        return self._meter.measure(self._upserts.next_step(self._store, self._accounts, changed, mark))

    def _refresh(self, mark: str) -> float:
        """Fetch changed tasks of all users, of which their contexts show nothing."""
        self._upserts.next_fetch(self._accounts, self._users, mark)()
        return self._meter.measure(self._upserts.next_step(self._store, self._accounts))

    def _copy(self) -> None:
        with self._connection.cursor() as cursor, cursor.copy("COPY bare FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(_COPY_TYPES)
            for row in self._rows:
                copy.write_row((*vars(row).values(), self._versions[row.user_id], 0, b"digest"))

    def measure_read(self, name: str, parameter: str) -> tuple[float, float]:
        """CPU microseconds and median milliseconds of a statement of the request path, for one user at a time."""
        statement = getattr(queries("serving"), name).sql.encode()
        users = random.Random(1).choices(self._users, k=_N_READS)
        latencies = []

        def step() -> None:
            for user in users:
                started = time.perf_counter()
                value = [user] if parameter == "user_ids" else user
                parameters = {parameter: value, "connection_number": 0, "believes_events": False}
                self._connection.execute(statement, parameters).fetchall()
                latencies.append(time.perf_counter() - started)

        cpu_seconds = self._meter.measure(step)
        return 1e6 * cpu_seconds / _N_READS, 1e3 * median(latencies)

    def statistics(self) -> str:
        """The size of the table and the number of updates in place, as a sentence."""
        row = self._connection.execute(
            "SELECT pg_size_pretty(pg_relation_size(relid)), pg_size_pretty(pg_table_size(relid)),"
            " n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'context_store'"
        ).fetchone()
        assert row is not None
        table_size, total_size, n_updates, n_hot = row
        return f"table {table_size}, with TOAST {total_size}; {n_hot:,} of {n_updates:,} updates in place (HOT)"


def main(arguments: Sequence[str]) -> int:
    """Run the rounds and print the tables."""
    signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        n_rows = _number_of_rows(arguments)
    except ValueError as error:
        _console.print(str(error), style="red", markup=False)
        return 1
    shutil.rmtree(_FOLDER, ignore_errors=True)
    try:
        with ExitStack() as stack:
            _run(stack, n_rows)
    except KeyboardInterrupt:
        _print_line("stopped")
        return 130
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)
    return 0


def _run(stack: ExitStack, n_rows: int) -> None:
    _print_line(f"Assembling {n_rows:,} contexts")
    rows = _sample_rows(n_rows)
    _print_line("Starting Postgres 18")
    server = stack.enter_context(postgres.running_postgres(_FOLDER))
    with connect(server) as admin:  # it would clean up in the middle of some steps: the rounds do so between them
        admin.execute("ALTER SYSTEM SET autovacuum = off")
        admin.execute("SELECT pg_reload_conf()")
    layouts = {name: Layout(_create_database(stack, server, name, rows), rows) for name in _SKIPPED_MIGRATIONS}
    rounds = []
    for number in range(1, _N_ROUNDS + 1):
        _print_line(f"Round {number} of {_N_ROUNDS}")
        rounds.append({name: layout.measure_round(number) for name, layout in layouts.items()})
    _print_writes(rounds, n_rows)
    for name, layout in layouts.items():
        _print_line(f"{name}: {layout.statistics()}")
    _print_reads(layouts)


def _create_database(stack: ExitStack, server: str, name: str, rows: Sequence[StoredContext]) -> _Connection:
    """A database with all migrations but the one that the layout skips."""
    connection = stack.enter_context(connect(postgres.create_database(server, name)))
    for path in sorted((ROOT / "migrations").glob("*.sql")):
        if path.stem.split("_")[0] != _SKIPPED_MIGRATIONS[name]:
            connection.execute(path.read_text().encode())
    connection.execute("CREATE TABLE bare (LIKE context_store INCLUDING ALL)")
    with connection.cursor() as cursor:
        users = [(row.user_id, "x@example.org", "UTC") for row in rows]
        cursor.executemany("INSERT INTO users (user_id, email, timezone) VALUES (%s, %s, %s)", users)
    connection.execute("INSERT INTO todoist_accounts (user_id, credentials) SELECT user_id, '' FROM users")
    connection.execute("ANALYZE users, todoist_accounts")
    return connection


def _sample_rows(n: int) -> list[StoredContext]:
    """`n` rows with the contexts and themes of sample users, each repeated for many users."""
    contents = []
    for user in plain_users(_N_SAMPLE_USERS, today=_FIRST_RUN.date()):
        tasks = open_tasks(fold(Mirror(), user.document).mirror)
        context = assemble(Signals(user.user_id, user.timezone, "en", tasks), _FIRST_RUN, Budget(2000))
        task_ids = [task.task_id for task in tasks[:12]]
        themes = [{"label": task.title, "task_ids": task_ids} for task in tasks[:6]]
        contents.append((context.context_json, context.context_hash, context.valid_until, json.dumps(themes)))
    ids = random.Random(0)
    return [
        StoredContext(str(UUID(int=ids.getrandbits(128))), _FIRST_RUN, *contents[number % len(contents)])
        for number in range(n)
    ]


def _print_writes(rounds: Sequence[dict[str, _Costs]], n_rows: int) -> None:
    """Print the CPU seconds of each step in both layouts, and their ratios to a bare COPY and to a first write."""
    table = Table(
        "CPU seconds", title=f"{n_rows:,} contexts in shards of {_SHARD_ROWS}, medians of {len(rounds)} rounds"
    )
    for name in ("before", "now", "now / COPY before", "now / COPY now", "now / first write now"):
        table.add_column(name, justify="right")
    for step in rounds[0]["now"]:
        cells = [median(costs[name][step] for costs in rounds) for name in _SKIPPED_MIGRATIONS]
        ratios = [
            median(costs["now"][step] / costs[name][other_step] for costs in rounds)
            for name, other_step in (("before", "bare COPY"), ("now", "bare COPY"), ("now", "first write"))
        ]
        table.add_row(step, *(f"{cell:.2f}" for cell in cells), *(f"{ratio:.2f}" for ratio in ratios))
    _console.print(table)


def _print_reads(layouts: dict[str, Layout]) -> None:
    """Print the cost of a read of the request path in both layouts."""
    table = Table("statement", title=f"{_N_READS:,} reads, one user each, medians of {_N_ROUNDS} rounds")
    for name in layouts:
        table.add_column(f"{name}: CPU, microseconds", justify="right")
        table.add_column(f"{name}: p50, ms", justify="right")
    for statement, parameter in (("read_users", "user_ids"), ("read_context", "user_id")):
        rounds = [
            [layout.measure_read(statement, parameter) for layout in layouts.values()] for _ in range(_N_ROUNDS)
        ]
        cells = []
        for position in range(len(layouts)):
            cells.append(f"{median(costs[position][0] for costs in rounds):.0f}")
            cells.append(f"{median(costs[position][1] for costs in rounds):.3f}")
        table.add_row(statement, *cells)
    _console.print(table)


def _number_of_rows(arguments: Sequence[str]) -> int:
    text = arguments[0] if arguments else str(_N_ROWS)
    if not text.isdigit() or not _SHARD_ROWS <= int(text) <= _MAX_ROWS:
        raise ValueError(f"ROWS={text} is not a number from {_SHARD_ROWS} to {_MAX_ROWS}")
    return int(text)


def _raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _print_line(text: str) -> None:
    _console.print(text, markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
