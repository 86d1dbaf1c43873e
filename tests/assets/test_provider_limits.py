"""The limits of the LLM's provider, which the pipeline honours while it writes tips ahead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from scribe import ask_daily
from world import NOON, World

from local.llm import Behaviour, LocalLLM, running_llm
from tips.generator import LLMGenerator

USERS = ("ann", "bob", "cem")


@pytest.fixture
def llm(world: World, account: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalLLM]:
    """The LLM of a pipeline with three users who will ask soon; it says that refused calls are to wait a second."""
    llm = LocalLLM(retry_after=1)
    with running_llm(llm) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        world.n_shards, world.clock = 1, lambda: NOON
        world.new_generator = lambda: LLMGenerator("openai:local", timeout_s=30.0, waits=True)
        for user in USERS:
            world.add(user, account(f"call the dentist of {user}"))
            ask_daily(world, user, NOON + timedelta(hours=1))
        yield llm


def counts(world: World) -> dict[str, int]:
    """The counts of a run that are not 0."""
    [result] = world.night(NOON)["tip_candidates"]
    return {name: n for name, n in result.counts.items() if n}


def test_waits(world: World, llm: LocalLLM) -> None:
    """Refused calls are made again after the time that the provider says, and everybody gets tips in the same run."""
    llm.next(Behaviour.RATE_LIMITED, Behaviour.RATE_LIMITED)
    assert counts(world) == {"tips_written": 3}
    refused, answered = llm.calls[:2], llm.calls[3:]
    assert {call.status for call in llm.calls} == {429, 200}
    assert min(call.at for call in answered) - max(call.at for call in refused) >= timedelta(seconds=0.9)


def test_too_long(world: World, llm: LocalLLM) -> None:
    """If the provider wants a longer pause than a call may take, the rest is left for a later run at once."""
    world.ahead = replace(world.ahead, timeout_s=0.9)
    llm.behaviour = Behaviour.RATE_LIMITED
    assert counts(world) == {"tips_left_out": 3}
    assert len(llm.calls) == 3
    llm.behaviour, world.ahead = Behaviour.GOOD, replace(world.ahead, timeout_s=30.0)
    assert counts(world) == {"tips_written": 3}


def test_no_room(world: World, llm: LocalLLM) -> None:
    """A flex tier without room is asked three times with fewer calls each time, then the rest is left."""
    llm.has_flex_room, world.ahead = False, replace(world.ahead, concurrency=3)
    world.new_generator = lambda: LLMGenerator("openai:local", timeout_s=30.0, waits=True, is_flex=True)
    assert counts(world) == {"tips_left_out": 3}
    assert [call.status for call in llm.calls] == [429] * 5
    assert set(world.stored()) == set(USERS)
