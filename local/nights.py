"""Run nights through Airflow and say what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contexts.ledger import Entry, Ledger
from local.airflow import Airflow, Run, Say


@dataclass(frozen=True)
class Night:
    """One night's figures. texts_reused: tasks whose vector was there; seconds: run time of each step's DAG runs."""

    users: int
    users_failed: int
    todoist_calls_full: int
    todoist_calls_incremental: int
    texts_embedded: int
    texts_reused: int
    users_clustered: int
    users_carried: int
    rows_written: int
    rows_refreshed: int
    dag_runs: int
    asset_events: int
    seconds: dict[str, float]
    succeeded: bool


def run_night(airflow: Airflow, ledger: Ledger, began: datetime, say: Say) -> Night:
    """Trigger the first step, follow the chain that assets wake, and sum it up."""
    before = {entry.asset: entry for entry in ledger.since(datetime.min.replace(tzinfo=began.tzinfo))}
    airflow.trigger("fetch_signals")
    runs = airflow.wait(began, say)
    entries = [entry for entry in ledger.since(began) if entry.started_at >= began]
    return figures(before, entries, runs, n_events=len(airflow.events_since(began)))


def figures(before: dict[str, Entry], entries: Iterable[Entry], runs: Iterable[Run], *, n_events: int) -> Night:
    """The figures of a night from its ledger entries; `before` holds each asset's last entry of earlier nights."""
    listed, ended = list(entries), list(runs)
    latest = before | {entry.asset: entry for entry in listed}
    done: dict[str, int] = {}
    clustered = 0
    for entry in listed:
        clustered += entry.n_users_changed if entry.asset == "task_clusters" else 0
        for name, n in entry.counts.items():
            done[name] = done.get(name, 0) + n
    embedded = done.get("texts_embedded", 0)
    users = latest["todoist_tasks"].n_users if "todoist_tasks" in latest else 0
    n_texts = latest["task_embeddings"].n_rows if "task_embeddings" in latest else 0
    seconds: dict[str, float] = {}
    for run in ended:
        seconds[run.dag_id] = round(seconds.get(run.dag_id, 0.0) + run.seconds, 1)
    return Night(
        users=users,
        users_failed=done.get("users_failed", 0),
        todoist_calls_full=done.get("todoist_calls_full", 0),
        todoist_calls_incremental=done.get("todoist_calls_incremental", 0),
        texts_embedded=embedded,
        texts_reused=n_texts - embedded,
        users_clustered=clustered,
        users_carried=users - clustered,
        rows_written=done.get("rows_written", 0),
        rows_refreshed=done.get("rows_refreshed", 0),
        dag_runs=len(ended),
        asset_events=n_events,
        seconds=seconds,
        succeeded=bool(ended) and all(run.state == "success" for run in ended),
    )


def save(nights: Iterable[Night], path: Path) -> None:
    """The figures as a JSON list, one object a night."""
    path.write_text(json.dumps([asdict(night) for night in nights], indent=2) + "\n")


def show(nights: list[Night], console: Console) -> None:
    """The nights side by side."""
    table = Table(title="The nights", title_justify="left")
    table.add_column("")
    for number in range(1, len(nights) + 1):
        table.add_column(f"night {number}", justify="right")
    for name, values in _lines(nights):
        table.add_row(name, *map(str, values))
    console.print(table)


def _lines(nights: list[Night]) -> list[tuple[str, list[Any]]]:
    lines: list[tuple[str, list[Any]]] = [
        ("users", [night.users for night in nights]),
        ("  not fetched", [night.users_failed for night in nights]),
        ("Todoist calls, full", [night.todoist_calls_full for night in nights]),
        ("Todoist calls, incremental", [night.todoist_calls_incremental for night in nights]),
        ("texts embedded", [night.texts_embedded for night in nights]),
        ("texts reused", [night.texts_reused for night in nights]),
        ("users clustered", [night.users_clustered for night in nights]),
        ("users carried over", [night.users_carried for night in nights]),
        ("context_store rows written", [night.rows_written for night in nights]),
        ("context_store rows only refreshed", [night.rows_refreshed for night in nights]),
        ("DAG runs", [night.dag_runs for night in nights]),
        ("asset events", [night.asset_events for night in nights]),
    ]
    steps = dict.fromkeys(step for night in nights for step in night.seconds)
    return lines + [(f"seconds {step}", [night.seconds.get(step, "-") for night in nights]) for step in steps]
