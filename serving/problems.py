"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from traceback import extract_tb
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_LOGGED_FRAMES = 6


class ProblemDocument(BaseModel):
    """The body of an error response: RFC 9457, https://www.rfc-editor.org/rfc/rfc9457, with a reason.

    reason: one word, such as `overloaded` or `database_unavailable`, that a program can tell apart.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    reason: str


class Problem(Exception):
    """An error response. detail: the error and its remedy, without the text of a task and without a token.

    reason: one word, also for metrics and the access log; by default that of the status, such as `not_found`.
    """

    def __init__(
        self, status: int, detail: str, headers: dict[str, str] | None = None, *, reason: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.reason = reason or HTTPStatus(status).phrase.lower().replace(" ", "_")


ProblemHandlers = Mapping[type[Exception], Callable[[Any], Problem]]
"""Functions from an exception to its problem, by class of the exception."""


class ProblemResponse(Response):
    """A problem document as a response; it leaves its reason in the scope, where the gate reads it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem_body(problem), problem.status, problem.headers, MEDIA_TYPE)
        self._reason = problem.reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        scope["reason"] = self._reason
        await super().__call__(scope, receive, send)


def problem_body(problem: Problem) -> bytes:
    """The problem document as JSON."""
    title, status = HTTPStatus(problem.status).phrase, problem.status
    document = ProblemDocument(title=title, status=status, detail=problem.detail, reason=problem.reason)
    return orjson.dumps(document.model_dump())


def openapi_problems(descriptions: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for problems, described by status code."""
    content = {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}}
    return {status: {"description": description, "content": content} for status, description in descriptions.items()}


def add_problem_handlers(app: FastAPI, handlers: ProblemHandlers) -> None:
    """Answer every error of `app` with a problem document. handlers: for exceptions of the domain."""
    to_response = error_responder(handlers)

    async def handle(_: Request, error: Exception) -> Response:
        return to_response(error)

    for exception_class in (*_HTTP_HANDLERS, *handlers, Exception):
        app.add_exception_handler(exception_class, handle)


def error_responder(handlers: ProblemHandlers) -> Callable[[Exception], Response]:
    """A function from an exception to its response.

    An exception without a handler is logged without its message, which may contain private text.
    """
    all_handlers = {**_HTTP_HANDLERS, **handlers}

    def to_response(error: Exception) -> Response:
        handler = next((all_handlers[base] for base in type(error).__mro__ if base in all_handlers), None)
        if handler is None:
            log.error("unexpected %s: %s", type(error).__name__, _frames(error))
            return ProblemResponse(Problem(500, "internal error; see the log of the service"))
        return ProblemResponse(handler(error))

    return to_response


def _frames(error: Exception) -> str:
    """The last frames of the traceback, outermost first."""
    frames = extract_tb(error.__traceback__)[-_LOGGED_FRAMES:]
    return " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)


def _from_validation(error: RequestValidationError) -> Problem:
    """The location and message of each validation error, without the value that was sent."""
    sentences = (f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
    return Problem(422, "; ".join(sentences), reason="invalid_input")


def _from_http(error: HTTPException) -> Problem:
    detail = _ROUTING_DETAILS.get(error.status_code, str(error.detail))
    reason = "no_such_address" if error.status_code == 404 else None
    return Problem(error.status_code, detail, dict(error.headers or {}), reason=reason)


_ROUTING_DETAILS = {
    404: "there is nothing at this address; /openapi.json lists all addresses",
    405: "this address does not accept this method; see the Allow header",
}

_HTTP_HANDLERS: ProblemHandlers = {
    Problem: lambda error: error,
    RequestValidationError: _from_validation,
    HTTPException: _from_http,
}
