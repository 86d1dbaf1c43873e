"""Batches of requests for candidates, over OpenAI's API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest

from contexts.assembly.model import Counts, Profile, Reactions, TaskView, UserContext
from local.llm import BatchFault, LocalLLM, running_llm
from tips.batch_handles import BatchedRequest, BatchError, BatchLost, has_ended, outcome_of
from tips.batches import CandidateBatches
from tips.models import LLMError

NOW, TODAY = datetime(2026, 11, 23, 12, tzinfo=UTC), date(2026, 11, 23)
FIRST, SECOND = UUID(int=1), UUID(int=2)


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalLLM]:
    """The server of OPENAI_BASE_URL."""
    llm = LocalLLM(clock=lambda: NOW)
    with running_llm(llm) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        yield llm


def request(custom_id: str) -> BatchedRequest:
    """A request about a person with one task."""
    context = UserContext(
        profile=Profile(timezone="UTC", language="en"),
        counts=Counts(open=1, shown=1, overdue=0, today=1, this_week=0, later=0, someday=0),
        tasks={"today": (TaskView(id="t0", title=f"Send invoice {custom_id}"),)},
        themes=(),
        reactions=Reactions(by_kind={}, by_theme={}),
    )
    return BatchedRequest(custom_id, context, TODAY)


def batches() -> CandidateBatches:
    return CandidateBatches("openai:local")


def test_found_by_another_process(llm: LocalLLM) -> None:
    """A batch is found by our id, among others, and its answers are those of its own requests."""

    async def run() -> None:
        await batches().submit(FIRST, [request("a")])
        await batches().submit(SECOND, [request("b"), request("c")])
        client = batches()
        handle = await client.find(SECOND, NOW)
        assert handle is not None
        handle = await client.refresh(handle)
        assert (has_ended(handle), outcome_of(handle)) == (True, "completed")
        results = await client.results(handle, [request("b"), request("gone")])
        assert results["gone"] is None
        assert results["b"] is not None and len(results["b"].tips) >= 2
        await client.delete_files(handle)
        await client.delete_files(handle)

    asyncio.run(run())
    assert [batch["metadata"] for batch in llm.batches.batches.values()] == [
        {"tips_batch_id": str(FIRST)},
        {"tips_batch_id": str(SECOND)},
    ]
    left = {file.filename for file in llm.batches.files.values() if file.purpose == "batch"}
    assert left == {f"tips-{FIRST}.jsonl"}


def test_orphan(llm: LocalLLM) -> None:
    """The file of a batch that was never created is deleted by the search for the batch, and no other file."""
    llm.batches.fault = BatchFault.UNCREATED
    for batch_id in (FIRST, SECOND):
        with pytest.raises(BatchError):
            asyncio.run(batches().submit(batch_id, [request("a")]))
    assert asyncio.run(batches().find(FIRST, NOW)) is None
    assert [file.filename for file in llm.batches.files.values()] == [f"tips-{SECOND}.jsonl"]


def test_cancelled(llm: LocalLLM) -> None:
    """A cancelled batch ends without answers and without a call of the LLM."""
    llm.batches.seconds = timedelta(hours=1).total_seconds()

    async def run() -> None:
        client = batches()
        handle = await client.refresh(await client.cancel(await client.submit(FIRST, [request("a")])))
        assert outcome_of(handle) == "cancelled"
        assert await client.results(handle, [request("a")]) == {"a": None}

    asyncio.run(run())
    assert llm.calls == []


def test_forgotten_by_the_provider(llm: LocalLLM) -> None:
    """A batch that the provider has no more is lost."""
    handle = asyncio.run(batches().submit(FIRST, [request("a")]))
    llm.batches.batches.clear()
    with pytest.raises(BatchLost):
        asyncio.run(batches().refresh(handle))


def test_unreadable_results(llm: LocalLLM) -> None:
    """Results that are no JSON lines are lost, and no text of them is in the error."""

    async def run() -> None:
        client = batches()
        handle = await client.refresh(await client.submit(FIRST, [request("a")]))
        output_id = handle["provider_details"]["output_file_id"]
        llm.batches.files[output_id] = replace(llm.batches.files[output_id], content=b"secret <html>")
        with pytest.raises(BatchLost) as lost:
            await client.results(handle, [request("a")])
        assert "secret" not in str(lost.value)

    asyncio.run(run())


def test_model_without_batches(llm: LocalLLM) -> None:
    """A model without OpenAI's Batch API is refused with the remedies."""
    with pytest.raises(LLMError, match=r"LLM_MODEL=openai:NAME, or TIPS_AHEAD=flex or now"):
        CandidateBatches("openai-chat:local")
