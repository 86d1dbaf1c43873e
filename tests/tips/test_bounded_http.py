"""Answers of an LLM's server that are too large, too slow, endless or impossible, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from datetime import date

import pytest
from raw_llm import (
    HEAD,
    Answer,
    RawServer,
    chunked,
    completion,
    drips,
    endless_header,
    endless_headers,
    gigabyte,
    gzip_bomb,
    whole,
)
from strategies import context

from tips.answers import N_CANDIDATES
from tips.bounded_http import MAX_ANSWER_BYTES
from tips.candidates import MAX_TITLE_CHARS
from tips.generator import Generation, LLMGenerator

TODAY = date(2026, 11, 23)
ABOUT = context("Renew the passport", "Call the plumber", "Water the plants")
DEADLINE_S = 1.0
MAX_STALL_S = 1.0
"""CPU seconds for which the event loop may be busy with one answer; 100,000 candidates once took 7.7."""

SOCKET_BYTES = 16 * 2**20
"""Bytes that a server can send into the buffers of a connection whose client reads no more."""

GOOD = {"kind": "focus", "title": "One thing first", "body": ["Begin with ", {"task": "t2"}, " before mail."]}
ALSO_GOOD = {"kind": "plan", "title": "A look ahead", "body": "Keep an hour of the week free."}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    running = RawServer()
    with running.running() as url:
        for name in ("OPENAI", "ANTHROPIC"):
            monkeypatch.setenv(f"{name}_BASE_URL", f"{url}/v1" if name == "OPENAI" else url)
            monkeypatch.setenv(f"{name}_API_KEY", "x")
        yield running


def generated(
    model: str = "openai-chat:local", timeout_s: float = DEADLINE_S, n_times: int = 1
) -> tuple[list[Generation], float]:
    """The generations of one client in turn, and the longest CPU time of a single turn of the event loop."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - before)

    async def run() -> list[Generation]:
        llm = LLMGenerator(model, timeout_s=60)
        watcher = asyncio.create_task(watch())
        try:
            return [await llm.generate(ABOUT, TODAY, timeout_s=timeout_s) for _ in range(n_times)]
        finally:
            watcher.cancel()

    return asyncio.run(run()), longest


def outcome_of(made: Generation) -> str:
    assert made.usage is not None
    return made.usage.outcome


HUGE: Mapping[str, Answer] = {
    "a gigabyte": gigabyte,
    "endless chunks": chunked,
    "endless headers": endless_headers,
    "an endless header": endless_header,
    "a compressed answer": gzip_bomb,
}


@pytest.mark.parametrize("name", HUGE)
@pytest.mark.parametrize("model", ["openai-chat:local", "anthropic:claude-haiku-4-5"])
def test_huge(server: RawServer, name: str, model: str) -> None:
    """An answer without end is cut off at its maximum size, long before the deadline; there is no second request."""
    server.answer = HUGE[name]
    [made], stall_s = generated(model, timeout_s=30)
    assert (made.tips, outcome_of(made)) == ((), "failed")
    assert made.usage is not None and made.usage.seconds < 20
    assert (server.n_requests, server.n_bytes < SOCKET_BYTES) == (1, True)
    assert stall_s < MAX_STALL_S


@pytest.mark.parametrize("head", [HEAD + b"\r\n", HEAD + b"X-Header: "], ids=["body", "headers"])
def test_slow_without_end(server: RawServer, head: bytes) -> None:
    """An answer that comes byte by byte is given up at the deadline."""
    server.answer = drips(head)
    [made], _ = generated()
    assert (made.tips, outcome_of(made)) == ((), "late")
    assert made.usage is not None and made.usage.seconds >= DEADLINE_S


def test_redirects(server: RawServer) -> None:
    """A redirect is not followed: the prompt is for nobody else."""
    server.answer = whole("", b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /v1/again\r\n")
    [made], _ = generated()
    assert (outcome_of(made), server.n_requests) == ("failed", 1)


MANY = [{**GOOD, "title": f"Number {n}", "body": [f"Step {n}"]} for n in range(100_000)]
DEEP = '{"candidates": ' + "[" * 30_000
ODD_BODIES: Mapping[str, str | bytes] = {
    "100,000 candidates": completion(MANY),
    "500 candidates": completion(MANY[:500]),
    "nested JSON": "[" * 60_000,
    "nested arguments": completion(DEEP),
    "nested usage": '{"choices": [], "usage": ' + '{"a": ' * 9_000 + "1" + "}" * 9_001,
    "300 calls": completion([{"title": "x"}], n_calls=300),
    "long text": completion([{**GOOD, "title": "x " * 30_000}]),
    "many tasks": completion([{**GOOD, "tasks": ["t1"] * 9_000}]),
    "many parts": completion([{**GOOD, "body": [{"task": "t1"}] * 3_000}]),
    "a digit's number": '{"choices": ' + "9" * 60_000 + "}",
    "half a letter": b'{"choices": "\xff\xfe"}',
    "backslashes": "\\" * MAX_ANSWER_BYTES,
}


@pytest.mark.parametrize("name", ODD_BODIES)
def test_odd_bodies(server: RawServer, name: str) -> None:
    """Any body leads to an outcome within the deadline, and never holds up the event loop."""
    server.answer = whole(ODD_BODIES[name])
    [made], stall_s = generated(timeout_s=30)
    assert outcome_of(made) in ("answered", "invalid", "failed")
    assert made.usage is not None and made.usage.seconds < 20
    assert stall_s < MAX_STALL_S


@pytest.mark.parametrize(
    "content_type", ["text/html", "application/octet-stream", "image/png", "", "text/event-stream"]
)
def test_content_types(server: RawServer, content_type: str) -> None:
    """A wrong content type is no error: good candidates under it may be used or refused."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: " + content_type.encode() + b"\r\n"
    server.answer = whole(completion([GOOD, ALSO_GOOD]), head)
    [made], _ = generated()
    assert outcome_of(made) in ("answered", "invalid", "failed")


def test_largest_answer(server: RawServer) -> None:
    """An answer just below the maximum size is read."""
    body = completion([GOOD, ALSO_GOOD])
    server.answer = whole(body + " " * (MAX_ANSWER_BYTES - len(body)))
    [made], _ = generated(timeout_s=10)
    assert [tip.title for tip in made.tips] == [GOOD["title"], ALSO_GOOD["title"]]


def test_more_than_requested(server: RawServer) -> None:
    """Of 300 candidates the first good ones are taken, without a second paid request."""
    server.answer = whole(completion([{**GOOD, "tasks": ["t9"]}, *MANY[:299]]))
    [made], _ = generated(timeout_s=10)
    assert [tip.title for tip in made.tips] == [f"Number {n}" for n in range(N_CANDIDATES)]
    assert (outcome_of(made), server.n_requests) == ("answered", 1)


BAD_CANDIDATES = {
    "a number": 7,
    "null": None,
    "a list": [],
    "nothing": {},
    "unknown kind": {**GOOD, "kind": "sermon"},
    "long title": {**GOOD, "title": "x " * MAX_TITLE_CHARS},
    "title of a number": {**GOOD, "title": 7},
    "tasks of a text": {**GOOD, "tasks": "t2"},
    "tasks of numbers": {**GOOD, "tasks": [2]},
    "an unknown task": {**GOOD, "body": ["Begin ", {"task": "t9"}]},
    "a part of two": {**GOOD, "body": ["Begin ", {"task": "t1", "text": "x"}]},
    "a task alone": {**GOOD, "body": [{"task": "t1"}]},
    "no part": {**GOOD, "body": []},
    "half a letter": {**GOOD, "title": "\ud800"},
    "nested": {**GOOD, "title": [[[[]]]]},
    "a link": {**GOOD, "body": "See www.evil.example"},
}


@pytest.mark.parametrize("name", BAD_CANDIDATES)
def test_one_bad_candidate(server: RawServer, name: str) -> None:
    """One bad candidate, whatever is wrong with it, costs neither the good ones nor a second request."""
    server.answer = whole(completion([GOOD, BAD_CANDIDATES[name], ALSO_GOOD]))
    [made], _ = generated(timeout_s=10)
    assert [tip.title for tip in made.tips] == [GOOD["title"], ALSO_GOOD["title"]]
    assert (outcome_of(made), server.n_requests) == ("answered", 1)


ABSURD_USAGE = {
    "negative": '{"prompt_tokens": -5, "completion_tokens": 5, "total_tokens": 0}',
    "negative output": '{"prompt_tokens": 5, "completion_tokens": -5, "total_tokens": 0}',
    "huge": '{"prompt_tokens": 1000000000000, "completion_tokens": 5, "total_tokens": 5}',
    "beyond INT4": '{"prompt_tokens": 2147483648, "completion_tokens": 5, "total_tokens": 5}',
    "many digits": f'{{"prompt_tokens": {"9" * 6000}, "completion_tokens": 5, "total_tokens": 5}}',
    "NaN": '{"prompt_tokens": NaN, "completion_tokens": 5, "total_tokens": 5}',
    "infinite": '{"prompt_tokens": 1e999, "completion_tokens": 5, "total_tokens": 5}',
    "a fraction": '{"prompt_tokens": 3.5, "completion_tokens": 5, "total_tokens": 5}',
    "a text": '{"prompt_tokens": "many", "completion_tokens": 5, "total_tokens": 5}',
    "true": '{"prompt_tokens": true, "completion_tokens": 5, "total_tokens": 5}',
    "null": "null",
    "a list": "[1, 2]",
    "empty": "{}",
    "nested": '{"prompt_tokens": {"a": 1}, "completion_tokens": 5, "total_tokens": 5}',
    "details": '{"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 5,'
    ' "prompt_tokens_details": {"cached_tokens": -7}}',
}


@pytest.mark.parametrize("name", ABSURD_USAGE)
@pytest.mark.parametrize("model", ["openai-chat:gpt-5-mini", "openai-chat:local"])
def test_absurd_usage(server: RawServer, name: str, model: str) -> None:
    """Impossible usage figures, or none, are unknown tokens and an unknown cost; the candidates are used."""
    server.answer = whole(completion([GOOD, ALSO_GOOD], ABSURD_USAGE[name]))
    [made], _ = generated(model, timeout_s=10)
    assert (outcome_of(made), len(made.tips), server.n_requests) == ("answered", 2, 1)
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.cost_usd) == (None, None, None)
    assert made.usage.cached_tokens is None


@pytest.mark.parametrize("tokens", ["-1", "2147483648", "1.5", '"x"', "NaN", "null"])
def test_absurd_usage_of_anthropic(server: RawServer, tokens: str) -> None:
    """The same holds for Anthropic's API."""
    tips = {"type": "text", "text": json.dumps({"candidates": [GOOD, ALSO_GOOD]})}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": [tips]}
    body = json.dumps({**message, "stop_reason": "end_turn"})
    server.answer = whole(f'{body[:-1]}, "usage": {{"input_tokens": {tokens}, "output_tokens": 1}}}}')
    [made], _ = generated("anthropic:claude-haiku-4-5", timeout_s=10)
    assert (outcome_of(made), len(made.tips)) == ("answered", 2)
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.cost_usd) == (None, None, None)


def test_absurd_sum(server: RawServer) -> None:
    """Two requests whose tokens are possible each, and beyond the column together, have an unknown usage."""
    usage = '{"prompt_tokens": 2147483647, "completion_tokens": 5, "total_tokens": 5}'
    server.answer = whole(completion([GOOD], usage))
    [made], _ = generated(timeout_s=10)
    assert made.usage is not None
    assert (made.usage.n_requests, made.usage.input_tokens) == (2, None)


def test_wild_answers_open_no_circuit_for_good_ones(server: RawServer) -> None:
    """Answers without sense are the model's, so the next one is requested and used."""
    answers = iter([whole(ODD_BODIES["300 calls"])] * 12)
    good = whole(completion([GOOD, ALSO_GOOD]))
    server.answer = lambda send: next(answers, good)(send)
    made, _ = generated(timeout_s=10, n_times=7)
    assert [len(each.tips) for each in made] == [0] * 6 + [2]
