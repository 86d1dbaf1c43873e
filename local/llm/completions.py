"""Responses of OpenAI's chat completions API. Source: its API reference, "Chat" and "Error codes"."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from local.faulty_http import Reply, json_reply

BYTES_PER_TOKEN = 4


def answer_choice(text: str, tool: str | None, call_id: str) -> Mapping[str, Any]:
    """A choice with `text` as the arguments of a tool call, or as the content if `tool` is None."""
    if tool is None:
        return _choice("stop", content=text)
    call = {"id": call_id, "type": "function", "function": {"name": tool, "arguments": text}}
    return _choice("tool_calls", tool_calls=[call])


def refusal_choice(text: str) -> Mapping[str, Any]:
    """A choice in which the model refuses to answer."""
    return _choice("stop", refusal=text)


def filtered_choice() -> Mapping[str, Any]:
    """A choice that was emptied by a content filter."""
    return _choice("content_filter")


def completion(
    choice: Mapping[str, Any], *, id: str, model: str, created: int, prompt: str, text: str
) -> Mapping[str, Any]:
    """The body of a response; its usage counts the bytes of `prompt` and `text`, 4 per token."""
    n_prompt, n_completion = _tokens(prompt), _tokens(text)
    return {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_completion,
            "total_tokens": n_prompt + n_completion,
        },
    }


def error_reply(
    status: int, message: str, code: str | None = None, kind: str = "invalid_request_error", **headers: str
) -> Reply:
    """An error response; underscores in header names become hyphens."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return json_reply(body, status, **headers)


def rate_limited(retry_after: int) -> Reply:
    """A 429 response; `retry_after` in seconds."""
    message = f"Rate limit reached. Please try again in {retry_after}s."
    return error_reply(429, message, "rate_limit_exceeded", "requests", Retry_After=str(retry_after))


def server_error() -> Reply:
    """A 500 response."""
    return error_reply(500, "The server had an error while processing your request.", kind="server_error")


def _choice(finish_reason: str, **message_fields: Any) -> Mapping[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None, **message_fields}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}


def _tokens(text: str) -> int:
    return ceil(len(text.encode()) / BYTES_PER_TOKEN)
