"""`python -m benchmarks.store [ROWS]`: what writing contexts costs, beside a bare COPY of the same rows.

Each round does the same, shard by shard, to a `context_store` as migration 0005 left it and to one as it is now.
CPU is that of this process and of all of Postgres, a checkpoint after each step included.
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
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.meter import Meter
from contexts.assemble import Budget, assemble
from contexts.mirror import Mirror, fold, open_tasks
from contexts.model import Signals
from contexts.sql import ROOT, connect, queries
from contexts.store import ContextStore, Seen, StoredContext
from local import postgres
from local.samples import sample_users

FOLDER = Path(__file__).parent.parent / ".local" / "bench-store"
N_ROWS, MOST_ROWS = 20_000, 200_000
SHARD = 400
ROUNDS = 3
TOUCHES = 6
N_READS = 4000
N_SAMPLES = 200
FIRST = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
LAYOUTS = {"before": "0006", "now": "9999"}
"""Names of layouts, and the migration that each lacks, with those after it."""

TYPES = ("text", "timestamptz", "text", "text", "timestamptz", "text", "text")
Connection = psycopg.Connection[Any]
Step = Callable[[], object]
Costs = dict[str, float]

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


class Steps:
    """Measures steps that begin and end with a checkpoint."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._meter = Meter(connection)

    def measure(self, step: Step) -> float:
        """CPU seconds of a step and of the checkpoint after it; one before it puts each step into the same state."""
        self._connection.execute("CHECKPOINT")
        gc.collect()
        gc.freeze()  # the contexts at hand are no garbage to look through again and again
        before = self._meter.cpu_seconds()
        step()
        self._connection.execute("CHECKPOINT")
        return self._meter.cpu_seconds() - before


class Nights:
    """Runs over the same contexts, a minute apart."""

    def __init__(self, rows: Sequence[StoredContext]) -> None:
        self._shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
        self._rows = {row.user_id: row for row in rows}
        self._versions = {row.user_id: row.row_version for row in rows}
        self._at = FIRST

    def run(self, store: ContextStore, changed: Collection[str] = (), mark: str = "") -> Step:
        """A step that hands over every shard; the contexts of `changed` users are others than ever before."""
        self._at = at = self._at + timedelta(minutes=1)
        current = {user: replace(row, materialized_at=at) for user, row in self._rows.items()}
        current |= {user: replace(current[user], context_hash=f"{mark} {user}") for user in changed}
        versions = self._versions | {user: current[user].row_version for user in changed}

        def read(wanted: Collection[str]) -> Iterable[StoredContext]:
            return [current[user] for user in wanted]

        def step() -> None:
            for shard in self._shards:
                store.upsert([Seen(row.user_id, versions[row.user_id], at) for row in shard], read)

        return step


class Layout:
    """A database with `context_store` in one of the layouts, and beside it an empty table for the bare COPY."""

    def __init__(self, connection: Connection, rows: Sequence[StoredContext]) -> None:
        self._connection = connection
        self._store = ContextStore(connection)
        self._steps = Steps(connection)
        self._rows = rows
        self._everybody = [row.user_id for row in rows]

    def round(self, nights: Nights, number: int) -> Costs:
        """CPU seconds of each step."""
        few = random.Random(number).sample(self._everybody, max(1, len(self._everybody) // 100))
        self._connection.execute("TRUNCATE context_store, bare")
        costs = {
            "bare COPY": self._steps.measure(self._copy),
            "first write": self._night(nights),
            "full rewrite": self._night(nights, self._everybody, f"rewrite {number}"),
        }
        self._night(nights)
        self._connection.execute("VACUUM context_store")  # what the rewrites left is theirs to clean up
        costs["1 % and freshness of the rest"] = self._night(nights, few, f"few {number}")
        self._night(nights)
        touches = [self._night(nights) for _ in range(TOUCHES)]
        return costs | {"freshness of all": touches[0], f"the same, {TOUCHES} times, the last": touches[-1]}

    def _night(self, nights: Nights, changed: Collection[str] = (), mark: str = "") -> float:
        return self._steps.measure(nights.run(self._store, changed, mark))

    def _copy(self) -> None:
        with self._connection.cursor() as cursor, cursor.copy("COPY bare FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(TYPES)
            for row in self._rows:
                copy.write_row((*vars(row).values(), row.row_version))

    def read(self, name: str, parameter: str) -> tuple[float, float]:
        """CPU microseconds and the median of the milliseconds of a read of the request path, one user at a time."""
        statement = getattr(queries("serving"), name).sql.encode()
        users = random.Random(1).choices(self._everybody, k=N_READS)
        latencies = []

        def step() -> None:
            for user in users:
                began = time.perf_counter()
                value = [user] if parameter == "user_ids" else user
                self._connection.execute(statement, {parameter: value}).fetchall()
                latencies.append(time.perf_counter() - began)

        cpu = self._steps.measure(step)
        return 1e6 * cpu / N_READS, 1e3 * median(latencies)

    def state(self) -> str:
        """How large the table is, and how many of the updates were in place."""
        row = self._connection.execute(
            "SELECT pg_size_pretty(pg_relation_size(relid)), pg_size_pretty(pg_table_size(relid)),"
            " n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'context_store'"
        ).fetchone()
        assert row is not None
        narrow, whole, n_updates, n_hot = row
        return f"rows {narrow}, with texts {whole}; {n_hot:,} of {n_updates:,} updates in place (HOT)"


def main(arguments: Sequence[str]) -> int:
    """Run the rounds, print the tables."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        n_rows = _number(arguments)
    except ValueError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        with ExitStack() as stack:
            _bench(stack, n_rows)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    return 0


def _bench(stack: ExitStack, n_rows: int) -> None:
    say(f"Making {n_rows:,} contexts")
    rows = _rows(n_rows)
    say("Starting Postgres 18")
    server = stack.enter_context(postgres.running(FOLDER))
    layouts = {name: Layout(_database(stack, server, name, rows), rows) for name in LAYOUTS}
    nights = Nights(rows)
    rounds = []
    for number in range(1, ROUNDS + 1):
        say(f"Round {number} of {ROUNDS}")
        rounds.append({name: layout.round(nights, number) for name, layout in layouts.items()})
    show_writes(rounds, n_rows)
    for name, layout in layouts.items():
        say(f"{name}: {layout.state()}")
    show_reads(layouts)


def _database(stack: ExitStack, server: str, name: str, rows: Sequence[StoredContext]) -> Connection:
    connection = stack.enter_context(connect(postgres.create_database(server, name)))
    for path in sorted((ROOT / "migrations").glob("*.sql")):
        if path.stem < LAYOUTS[name]:
            connection.execute(path.read_text().encode())
    connection.execute("CREATE TABLE bare (LIKE context_store INCLUDING ALL)")
    with connection.cursor() as cursor:
        users = [(row.user_id, "x@example.org", "UTC") for row in rows]
        cursor.executemany("INSERT INTO users (user_id, email, timezone) VALUES (%s, %s, %s)", users)
    connection.execute("ANALYZE users")
    return connection


def _rows(n: int) -> list[StoredContext]:
    """Contexts of sample users with themes over their tasks, each for many users."""
    made = []
    for user in sample_users(N_SAMPLES, today=FIRST.date()):
        tasks = open_tasks(fold(Mirror(), user.document).mirror)
        context = assemble(Signals(user.user_id, user.timezone, "en", tasks), FIRST, Budget(2000))
        themes = [{"label": task.content, "task_ids": [each.task_id for each in tasks[:12]]} for task in tasks[:6]]
        made.append((context.context_json, context.context_hash, context.valid_until, json.dumps(themes)))
    ids = random.Random(0)
    return [StoredContext(str(UUID(int=ids.getrandbits(128))), FIRST, *made[n % len(made)]) for n in range(n)]


def show_writes(rounds: Sequence[dict[str, Costs]], n_rows: int) -> None:
    """A line for each step: seconds in both layouts, and what it is now of bare COPYs and of a first write."""
    table = Table("CPU seconds", title=f"{n_rows:,} contexts in shards of {SHARD}, medians of {len(rounds)} rounds")
    for name in ("before", "now", "of the COPY before", "of the COPY now", "of a first write now"):
        table.add_column(name, justify="right")
    for step in rounds[0]["now"]:
        cells = [median(costs[name][step] for costs in rounds) for name in LAYOUTS]
        ratios = [
            median(costs["now"][step] / costs[name][than] for costs in rounds)
            for name, than in (("before", "bare COPY"), ("now", "bare COPY"), ("now", "first write"))
        ]
        table.add_row(step, *(f"{cell:.2f}" for cell in cells), *(f"{ratio:.2f}" for ratio in ratios))
    console.print(table)


def show_reads(layouts: dict[str, Layout]) -> None:
    """What the request path pays for a read, in both layouts."""
    table = Table("a read", title=f"{N_READS:,} reads, one user each, medians of {ROUNDS} rounds")
    for name in layouts:
        table.add_column(f"{name}: CPU, microseconds", justify="right")
        table.add_column(f"{name}: p50, ms", justify="right")
    for statement, parameter in (("read_users", "user_ids"), ("read_context", "user_id")):
        rounds = [[layout.read(statement, parameter) for layout in layouts.values()] for _ in range(ROUNDS)]
        cells = []
        for position in range(len(layouts)):
            cells.append(f"{median(each[position][0] for each in rounds):.0f}")
            cells.append(f"{median(each[position][1] for each in rounds):.3f}")
        table.add_row(statement, *cells)
    console.print(table)


def _number(arguments: Sequence[str]) -> int:
    text = arguments[0] if arguments else str(N_ROWS)
    if not text.isdigit() or not SHARD <= int(text) <= MOST_ROWS:
        raise ValueError(f"ROWS is {text}: a number from {SHARD} to {MOST_ROWS} is wanted")
    return int(text)


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def say(text: str) -> None:
    """One line of progress, at once."""
    console.print(text, markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
