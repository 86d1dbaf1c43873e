"""The answers of OpenAI's chat completions API, good and bad. Source: its API reference, "Chat" and "Error codes"."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from local.wire import Reply, json_reply

BYTES_PER_TOKEN = 4


def answer(text: str, tool: str | None, call_id: str) -> Mapping[str, Any]:
    """A choice that says `text`, as the arguments of `tool` or plainly."""
    if tool is None:
        return _choice("stop", content=text)
    call = {"id": call_id, "type": "function", "function": {"name": tool, "arguments": text}}
    return _choice("tool_calls", tool_calls=[call])


def refusal(text: str) -> Mapping[str, Any]:
    """A choice in which the model says that it will not."""
    return _choice("stop", refusal=text)


def filtered() -> Mapping[str, Any]:
    """A choice that a filter emptied."""
    return _choice("content_filter")


def completion(
    choice: Mapping[str, Any], *, id: str, model: str, created: int, prompt: str, text: str
) -> Mapping[str, Any]:
    """A whole answer; its tokens are those of `prompt` and `text`, taken as 4 bytes each."""
    asked, said = _tokens(prompt), _tokens(text)
    return {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }


def error_reply(
    status: int, message: str, code: str | None = None, kind: str = "invalid_request_error", **headers: str
) -> Reply:
    """An error; a header's underscores stand for hyphens."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return json_reply(body, status, **headers)


def rate_limited(retry_after: int) -> Reply:
    """`retry_after` in seconds."""
    message = f"Rate limit reached. Please try again in {retry_after}s."
    return error_reply(429, message, "rate_limit_exceeded", "requests", Retry_After=str(retry_after))


def server_error() -> Reply:
    return error_reply(500, "The server had an error while processing your request.", kind="server_error")


def _choice(finish_reason: str, **said: Any) -> Mapping[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None, **said}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}


def _tokens(text: str) -> int:
    return ceil(len(text.encode()) / BYTES_PER_TOKEN)
