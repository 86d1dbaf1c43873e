"""The client of Airflow's REST API, with an Airflow that answers late."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from local.airflow_api import Airflow, AirflowError
from local.server import running_server

_TIMEOUT_S = 0.5


class LateAirflow:
    """Stores DAG runs under their ids; answers the first calls after the client's time-out.

    n_late: number of calls whose answer is late. loses_late: whether nothing comes of such a call, either.
    """

    def __init__(self, n_late: int, *, loses_late: bool = False) -> None:
        self.n_late = n_late
        self.loses_late = loses_late
        self.runs: list[str] = []

    async def answer(self, request: Request) -> JSONResponse:
        is_late, self.n_late = self.n_late > 0, self.n_late - 1
        status, body = (200, {"dag_runs": []}) if is_late and self.loses_late else await self._answer(request)
        if is_late:
            await asyncio.sleep(2 * _TIMEOUT_S)
        return JSONResponse(body, status)

    async def _answer(self, request: Request) -> tuple[int, dict[str, object]]:
        if request.method == "POST":
            run_id = (await request.json())["dag_run_id"]
            if run_id in self.runs:
                return 409, {}
            self.runs.append(run_id)
            return 200, {}
        run_id = request.path_params.get("run_id")
        return (200, {"dag_runs": []}) if run_id is None or run_id in self.runs else (404, {})


@contextmanager
def connected(server: LateAirflow, late_s: float = 30.0) -> Iterator[Airflow]:
    path = "/api/v2/dags/{dag_id}/dagRuns"
    routes = [Route(each, server.answer, methods=["GET", "POST"]) for each in (path, f"{path}/{{run_id}}")]
    with (
        running_server(Starlette(routes=routes), 0) as url,
        httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False) as client,
    ):
        yield Airflow(url, ("fetch_signals",), Path("its.log"), 0, client, late_s)


def test_late_answer_to_a_read() -> None:
    """A read that times out is repeated until there is an answer."""
    with connected(LateAirflow(n_late=2)) as airflow:
        assert airflow.request("GET", "/api/v2/dags/fetch_signals/dagRuns") == {"dag_runs": []}


@pytest.mark.parametrize("n_late", [1, 2])
@pytest.mark.parametrize("loses_late", [False, True])
def test_late_answer_to_a_trigger(n_late: int, loses_late: bool) -> None:
    """A trigger that times out starts one run: it is repeated only if Airflow does not know the run."""
    server = LateAirflow(n_late, loses_late=loses_late)
    with connected(server) as airflow:
        airflow.trigger("fetch_signals")
    assert len(server.runs) == 1


def test_no_answer_at_all() -> None:
    """An Airflow that never answers ends in an error that names its log."""
    with connected(LateAirflow(n_late=100), late_s=1.0) as airflow, pytest.raises(AirflowError, match=r"its\.log"):
        airflow.request("GET", "/api/v2/dags/fetch_signals/dagRuns")
