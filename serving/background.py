"""Work in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

log = logging.getLogger(__name__)

_REPEAT_S = 30.0
"""Seconds between two messages about work that goes on failing."""


@asynccontextmanager
async def run_periodically(
    name: str, interval_s: float, work: Callable[[], Awaitable[object]]
) -> AsyncIterator[None]:
    """Run `work` every `interval_s` seconds while the block lasts; its errors do not end it.

    Of errors in a row the first is logged, and then one in half a minute.
    """
    task = asyncio.create_task(_run_forever(name, interval_s, work))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def run_together(works: Iterable[Awaitable[object]]) -> None:
    """Run several pieces of work at once until all have ended; then raise the first error, if there was one."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def _run_forever(name: str, interval_s: float, work: Callable[[], Awaitable[object]]) -> None:
    logged_at: float | None = None
    while True:
        await asyncio.sleep(interval_s)
        try:
            await work()
            logged_at = None
        except Exception as error:
            now = time.monotonic()
            if logged_at is None or now - logged_at >= _REPEAT_S:
                log.error("%s failed, and is tried every %g s: %s", name, interval_s, type(error).__name__)
                logged_at = now
