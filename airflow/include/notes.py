"""Writes the plan into the note of its DAG run through Airflow's REST API: tasks have no other way to set a note."""

from __future__ import annotations

import logging
from urllib.parse import quote

import httpx
import stamina
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from include.runtime import url_of

log = logging.getLogger(__name__)

CONNECTION = "airflow_api"
_MAX_NOTE_CHARS = 1000
_TIMEOUT_S = 10
_N_ATTEMPTS, _RETRY_FOR_S = 4, 30.0


def write_note(dag_id: str, run_id: str, text: str) -> None:
    """Set a run's note through the connection `airflow_api`, whose password is a bearer token.

    Without a password the simple auth manager of Airflow is asked for a token. If the connection is missing, or the
    API refuses the note or keeps failing, that is logged, and nothing is raised: the plan is also in the task's log.
    """
    try:
        _write(Connection.get(CONNECTION), f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}", text)
    except AirflowNotFoundException:
        log.info("no note written: there is no connection '%s' to Airflow's own API", CONNECTION)
    except Exception as error:  # a note must never fail the run
        log.warning("no note written: connection '%s': %s: %s", CONNECTION, type(error).__name__, error)


def _is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed: Airflow's SQLite, for example, is locked while a scheduler writes."""
    is_server_error = isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error
    return is_server_error or isinstance(error, httpx.TransportError)


@stamina.retry(on=_is_transient, attempts=_N_ATTEMPTS, timeout=_RETRY_FOR_S)
def _write(connection: Connection, path: str, text: str) -> None:
    with httpx.Client(base_url=url_of(connection, default=""), timeout=_TIMEOUT_S, trust_env=False) as client:
        token = connection.password or client.get("/auth/token").raise_for_status().json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        client.patch(path, json={"note": text[:_MAX_NOTE_CHARS]}, headers=headers).raise_for_status()
