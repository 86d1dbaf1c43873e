"""Airflow's own database on this machine: a new one, or that of the last run, whose unfinished work is ended."""

from __future__ import annotations

from contexts.postgres.sql import connect
from local.postgres import create_database

_NAME = "airflow"

# Airflow itself would wait five minutes for tasks that were killed with it, and start the scheduled runs that were
# due while it was not running.
_END_WORK = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "UPDATE task_instance SET state = 'failed', end_date = now()"
    " WHERE state IN ('scheduled', 'queued', 'running', 'restarting', 'up_for_retry', 'deferred')",
    "DELETE FROM deadline USING dag_run"
    " WHERE deadline.dagrun_id = dag_run.id AND dag_run.state IN ('queued', 'running')",
    "UPDATE dag_run SET state = 'failed', end_date = now(), start_date = coalesce(start_date, now())"
    " WHERE state IN ('queued', 'running')",
    "UPDATE dag SET next_dagrun = NULL, next_dagrun_create_after = NULL",
)


def airflow_database(server_url: str, *, is_continued: bool) -> str:
    """The URL of Airflow's database on a server.

    is_continued: whether to keep the database of the last run, and end the runs and tasks that were under way.
    """
    url = create_database(server_url, _NAME, replace=not is_continued)
    with connect(url) as connection, connection.transaction():
        if connection.execute("SELECT to_regclass('dag_run') IS NOT NULL").fetchone() == (True,):
            for statement in _END_WORK:
                connection.execute(statement)
    return url
