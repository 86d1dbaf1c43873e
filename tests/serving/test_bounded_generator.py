"""The bound of LLM calls under way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from service import ServiceHarness


@pytest.fixture
def users(harness: ServiceHarness, account: Any) -> list[str]:
    """Twelve users with contexts, and an LLM that takes its time."""
    names = [f"user-{n}" for n in range(12)]
    for name in names:
        harness.add_with_context(name, account("water the plants", "call bob", "buy milk"))
    harness.llm.seconds = 0.5
    return names


class TestBoundedGenerator:
    def test_beyond_the_bound(self, harness: ServiceHarness, users: list[str]) -> None:
        """As many requests as allowed wait for the LLM; the others get rule-based tips without waiting."""
        service = harness.open(llm_concurrency=3, llm_timeout=8, request_budget=10)
        responses = harness.together(*(service.tip_async(user) for user in users))
        called = [each for each in responses if each.origin == ("stored", "called")]
        fallback = [each for each in responses if each.origin == ("stored", "fallback")]
        assert (len(called), len(fallback), len(harness.llm.calls)) == (3, 9, 3)
        assert max(each.seconds for each in fallback) < min(each.seconds for each in called)

    def test_soon_again(self, harness: ServiceHarness, users: list[str]) -> None:
        """A user whose request was beyond the bound gets tips of the LLM half a minute later."""
        service = harness.open(llm_concurrency=1, llm_timeout=8, request_budget=10)
        responses = harness.together(*(service.tip_async(user) for user in users[:2]))
        [left_out] = [user for user, each in zip(users, responses, strict=False) if each.body["llm"] == "fallback"]
        harness.clock.forward(seconds=20)
        assert service.tip(left_out).body["llm"] == "fallback"
        assert len(harness.llm.calls) == 1
        harness.clock.forward(seconds=11)
        assert service.tip(left_out).body["llm"] == "called"

    def test_failed_call(self, harness: ServiceHarness, users: list[str]) -> None:
        """A call that failed makes room for the next one."""
        service = harness.open(llm_concurrency=1, llm_timeout=0.2)
        assert service.tip(users[0]).body["llm"] == "fallback"
        harness.llm.seconds = 0
        assert service.tip(users[1]).body["llm"] == "called"
        harness.clock.forward(seconds=timedelta(minutes=4).total_seconds())
        assert service.tip(users[0]).body["llm"] == "fallback"
