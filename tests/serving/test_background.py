"""Work in the background."""

from __future__ import annotations

import asyncio
import logging

import pytest

from serving.background import run_periodically, run_together


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


def test_work_that_runs_together_ends_before_its_error_is_raised() -> None:
    """The error of one piece of work reaches the caller when all others have ended, so none is left running."""
    ended = []

    async def work(n_turns: int) -> None:
        for _ in range(n_turns):
            await asyncio.sleep(0)
        ended.append(n_turns)
        if n_turns == 1:
            raise ValueError

    with pytest.raises(ValueError):
        asyncio.run(run_together(map(work, (1, 5, 10))))
    assert ended == [1, 5, 10]
