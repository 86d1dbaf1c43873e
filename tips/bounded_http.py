"""An HTTP client for providers of LLMs: answers limited in size, no redirects, no impossible usage figures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx2
from pydantic_ai.models import create_async_httpx2_client

MAX_ANSWER_BYTES = 64 * 1024
"""The maximum size of an answer: several times the size of the longest answer that the prompt allows."""

MAX_INT4 = 2**31 - 1
"""The maximum number of tokens of a call, which Postgres stores as INTEGER."""

_ESCAPED_HALVES = re.compile(rb"(?<!\\)(?:(\\+ud[89ab]\w\w\\+ud[c-f]\w\w)|(\\+u)d[89a-f]\w\w)", re.IGNORECASE)
"""The two escaped halves of a letter (a surrogate pair), or one alone; JSON inside JSON has several backslashes.

A match begins at the first backslash of a run: a search from each of them would take minutes for an answer of
backslashes."""

_LINE_BREAKS = re.compile(rb"\xc2\x85|\xe2\x80[\xa8\xa9]")
"""U+0085, U+2028 and U+2029 in UTF-8: no line breaks in JSON, but in `str.splitlines`, which pydantic-ai calls."""

_MAX_DIGITS = 20
_CHAT_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
_USAGE = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


class AnswerRefused(Exception):
    """The answer of an LLM's server is larger than its client allows, or it is compressed."""


def bounded_client(max_bytes: int = MAX_ANSWER_BYTES) -> httpx2.AsyncClient:
    """A client that raises AnswerRefused as soon as an answer is larger than `max_bytes`, and follows no redirect.

    In an answer with an impossible usage figure, all figures are replaced by 0.
    """
    client = create_async_httpx2_client()
    client.headers["Accept-Encoding"] = "identity"
    client.follow_redirects = False
    client.event_hooks = {**client.event_hooks, "response": [partial(_read_bounded, max_bytes=max_bytes)]}
    return client


async def _read_bounded(response: httpx2.Response, max_bytes: int) -> None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise AnswerRefused("the answer is compressed, although that was not requested")
    body, stream = bytearray(), response.stream
    assert isinstance(stream, httpx2.AsyncByteStream)
    async for chunk in stream:
        body += chunk
        if len(body) > max_bytes:
            raise AnswerRefused(f"the answer is larger than {max_bytes} bytes")
    await stream.aclose()
    response.stream = httpx2.ByteStream(_with_possible_usage(_with_whole_lines(_with_whole_letters(bytes(body)))))


def _with_whole_letters(body: bytes) -> bytes:
    """A JSON text in which an escaped half of a letter, which no text can hold, is a replacement character."""
    return _ESCAPED_HALVES.sub(lambda match: match[1] or match[2] + b"fffd", body)


def _with_whole_lines(body: bytes) -> bytes:
    """Lines of JSON with Unicode's line breaks escaped, so that an answer with one does not split its line."""
    return _LINE_BREAKS.sub(lambda match: json.dumps(match[0].decode())[1:-1].encode(), body)


def _with_possible_usage(body: bytes) -> bytes:
    """The body of an answer with usage figures that every client can read; any other body as it is."""
    try:
        document = json.loads(body, parse_int=_bounded_int)
    except (ValueError, RecursionError):
        return body
    if not isinstance(document, dict) or "usage" not in document:
        return body
    default = _CHAT_USAGE if "choices" in document else _USAGE
    given = document["usage"] if isinstance(document["usage"], dict) else {}
    usage = {name: value for name, value in given.items() if value is not None or name not in default}
    possible = {**default, **(usage if _is_possible(usage) else _zeroed(usage))}
    if possible == document["usage"]:
        return body
    return json.dumps({**document, "usage": possible}).encode()


def _bounded_int(digits: str) -> int:
    """A number of JSON, or -1, which is impossible, too, if it has too many digits."""
    return int(digits) if len(digits) <= _MAX_DIGITS else -1


def _is_possible(usage: Mapping[str, Any]) -> bool:
    return all(
        _is_possible_count(value) if _is_count(name) else not isinstance(value, dict) or _is_possible(value)
        for name, value in usage.items()
    )


def _is_possible_count(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value <= MAX_INT4)


def _is_count(name: str) -> bool:
    return name.endswith("tokens")


def _zeroed(usage: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: 0 if _is_count(name) else _zeroed(value) if isinstance(value, dict) else value
        for name, value in usage.items()
    }
