"""The note of a DAG run, written through Airflow's REST API."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from include.notes import write_note
from local.server import running_server


@dataclass
class Api:
    """A stand-in for Airflow. statuses: of the next answers, then 200. notes: path and text of each request."""

    statuses: list[int] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        self.notes.append((request.url.path, (await request.json())["note"]))
        return JSONResponse({}, self.statuses.pop(0) if self.statuses else 200)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    api = Api()
    app = Starlette(routes=[Route("/{path:path}", api.answer, methods=["PATCH"])])
    with running_server(app, 0) as url:
        monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", url.replace("http://", "http://:token@"))
        yield api


NOTE = ("/api/v2/dags/embed_tasks/dagRuns/run 1", "the plan")


def test_written(api: Api) -> None:
    """The note of the run is set."""
    write_note("embed_tasks", "run 1", "the plan")
    assert api.notes == [NOTE]


def test_tried_again(api: Api) -> None:
    """A server error, such as that of a locked database, is followed by another attempt."""
    api.statuses = [500, 503]
    write_note("embed_tasks", "run 1", "the plan")
    assert api.notes == [NOTE] * 3


def test_refused(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is logged, and raises no error."""
    api.statuses = [403]
    with caplog.at_level(logging.WARNING):
        write_note("embed_tasks", "run 1", "the plan")
    assert (api.notes, "no note written" in caplog.text) == ([NOTE], True)
