"""What a client may ask of /v1/chat/completions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.llm.completions import error_reply
from local.llm.context import objects_in
from local.llm.form import Schema, form_of
from local.wire import RefusedError


@dataclass(frozen=True)
class Asked:
    """A request to write. prompt: all message texts. tool: the function that the answer is to call, None for a
    plain answer. schema: what it is to look like, empty if that is free. body: the whole request."""

    model: str
    prompt: str
    tool: str | None
    schema: Schema
    body: Mapping[str, Any]


def read_asked(body: bytes) -> Asked:
    """Raises RefusedError (400) for what is no request, and for a stream, which the stand-in cannot send."""
    request = _object(body)
    if not isinstance(request.get("model"), str):
        raise RefusedError(error_reply(400, "you must provide a model parameter"))
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise RefusedError(error_reply(400, "'messages' must be a list of at least one message"))
    if request.get("stream"):
        raise RefusedError(error_reply(400, "'stream' is not supported by this stand-in"))
    prompt = "\n\n".join(text for message in messages if (text := "".join(_texts(message))))
    tool = _tool(request)
    if tool is not None:
        return Asked(request["model"], prompt, tool["name"], tool.get("parameters", {}), request)
    return Asked(request["model"], prompt, None, _schema(request, prompt), request)


def _object(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise RefusedError(error_reply(400, "the body of the request is no JSON object"))
    return request


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    """A message's content is a text, a list of parts, or null."""
    content = message.get("content")
    if isinstance(content, list):
        yield from (part.get("text", "") for part in content if isinstance(part, dict))
    elif isinstance(content, str):
        yield content


def _tool(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The function that the client names; else the first one that takes candidates; else the first."""
    functions: Sequence[Mapping[str, Any]] = [tool["function"] for tool in request.get("tools") or ()]
    choice = request.get("tool_choice")
    if not functions or choice == "none":
        return None
    if isinstance(choice, dict) and "function" in choice:
        return next((each for each in functions if each["name"] == choice["function"]["name"]), functions[0])
    return next((each for each in functions if form_of(each.get("parameters", {})).fields), functions[0])


def _schema(request: Mapping[str, Any], prompt: str) -> Schema:
    """The schema in response_format; without one, the schema that stands in the prompt, if any does."""
    response_format = request.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        schema: Schema = response_format["json_schema"].get("schema", {})
        return schema
    return next((each for each in objects_in(prompt) if "properties" in each or "$defs" in each), {})
