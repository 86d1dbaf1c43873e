"""Whole nights under a real Airflow, as `make run` runs them."""

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
from contexts.ledger import Ledger
from local import airflow, nights, postgres
from local.airflow import ROOT, Airflow
from local.checkpoint import save_tiny_nomic
from local.todoist import LocalTodoist, running

pytestmark = pytest.mark.live


@pytest.fixture
def live(world: World, server: str, database_url: str, tmp_path: Path) -> Iterator[Airflow]:
    """An Airflow over the world's Postgres, Todoist and folder, with the tiny checkpoint as the model."""
    environment = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.create_database(server, "airflow_live").replace(
            "postgresql://", "postgresql+psycopg2://"
        ),
        "AIRFLOW_CONN_CONTEXT_STORE": database_url,
        "AIRFLOW_CONN_TODOIST": world.client.base_url,
        "DATA_ROOT": str(world.root),
        "N_SHARDS": str(world.n_shards),
        "CREDENTIALS_KEYS": world.key,
        "MATERIALIZE_SCHEDULE": f"0 {(airflow.now().hour + 12) % 24} * * *",
        "NIGHT_HOUR": str((airflow.now().hour + 12) % 24),
        "EMBEDDING_MODEL": str(save_tiny_nomic(tmp_path / "model")),
        "EMBEDDING_DIM": "32",
        "EMBEDDING_DEVICE": "cpu",
    }
    with airflow.running(tmp_path / "airflow", environment, tuple(GRAPH.steps), print) as started:
        yield started


def run_night(live: Airflow, world: World) -> tuple[Counter[str], Counter[str], nights.Night]:
    """A night; gives how often each step ran, how often each asset's event came, and the figures."""
    began: datetime = airflow.now()
    night = nights.run_night(live, Ledger(world.connection), began, print)
    runs = Counter(run["dag_id"] for run in live.runs_since(began))
    return runs, Counter(event["name"] for event in live.events_since(began)), night


def test_three_nights_wake_exactly_what_changed(live: Airflow, world: World, account: Any) -> None:
    """Steps run and events come only for what changed: all, then only a due date's context, then nothing.

    Each run's note says what it planned.
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

    dated = {"id": "t0", "content": "call the dentist of ann", "due": {"date": "2030-01-01"}}
    world.todoist.advance("ann", {"items": [dated]})
    runs, events, second = run_night(live, world)
    assert second.succeeded
    assert runs == {"fetch_signals": 1, "embed_tasks": 1, "compute_context": 1}
    assert events == {"todoist_tasks": 1, "signals_observed": 1, "context_store": 1}
    assert (second.users_clustered, second.rows_written, second.rows_refreshed) == (0, 1, 2)

    runs, events, third = run_night(live, world)
    assert third.succeeded
    assert runs == {"fetch_signals": 1, "compute_context": 1}
    assert events == {"signals_observed": 1}
    assert (third.texts_embedded, third.rows_written, third.rows_refreshed) == (0, 0, 3)


def test_own_account(tmp_path: Path, account: Any) -> None:
    """`make run ONCE=1` with TODOIST_API_TOKEN ends by itself with status 0 and its figures, and leaves nothing."""
    todoist = LocalTodoist()
    todoist.load("my-own-token", account("water the plants", "buy soil"), user="whoever")
    with running(todoist) as url:
        done = subprocess.run(
            [sys.executable, "-m", "local", "--folder", str(tmp_path / "local")],
            cwd=ROOT,
            env={**os.environ, "ONCE": "1", "TODOIST_API_TOKEN": "my-own-token", "TODOIST_API_URL": url},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads((tmp_path / "local" / "nights.json").read_text())
    assert [night["todoist_calls_full"] for night in figures] == [1, 0, 0]
    assert [night["rows_written"] for night in figures] == [1, 0, 0]
    assert "water the plants" in done.stdout
    assert "my-own-token" not in done.stdout + done.stderr
    logs = "".join(path.read_text(errors="replace") for path in (tmp_path / "local").rglob("*.log"))
    assert "my-own-token" not in logs
    assert "water the plants" not in logs
    left = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
    assert not [line for line in left if str(tmp_path) in " ".join(line or ())]
