"""Answers of OpenAI's chat completions and responses APIs. Source: its API reference and "Error codes"."""

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


def response(output: Mapping[str, Any], *, model: str, created: int, prompt: str, text: str) -> Mapping[str, Any]:
    """The body of an answer of the responses API; its usage counts as that of `completion`."""
    n_prompt, n_output = _tokens(prompt), _tokens(text)
    usage = {
        "input_tokens": n_prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": n_output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": n_prompt + n_output,
    }
    empty = dict.fromkeys(("error", "incomplete_details", "instructions"))
    fixed = {"object": "response", "created_at": created, "model": model, "tool_choice": "auto", "usage": usage}
    return {**empty, **fixed, "metadata": {}, "tools": [], "parallel_tool_calls": True, **output}


def answer_output(text: str, tool: str | None, id: str) -> Mapping[str, Any]:
    """An output with `text` as the arguments of a function call, or as the text if `tool` is None."""
    if tool is None:
        return _output(id, {"type": "output_text", "text": text, "annotations": []})
    call = {"type": "function_call", "id": f"fc_{id}", "call_id": f"call_{id}", "name": tool, "arguments": text}
    return {"id": f"resp_{id}", "status": "completed", "output": [{**call, "status": "completed"}]}


def refusal_output(text: str, id: str) -> Mapping[str, Any]:
    """An output in which the model refuses to answer."""
    return _output(id, {"type": "refusal", "refusal": text})


def filtered_output(id: str) -> Mapping[str, Any]:
    """An output that was emptied by a content filter."""
    reason = {"reason": "content_filter"}
    return {"id": f"resp_{id}", "status": "incomplete", "incomplete_details": reason, "output": []}


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


def no_room() -> Reply:
    """A 429 response for the flex service tier, which is full."""
    message = "Flex processing is not available at the moment. Please try again later."
    return error_reply(429, message, "resource_unavailable", "resource_unavailable")


def server_error() -> Reply:
    """A 500 response."""
    return error_reply(500, "The server had an error while processing your request.", kind="server_error")


def _output(id: str, part: Mapping[str, Any]) -> Mapping[str, Any]:
    message = {"type": "message", "id": f"msg_{id}", "role": "assistant", "status": "completed", "content": [part]}
    return {"id": f"resp_{id}", "status": "completed", "output": [message]}


def _choice(finish_reason: str, **message_fields: Any) -> Mapping[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None, **message_fields}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}


def _tokens(text: str) -> int:
    return ceil(len(text.encode()) / BYTES_PER_TOKEN)
