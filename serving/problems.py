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

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_STEPS = 6


class ProblemDocument(BaseModel):
    """What an error answers: RFC 9457, https://www.rfc-editor.org/rfc/rfc9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class Problem(Exception):
    """An answer that is an error. detail: what was wrong and what to do, without a task's text or a token."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def respond(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """The problem document as a response."""
    document = ProblemDocument(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return Response(orjson.dumps(document.model_dump()), status, headers, MEDIA_TYPE)


def documented(words: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Problems as FastAPI takes them into the OpenAPI document, by status."""
    content = {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}}
    return {status: {"description": each, "content": content} for status, each in words.items()}


ToProblem = Mapping[type[Exception], Callable[[Any], Problem]]
"""How errors of the domain become problems."""


def explain(app: FastAPI, also: ToProblem) -> None:
    """Let every error of `app` be a problem document, those of the domain as `also` says."""
    refuse = refusing(also)

    async def handle(_: Request, error: Exception) -> Response:
        return refuse(error)

    for kind in (*_OURS, *also):
        app.add_exception_handler(kind, handle)


def refusing(also: ToProblem) -> Callable[[Exception], Response]:
    """What makes a response of an error. One that nobody foresaw is logged without its words: they may be private."""
    known = {**_OURS, **also}

    def refuse(error: Exception) -> Response:
        to_problem = next((known[kind] for kind in type(error).__mro__ if kind in known), None)
        if to_problem is None:
            log.error("unforeseen %s: %s", type(error).__name__, _where(error))
            return respond(500, "something failed here; the service's log tells what")
        problem = to_problem(error)
        return respond(problem.status, problem.detail, problem.headers)

    return refuse


def _where(error: Exception) -> str:
    """The way to the line that raised, the last steps of it."""
    steps = extract_tb(error.__traceback__)[-_STEPS:]
    return " > ".join(f"{Path(step.filename).name}:{step.lineno} {step.name}" for step in steps)


def _of_validation(error: RequestValidationError) -> Problem:
    """What was wrong and where, without the value that was sent."""
    sentences = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return Problem(422, "; ".join(sentences))


def _of_http(error: HTTPException) -> Problem:
    detail = _OF_ROUTING.get(error.status_code, str(error.detail))
    return Problem(error.status_code, detail, dict(error.headers or {}))


_OF_ROUTING = {
    404: "there is nothing at this address; /openapi.json tells what there is",
    405: "this address takes another method, see Allow",
}


_OURS: ToProblem = {Problem: lambda error: error, RequestValidationError: _of_validation, HTTPException: _of_http}
