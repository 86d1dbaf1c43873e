"""`python -m benchmarks.processes`: tips from a port that one, two and four processes serve (SERVING_WORKERS).

Three services run side by side over one database, and take turns. The client runs on the same machine: if it has few
cores, more processes than cores cannot answer more.
"""

from __future__ import annotations

import os
import statistics
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from rich.console import Console

from benchmarks.meter import CpuMeter
from benchmarks.output import LOCAL_FOLDER, numbers_table
from benchmarks.requests import KEY, fill_database
from benchmarks.tip_client import Round, TipClient
from contexts.postgres.sql import connect
from local import postgres, service

_COUNTS = (1, 2, 4)
_N_REQUESTS = 2000
_N_WARM_UP_REQUESTS = 500
_N_ROUNDS = 5
_CONCURRENCY = 16

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Run the rounds and print the table."""
    ArgumentParser(prog="python -m benchmarks.processes", description=__doc__).parse_args()
    LOCAL_FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        server = stack.enter_context(postgres.running_postgres(LOCAL_FOLDER / "bench-postgres"))
        url = postgres.create_database(server, "bench_processes", replace=True)
        users, _ = fill_database(url)
        clients, meter = {}, CpuMeter(stack.enter_context(connect(url)))
        for count in _COUNTS:
            variables = {"DATABASE_URL": url, "CREDENTIALS_KEYS": KEY, "SERVING_WORKERS": str(count)}
            log_file = LOCAL_FOLDER / f"bench-service-{count}.log"
            running = stack.enter_context(service.running_service(variables, log_file))
            clients[count] = TipClient(running.pid, running.port, running.token, users, meter)
        print_rounds(run_rounds(clients))
    return 0


def run_rounds(clients: Mapping[int, TipClient]) -> dict[int, list[Round]]:
    """The rounds by number of processes, which take turns."""
    rounds: dict[int, list[Round]] = {count: [] for count in clients}
    for client in clients.values():
        client.run_round(_N_WARM_UP_REQUESTS, _CONCURRENCY)
    for number in range(1, _N_ROUNDS + 1):
        _console.print(f"  round {number} of {_N_ROUNDS}")
        for count, client in clients.items():
            rounds[count].append(client.run_round(_N_REQUESTS, _CONCURRENCY))
    return rounds


def print_rounds(rounds: Mapping[int, Sequence[Round]]) -> None:
    """Print the medians of the rounds in a row for each number of processes."""
    columns = ("requests a second", "CPU us each", "cores in use", "p50, ms", "p99, ms")
    title = f"Tips from one port, {_CONCURRENCY} connections, {os.cpu_count()} cores for client, service and Postgres"
    table = numbers_table(title, "processes", *columns)
    for count, each in rounds.items():
        table.add_row(
            str(count),
            f"{statistics.median(one.n / one.seconds for one in each):,.0f}",
            f"{statistics.median(one.cpu_us for one in each):,.0f}",
            f"{statistics.median(one.cpu_seconds / one.seconds for one in each):.2f}",
            f"{statistics.median(one.quantile_ms(0.5) for one in each):,.1f}",
            f"{statistics.median(one.quantile_ms(0.99) for one in each):,.1f}",
        )
    _console.print(table)


if __name__ == "__main__":
    sys.exit(main())
