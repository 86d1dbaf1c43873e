"""Periodic work in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

log = logging.getLogger(__name__)


@asynccontextmanager
async def run_periodically(
    name: str, interval_s: float, work: Callable[[], Awaitable[object]]
) -> AsyncIterator[None]:
    """Run `work` every `interval_s` seconds while the block lasts; its errors are logged and do not end it."""
    task = asyncio.create_task(_run_forever(name, interval_s, work))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run_forever(name: str, interval_s: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await work()
        except Exception as error:
            log.error("%s failed, next try in %.0f s: %s", name, interval_s, type(error).__name__)
