"""Where the tasks of nights ran."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from local.task_places import TaskPlace, print_places, sum_up


def task(dag_id: str, task_id: str, queue: str, worker: str | None, seconds: float | None, at: str) -> dict[str, Any]:
    """A task instance as the REST API shows it."""
    return {
        "dag_id": dag_id,
        "task_id": task_id,
        "queue": queue,
        "hostname": worker,
        "duration": seconds,
        "start_date": at,
    }


TASKS = [
    task("embed_tasks", "compute", "embed", "worker-embed", 2.5, "T3"),
    task("embed_tasks", "plan", "default", "worker-default", 1.0, "T1"),
    task("embed_tasks", "compute", "embed", "worker-embed", 1.25, "T2"),
    task("embed_tasks", "compute", "default", "worker-default", None, "T4"),
    task("embed_tasks", "publish_task_embeddings", "default", None, None, "T5"),
]


def test_tasks_are_summed_up_by_worker() -> None:
    """Task instances of one task and worker are one place, by their starts; those that never ran are left out."""
    assert sum_up(TASKS) == [
        TaskPlace("embed_tasks", "plan", "default", "worker-default", 1, 1.0),
        TaskPlace("embed_tasks", "compute", "embed", "worker-embed", 2, 3.8),
        TaskPlace("embed_tasks", "compute", "default", "worker-default", 1, 0.0),
    ]


def test_a_row_for_each_task_and_worker() -> None:
    """The table has the steps in their order, and a dash for a night in which a task did not run."""
    console = Console(width=120, file=StringIO(), record=True)
    fetched = TaskPlace("fetch_signals", "plan", "default", "worker-default", 1, 2.0)
    print_places([[*sum_up(TASKS), fetched], [fetched]], ("fetch_signals", "embed_tasks"), console)
    lines = [line.strip("│ ").split() for line in console.export_text().splitlines() if "worker-" in line]
    assert [[word for word in line if word != "│"] for line in lines] == [
        ["fetch_signals", "plan", "default", "worker-default", "1:", "2.0", "1:", "2.0"],
        ["embed_tasks", "plan", "default", "worker-default", "1:", "1.0", "-"],
        ["embed_tasks", "compute", "embed", "worker-embed", "2:", "3.8", "-"],
        ["embed_tasks", "compute", "default", "worker-default", "1:", "0.0", "-"],
    ]
