"""The plan as the note of its DAG run, through Airflow's REST API: tasks have no other way to write one."""

from __future__ import annotations

import logging
from urllib.parse import quote

import httpx
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from include.resources import url_of

log = logging.getLogger(__name__)

CONNECTION = "airflow_api"
_LONGEST = 1000
_SECONDS = 10


def write_note(dag_id: str, run_id: str, text: str) -> None:
    """Set a run's note where the connection `airflow_api` says where Airflow's API is (password: a bearer token;
    none: the simple auth manager gives one). Where it is missing or refuses, the plan stands in the task's log only.
    """
    try:
        _write(Connection.get(CONNECTION), f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}", text)
    except AirflowNotFoundException:
        log.info("no note: there is no connection '%s' to Airflow's own API", CONNECTION)
    except Exception as error:  # whatever is wrong with a note, the run goes on
        log.warning("no note: connection '%s': %s: %s", CONNECTION, type(error).__name__, error)


def _write(found: Connection, path: str, text: str) -> None:
    with httpx.Client(base_url=url_of(found, default=""), timeout=_SECONDS, trust_env=False) as client:
        token = found.password or client.get("/auth/token").raise_for_status().json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        client.patch(path, json={"note": text[:_LONGEST]}, headers=headers).raise_for_status()
