"""`python -m benchmarks.floor URL`: bare reads of context rows with asyncpg, the lower bound of a request's cost.

Reads lines `N CONCURRENCY` from stdin; for each makes N reads and prints its CPU seconds, its seconds and the sorted
latencies in seconds, as one JSON array.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import asyncpg
import uvloop

from benchmarks.minimal_server import keep_state

_READ = "SELECT user_id, materialized_at, context_json, context_hash FROM context_store WHERE user_id = $1"


async def _read_rows(pool: Any, users: list[str], numbers: range) -> list[float]:
    """Read rows one after the other and return the latencies."""
    latencies = []
    for number in numbers:
        started = time.perf_counter()
        await pool.fetchrow(_READ, users[number % len(users)])
        latencies.append(time.perf_counter() - started)
    return latencies


async def _main(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=8, max_size=8, reset=keep_state) as pool:
        users = [row[0] for row in await pool.fetch("SELECT user_id FROM context_store ORDER BY 1")]
        for line in sys.stdin:
            n, concurrency = map(int, line.split())
            started_cpu, started = time.process_time(), time.perf_counter()
            readers = [_read_rows(pool, users, range(start, n, concurrency)) for start in range(concurrency)]
            parts = await asyncio.gather(*readers)
            seconds = time.perf_counter() - started
            latencies = sorted(latency for part in parts for latency in part)
            print(json.dumps([time.process_time() - started_cpu, seconds, latencies]), flush=True)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
