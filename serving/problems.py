"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


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


ToProblem = Mapping[type[Exception], Callable[[Any], Problem]]
"""How errors of the domain become problems."""


def explain(app: FastAPI, also: ToProblem) -> None:
    """Let every error of `app` be a problem document, those of the domain as `also` says."""
    refuse = refusing(also)

    async def handle(_: Request, error: Exception) -> Response:
        return refuse(error) or respond(500, "something failed here; the service's log tells what")

    for kind in (*_OURS, *also, Exception):
        app.add_exception_handler(kind, handle)


def refusing(also: ToProblem) -> Callable[[Exception], Response | None]:
    """What makes a response of an error, None of one that nobody foresaw."""
    known = {**_OURS, **also}

    def refuse(error: Exception) -> Response | None:
        to_problem = next((known[kind] for kind in type(error).__mro__ if kind in known), None)
        if to_problem is None:
            return None
        problem = to_problem(error)
        return respond(problem.status, problem.detail, problem.headers)

    return refuse


def _of_validation(error: RequestValidationError) -> Problem:
    """What was wrong and where, without the value that was sent."""
    sentences = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return Problem(422, "; ".join(sentences))


def _of_http(error: HTTPException) -> Problem:
    return Problem(error.status_code, str(error.detail), dict(error.headers or {}))


_OURS: ToProblem = {Problem: lambda error: error, RequestValidationError: _of_validation, HTTPException: _of_http}
