"""Requests to /v1/chat/completions and /v1/responses."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.faulty_http import RefusedError
from local.llm.answer_schema import Schema, read_answer_schema
from local.llm.completions import error_reply
from local.llm.context import json_objects_in


@dataclass(frozen=True)
class CompletionRequest:
    """A request for a completion.

    prompt: all message texts.
    tool: the function that the answer calls; None for a plain answer.
    schema: of the answer; empty if any answer is allowed.
    body: the whole request.
    """

    model: str
    prompt: str
    tool: str | None
    schema: Schema
    body: Mapping[str, Any]


def read_completion_request(body: bytes) -> CompletionRequest:
    """Parse a request; raises RefusedError (400) if it is invalid or asks for a stream, which is not supported."""
    request = _json_object(body)
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
        return CompletionRequest(request["model"], prompt, tool["name"], tool.get("parameters", {}), request)
    return CompletionRequest(request["model"], prompt, None, _schema(request, prompt), request)


def read_response_request(body: bytes) -> CompletionRequest:
    """Parse a request for a response; raises RefusedError as `read_completion_request` does."""
    request = _json_object(body)
    if not isinstance(request.get("model"), str):
        raise RefusedError(error_reply(400, "you must provide a model parameter"))
    given = request.get("input")
    messages = [{"content": given}] if isinstance(given, str) else given
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise RefusedError(error_reply(400, "'input' must be a text or a list of at least one message"))
    if request.get("stream"):
        raise RefusedError(error_reply(400, "'stream' is not supported by this stand-in"))
    parts = [request.get("instructions") or "", *("".join(_texts(message)) for message in messages)]
    prompt = "\n\n".join(filter(None, parts))
    tools = [tool for tool in request.get("tools") or () if tool.get("type") == "function"]
    if tools and request.get("tool_choice") != "none":
        return CompletionRequest(request["model"], prompt, tools[0]["name"], tools[0].get("parameters", {}), request)
    text_format = (request.get("text") or {}).get("format") or {}
    schema = text_format.get("schema") or _schema({}, prompt)
    return CompletionRequest(request["model"], prompt, None, schema, request)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RefusedError(error_reply(400, "the body of the request is not a JSON object"))
    return document


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a message, whose content is a text, a list of parts, or null."""
    content = message.get("content")
    if isinstance(content, list):
        yield from (part.get("text", "") for part in content if isinstance(part, dict))
    elif isinstance(content, str):
        yield content


def _tool(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The function in tool_choice; otherwise the first with candidates among its parameters; otherwise the first."""
    functions: Sequence[Mapping[str, Any]] = [tool["function"] for tool in request.get("tools") or ()]
    choice = request.get("tool_choice")
    if not functions or choice == "none":
        return None
    if isinstance(choice, dict) and "function" in choice:
        return next((each for each in functions if each["name"] == choice["function"]["name"]), functions[0])
    return next((each for each in functions if read_answer_schema(each.get("parameters", {})).fields), functions[0])


def _schema(request: Mapping[str, Any], prompt: str) -> Schema:
    """The schema in response_format; otherwise the first schema in the prompt; otherwise an empty one."""
    response_format = request.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        schema: Schema = response_format["json_schema"].get("schema", {})
        return schema
    return next((each for each in json_objects_in(prompt) if "properties" in each or "$defs" in each), {})
