"""Whole nights in a real Airflow, as in `make run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from world import World

from assets.definitions import GRAPH
from contexts.postgres.run_log import RunLog
from local import nights, postgres
from local.airflow import running_airflow
from local.airflow_api import Airflow
from local.checkpoint import save_tiny_nomic
from local.clock import utc_now
from local.paths import ROOT
from local.todoist import LocalTodoist, running_todoist

pytestmark = pytest.mark.live


@pytest.fixture
def live(world: World, server: str, database_url: str, tmp_path: Path) -> Iterator[Airflow]:
    """An Airflow with the world's Postgres, Todoist and folder, and the tiny model."""
    scheduled_hour = (utc_now().hour + 12) % 24
    environment = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.airflow_url(postgres.create_database(server, "airflow_live")),
        "AIRFLOW_CONN_CONTEXT_STORE": database_url,
        "AIRFLOW_CONN_TODOIST": world.client.base_url,
        "DATA_ROOT": str(world.root),
        "N_SHARDS": str(world.n_shards),
        "CREDENTIALS_KEYS": world.key,
        "MATERIALIZE_SCHEDULE": f"0 {scheduled_hour} * * *",
        "NIGHT_HOUR": str(scheduled_hour),
        "EMBEDDING_MODEL": str(save_tiny_nomic(tmp_path / "model")),
        "EMBEDDING_DIM": "32",
        "EMBEDDING_DEVICE": "cpu",
    }
    with running_airflow(tmp_path / "airflow", environment, tuple(GRAPH.steps), print) as airflow:
        yield airflow


def run_night(live: Airflow, world: World) -> tuple[Counter[str], Counter[str], nights.NightFigures]:
    """Run a night; returns the number of runs of each step, the number of events of each asset, and the figures."""
    started_at = utc_now()
    night = nights.run_night(live, RunLog(world.connection), started_at, print)
    runs = Counter(run["dag_id"] for run in live.runs_since(started_at))
    return runs, Counter(event["name"] for event in live.events_since(started_at)), night


def test_three_nights_run_only_stale_steps(live: Airflow, world: World, account: Any) -> None:
    """Steps run and assets emit events only after changes: all at first, then for one due date, then none.

    The note of each run has the plan of its assets.
    """
    for user in ("ann", "bob", "cem"):
        world.add(user, account(f"call the dentist of {user}", f"buy milk for {user}"))
    runs, events, first = run_night(live, world)
    assert first.succeeded
    for run in live.runs_since(datetime.min.replace(tzinfo=UTC)):
        assert all(asset.name in run["note"] for asset in GRAPH.steps[run["dag_id"]]), run["note"]
    assert runs == {"fetch_signals": 1, "embed_tasks": 1, "cluster_tasks": 1, "compute_context": 2}
    assert events.keys() >= {"todoist_tasks", "signals_observed", "task_embeddings", "task_clusters", "context_store"}
    assert (first.users_clustered, first.rows_written, first.texts_embedded) == (3, 3, 6)

    dated = {"id": "t0", "content": "call the dentist of ann", "added_by_uid": "1", "due": {"date": "2030-01-01"}}
    world.todoist.advance("ann", {"items": [dated]})
    runs, events, second = run_night(live, world)
    assert second.succeeded
    assert runs == {"fetch_signals": 1, "embed_tasks": 1, "compute_context": 1}
    published = ("todoist_tasks", "signals_observed", "user_contexts", "context_store", "contexts_observed")
    assert events == dict.fromkeys(published, 1)
    assert (second.users_clustered, second.rows_written, second.rows_refreshed) == (0, 1, 2)

    runs, events, third = run_night(live, world)
    assert third.succeeded
    assert runs == {"fetch_signals": 1, "compute_context": 1}
    assert events == {"signals_observed": 1, "contexts_observed": 1}
    assert (third.texts_embedded, third.rows_written, third.rows_refreshed) == (0, 0, 3)


def make_run(folder: Path, url: str) -> subprocess.Popen[str]:
    """`make run ONCE=1` with TODOIST_API_TOKEN."""
    return subprocess.Popen(
        [sys.executable, "-m", "local", "--folder", str(folder)],
        cwd=ROOT,
        env={**os.environ, "ONCE": "1", "TODOIST_API_TOKEN": "my-own-token", "TODOIST_API_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_in(folder: Path) -> list[str]:
    """The command lines of all processes that name a folder."""
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if str(folder) in command]


def test_own_account(tmp_path: Path, account: Any) -> None:
    """`make run` with TODOIST_API_TOKEN goes on after a kill -9 in the second night, and leaves no process.

    The run after it does not fetch again what the first night fetched, and ends with status 0 and all figures.
    """
    folder, todoist, printed = tmp_path / "local", LocalTodoist(), list[str]()
    todoist.load("my-own-token", account("water the plants", "buy soil"), user="whoever")
    with running_todoist(todoist) as url:
        with make_run(folder, url) as killed:
            assert killed.stdout is not None
            for line in killed.stdout:
                printed.append(line)
                if line.startswith("  fetch_signals    running") and any("Night 2 of 3" in each for each in printed):
                    break
            killed.kill()
        assert processes_in(folder)
        last = make_run(folder, url)
        output, errors = last.communicate()
    assert last.returncode == 0, output[-3000:] + errors[-3000:]
    assert "Continuing the run of " in output
    assert "(TODOIST_API_TOKEN) with night 2; FRESH=1 begins again" in output
    figures = json.loads((folder / "nights.json").read_text())
    assert [night["todoist_calls_full"] for night in figures] == [1, 0, 0]
    assert [night["rows_written"] for night in figures] == [1, 0, 0]
    assert all(night["succeeded"] for night in figures)
    assert "water the plants" in output
    logs = "".join(path.read_text(errors="replace") for path in folder.rglob("*.log"))
    for text in ("".join(printed), output, errors, logs):
        assert "my-own-token" not in text
    assert "water the plants" not in logs
    assert not processes_in(tmp_path)
