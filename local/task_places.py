"""Where the tasks of nights ran: the queue and the worker of each, with its seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from local.airflow_api import Airflow


@dataclass(frozen=True, order=True)
class TaskPlace:
    """The task instances of one task that one worker ran.

    queue: the queue from which the worker took them. seconds: the sum over all of them.
    """

    step: str
    task: str
    queue: str
    worker: str
    n_tasks: int
    seconds: float


def places_since(airflow: Airflow, instant: datetime) -> list[TaskPlace]:
    """The places of all tasks that ran in DAG runs since an instant, by step and start."""
    runs = sorted(
        airflow.runs_since(instant), key=lambda run: (airflow.dag_ids.index(run["dag_id"]), run["run_after"])
    )
    return sum_up(task for run in runs for task in airflow.task_instances(run))


def sum_up(tasks: Iterable[Mapping[str, Any]]) -> list[TaskPlace]:
    """Sum up task instances of the REST API by task, queue and worker; those that no worker ran are left out."""
    seconds: dict[tuple[str, str, str, str], list[float]] = {}
    for task in sorted(tasks, key=lambda task: str(task["start_date"])):
        if task["hostname"]:
            key = (task["dag_id"], task["task_id"], task["queue"], task["hostname"])
            seconds.setdefault(key, []).append(task["duration"] or 0.0)
    return [TaskPlace(*key, len(each), round(sum(each), 1)) for key, each in seconds.items()]


def print_places(nights: Sequence[Sequence[TaskPlace]], steps: Sequence[str], console: Console) -> None:
    """Print a table with a row for each task and worker, and a column for each night.

    steps: in the order of the rows.
    """
    table = Table(title="What ran where: the number of tasks, and the seconds of all of them", title_justify="left")
    for name in ("step", "task", "queue", "worker"):
        table.add_column(name, no_wrap=True)
    for number in range(1, len(nights) + 1):
        table.add_column(f"night {number}", justify="right", no_wrap=True)
    cells: dict[tuple[str, str, str, str], dict[int, str]] = {}
    for number, places in enumerate(nights):
        for place in places:
            key = (place.step, place.task, place.queue, place.worker)
            cells.setdefault(key, {})[number] = f"{place.n_tasks}: {place.seconds:.1f}"
    for key, by_night in sorted(cells.items(), key=lambda row: steps.index(row[0][0])):
        table.add_row(*key, *(by_night.get(number, "-") for number in range(len(nights))))
    console.print(table)
