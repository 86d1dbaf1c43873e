"""The notebook, run as a script."""

from __future__ import annotations

import importlib.util
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from analysts import log_tip, open_world_session, write_step_runs
from matplotlib.figure import Figure
from world import World

from contexts.postgres.run_log import RunLog, StepRun
from contexts.postgres.sql import ROOT

CHARTS = {
    "freshness": "freshness_by_hour",
    "kinds": "tip_kinds",
    "themes": "welcome_themes",
    "skips": "llm_skips",
    "costs": "pipeline_cost",
    "users": "freshness_of_users",
    "drift": "embedding_drift",
}


@pytest.fixture
def run_notebook(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs the notebook over the world and returns the variables of its cells."""
    mpl.use("agg")
    monkeypatch.setenv("DATA_ROOT", str(world.root))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "notebook.py")
    assert spec
    assert spec.loader

    def run() -> Any:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.app.run()[1]

    return run


@pytest.mark.filterwarnings("error:Glyph")
def test_every_chart(
    run_notebook: Any, world: World, account: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chart shows the rows of its analysis below the question, in the letters of every script."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("N_SHARDS", str(world.n_shards))
    now = datetime.now(UTC)
    tasks = [{"id": f"t{n}", "content": "牛乳", "added_at": f"2026-11-{2 + 7 * n:02}T09:00:00Z"} for n in range(3)]
    world.add("ann", account(*tasks))
    world.night(now)
    theme = world.rows("task_clusters")[0]["cluster_id"]
    for days in range(5):
        log_tip(
            world, "ann", now - timedelta(days=days), "theme", theme=theme, reaction="done" if days % 2 else "ignored"
        )
    run_log = RunLog(world.connection)
    run_log.finish_step_run(
        StepRun("n", "embed_tasks", now, now, 1, {}, {"texts_embedded": 3}, {}, {"texts_embedded": 0.5})
    )
    write_step_runs(world)
    variables = run_notebook()
    with open_world_session(world, database_url) as analyst:
        for name, analysis in CHARTS.items():
            assert isinstance(variables[name], Figure), variables[name]
            axes = variables[name].axes[0]
            assert axes.get_title(loc="left") == analyst.question(analysis)
            assert axes.patches or axes.lines
            low, high = axes.get_xlim()
            assert all(low <= patch.get_x() <= high for patch in axes.patches)
            variables[name].canvas.draw()
        result = analyst.sql(
            "SELECT work, seconds FROM analysis.pipeline_cost WHERE seconds IS NOT NULL ORDER BY work"
        )
        assert result is not None
        seconds = dict(result.fetchall())
    bars = [patch.get_width() for patch in variables["kinds"].axes[0].patches]
    assert bars == [pytest.approx(0.4)]
    assert seconds["texts_embedded"] >= 0.5
    assert [bar.get_height() for bar in variables["costs"].axes[0].patches] == pytest.approx(list(seconds.values()))


def test_before_the_first_run(run_notebook: Any) -> None:
    """Without data or without Postgres, a message takes the place of each chart."""
    variables = run_notebook()
    for name in CHARTS:
        assert not isinstance(variables[name], Figure)
    assert "There is no data yet" in variables["costs"].text
    assert "DATABASE_URL" in variables["kinds"].text


def test_one_file_without_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The exported page has the charts and the messages, and refers to nothing outside itself."""
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    spec = importlib.util.spec_from_file_location("export_notebook", ROOT / "export_notebook.py")
    assert spec and spec.loader
    export = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(export)
    figure = Figure()
    figure.subplots().set_title("a chart")
    page = export.notebook_page([*export.run_notebook(), figure])
    assert page.count("<svg") == 1
    assert page.count("There is no data yet") == 2
    assert page.count("DATABASE_URL is not set") == 5
    assert "<marimo" not in page
    assert not re.search(r"""<script|<link|(src|href)=["']?(https?:)?//""", page)
