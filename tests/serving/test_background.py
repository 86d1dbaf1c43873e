"""Periodic work in the background."""

from __future__ import annotations

import asyncio
import logging

import pytest

from serving.background import run_periodically


def test_work_that_fails_goes_on_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Errors do not end periodic work; those in a row are one line, and one after a success is the next."""
    outcomes, n_calls, is_over = iter("fffsff"), 0, asyncio.Event()

    async def work() -> None:
        nonlocal n_calls
        n_calls += 1
        outcome = next(outcomes, None)
        if outcome is None:
            is_over.set()
        if outcome == "f":
            raise ValueError("with a private text")

    async def run() -> None:
        async with run_periodically("counting", 0.001, work), asyncio.timeout(10):
            await is_over.wait()

    with caplog.at_level(logging.ERROR, logger="serving.background"):
        asyncio.run(run())
    assert n_calls >= 7
    assert caplog.messages == ["counting failed, and is tried every 0.001 s: ValueError"] * 2
