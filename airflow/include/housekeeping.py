"""The DAG that deletes old rows of Airflow's database, old task logs and old runs of the pipeline."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Connection, task
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowSkipException
from airflow.utils.types import DagRunType

from contexts.settings import Settings
from include.alerts import failure_notifier
from include.policies import HonourRetryAfter

log = logging.getLogger(__name__)

DAG_ID = "housekeeping"

METADATA = "airflow_metadata"
"""The connection to Airflow's own database, which tasks do not have by themselves."""

METADATA_TABLES = (
    "asset_event",
    "callback",
    "celery_taskmeta",
    "dag_run",
    "deadline",
    "job",
    "log",
    "task_instance",
    "task_instance_history",
    "xcom",
)
"""The tables that grow with runs.

Without names `airflow db clean` also deletes from `dag` and `dag_version`, where it fails for DAGs that have not
changed for long (apache/airflow issues 59474, 63703 and 71864).
"""

_RUN_TYPES: list[Any] = [DagRunType.SCHEDULED, DagRunType.MANUAL]
_BATCH_ROWS = 10_000


def housekeeping_dag(settings: Settings) -> DAG:
    """Return the DAG. Its tasks do not depend on each other; each queue has a task for the logs of its worker."""
    with DAG(
        dag_id=DAG_ID,
        schedule=settings.housekeeping_schedule,
        catchup=False,
        max_active_runs=1,
        tags=["feature-to-prompt"],
        description="Deletes old rows of Airflow's database, task logs and runs of the pipeline",
        doc_md="Deletes what AIRFLOW_METADATA_DAYS, TASK_LOG_DAYS and RUN_LOG_DAYS do not keep.",
        default_args={
            "owner": "contexts",
            "retries": 2,
            "retry_delay": timedelta(minutes=5),
            "retry_policy": HonourRetryAfter(),
        },
        allowed_run_types=_RUN_TYPES,
        on_failure_callback=failure_notifier(DAG_ID, settings),
    ) as dag:

        @task(task_id="airflow_metadata", doc_md="Deletes old rows of Airflow's database.")
        def clean_metadata(n_days: int) -> None:
            delete_metadata(_before(n_days))

        @task(doc_md="Deletes old log files of tasks on the worker that runs this.")
        def clean_logs(n_days: int) -> None:
            n_files = delete_logs(Path(conf.get("logging", "base_log_folder")), _before(n_days))
            log.info("deleted %d log files", n_files)

        @task(task_id="run_log", doc_md="Deletes old runs of the pipeline from the context store.")
        def clean_run_log(n_days: int) -> None:
            from include.runtime import open_runtime

            with open_runtime() as runtime:
                log.info("deleted %d rows of runs", runtime.run_log.delete_runs(_before(n_days)))

        clean_metadata(settings.airflow_metadata_days)
        clean_run_log(settings.run_log_days)
        default_queue = conf.get("operators", "default_queue")
        clean_logs.override(task_id="task_logs", queue=default_queue)(settings.task_log_days)
        if settings.embedding_queue not in (None, default_queue):
            # Not named after the queue, whose name need not be a valid id of a task.
            clean_logs.override(task_id="embedding_task_logs", queue=settings.embedding_queue)(settings.task_log_days)
    return dag


def delete_metadata(before: datetime) -> None:
    """Delete rows of Airflow's database from before an instant, except each DAG's last scheduled run.

    Raises AirflowSkipException without the connection, and CalledProcessError if a table was not cleaned.
    """
    try:
        uri = Connection.get(METADATA).get_uri()
    except AirflowNotFoundException:
        raise AirflowSkipException(
            f"there is no connection '{METADATA}' to Airflow's own database: clean it by `airflow db clean`"
        ) from None
    subprocess.run(  # noqa: S603  (its words are this program's own)
        [
            *(
                sys.executable,
                "-m",
                "airflow",
                "db",
                "clean",
                "--yes",
                "--skip-archive",
                "--error-on-cleanup-failure",
            ),
            *("--clean-before-timestamp", before.isoformat(), "--tables", ",".join(METADATA_TABLES)),
            *("--batch-size", str(_BATCH_ROWS)),
        ],
        env={**os.environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": sqlalchemy_url(uri)},
        check=True,
    )


def sqlalchemy_url(uri: str) -> str:
    """Return the URI of a Postgres connection as SQLAlchemy's, with the driver that Airflow itself installs."""
    return f"postgresql+psycopg2://{uri.partition('://')[2]}"


def delete_logs(folder: Path, before: datetime) -> int:
    """Delete files below a folder that were last written before an instant, and folders that become empty.

    Returns the number of files. Files that others delete at the same time are no error.
    """
    n_files = 0
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            try:
                if path.lstat().st_mtime < before.timestamp():
                    path.unlink()
                    n_files += 1
            except FileNotFoundError:
                continue
        if Path(parent) != folder:
            try:
                Path(parent).rmdir()
            except OSError:  # it is not empty, or gone
                continue
    return n_files


def _before(n_days: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=n_days)
