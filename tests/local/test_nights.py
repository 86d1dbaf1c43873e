"""The figures of simulated nights."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contexts.postgres.run_log import AssetRun, StepRun
from local.nights import figures, mean_seconds_per_unit, save_nights, saved_nights

AT = datetime(2026, 11, 23, 2, tzinfo=UTC)


def asset_run(asset: str, *, n_users: int, n_rows: int, n_computed: int, **counts: int) -> AssetRun:
    return AssetRun("r", "step", asset, AT, AT, 2, 2, n_users, n_computed, n_rows, "v", changed=True, counts=counts)


def test_saved_work() -> None:
    """A night has saved the results that it did not compute again, and also those of steps that did not run."""
    first = {
        "task_embeddings": asset_run("task_embeddings", n_users=25, n_rows=1000, n_computed=25, texts_embedded=700),
        "task_clusters": asset_run("task_clusters", n_users=25, n_rows=1000, n_computed=25),
    }
    tonight = [replace(first["task_embeddings"], counts={"texts_embedded": 2}, n_rows=1001, n_users_computed=1)]
    seconds_per_unit = {"texts_embedded": 0.1, "users_clustered": 0.2}
    night = figures(first, tonight, [], seconds_per_unit, n_events=0)
    assert night.saved == {"texts_embedded": 999, "users_clustered": 25}
    assert night.seconds_saved == pytest.approx(104.9)
    assert figures({}, list(first.values()), [], seconds_per_unit, n_events=0).saved == {
        "texts_embedded": 300,
        "users_clustered": 0,
    }


def test_seconds_of_small_runs_weigh_little() -> None:
    """The seconds of a unit are those of all runs over all units: loading a model for two texts changes little.

    Days of requests, whose seconds may be unknown, do not count.
    """
    runs = [
        StepRun("1", "embed_tasks", AT, done={"texts_embedded": 998}, seconds={"texts_embedded": 90.0}),
        StepRun("2", "embed_tasks", AT, done={"texts_embedded": 2}, seconds={"texts_embedded": 10.0}),
        StepRun("3", "embed_tasks", AT, done={"tips_written": 0}, seconds={"tips_written": 1.0}),
        StepRun("2026-11-22", "serving", AT, done={"tips": 9}, seconds={"llm_calls": None}),  # type: ignore[dict-item]
    ]
    assert mean_seconds_per_unit(runs) == {"texts_embedded": 0.1}


def test_saved_nights(tmp_path: Path) -> None:
    """A later run reads the nights of the earlier ones; figures of a different version are refused."""
    path, night = tmp_path / "nights.json", figures({}, [], [], {}, n_events=0)
    assert saved_nights(path) == []
    save_nights([night, night], path)
    assert saved_nights(path) == [night, night]
    path.write_text('[{"users": 1}]')
    with pytest.raises(ValueError, match="missing"):
        saved_nights(path)
