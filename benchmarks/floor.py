"""`python -m benchmarks.floor URL`: reads of context rows through asyncpg and nothing else, in a process of its own.

For each line `N CONCURRENCY` that comes it makes N reads, and answers with its CPU seconds and the latencies as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import asyncpg
import uvloop

_READ = "SELECT user_id, materialized_at, context_json, context_hash FROM context_store WHERE user_id = $1"


async def _read(pool: Any, users: list[str], share: range) -> list[float]:
    latencies = []
    for number in share:
        began = time.perf_counter()
        await pool.fetchrow(_READ, users[number % len(users)])
        latencies.append(time.perf_counter() - began)
    return latencies


async def _main(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=8, max_size=8) as pool:
        users = [row[0] for row in await pool.fetch("SELECT user_id FROM context_store ORDER BY 1")]
        for line in sys.stdin:
            n, concurrency = map(int, line.split())
            cpu, began = time.process_time(), time.perf_counter()
            shares = [range(start, n, concurrency) for start in range(concurrency)]
            parts = await asyncio.gather(*(_read(pool, users, share) for share in shares))
            seconds = time.perf_counter() - began
            latencies = sorted(each for part in parts for each in part)
            print(json.dumps([time.process_time() - cpu, seconds, latencies]), flush=True)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
