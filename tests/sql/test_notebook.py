"""The notebook, run without a browser."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta
from typing import Any

import matplotlib as mpl
import pytest
from analysts import opened, store_ledger, tip
from matplotlib.figure import Figure
from world import World

from contexts.ledger import Ledger, Page
from contexts.sql import ROOT

PICTURES = {
    "freshness": "freshness_by_hour",
    "kinds": "tip_kinds",
    "themes": "welcome_themes",
    "skips": "llm_skips",
    "nights": "night_cost",
    "users": "freshness_of_users",
    "drift": "embedding_drift",
}


@pytest.fixture
def drawn(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the notebook over the world; gives what its cells define."""
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


def test_every_picture(
    drawn: Any, world: World, account: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each picture shows what its analysis answers, below the question."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    now = datetime.now(UTC)
    tasks = [
        {"id": f"t{n}", "content": "buy milk", "added_at": f"2026-11-{2 + 7 * n:02}T09:00:00Z"} for n in range(3)
    ]
    world.add("ann", account(*tasks))
    world.night(now)
    theme = world.rows("task_clusters")[0]["cluster_id"]
    for days in range(5):
        tip(
            world, "ann", now - timedelta(days=days), "theme", theme=theme, reaction="done" if days % 2 else "ignored"
        )
    ledger = Ledger(world.connection)
    ledger.close_page(Page("n", "embed_tasks", now, now, 1, {}, {"texts_embedded": 3}, {}, {"texts_embedded": 0.5}))
    store_ledger(world)
    defined = drawn()
    with opened(world, database_url) as analyst:
        for name, analysis in PICTURES.items():
            assert isinstance(defined[name], Figure), defined[name]
            axes = defined[name].axes[0]
            assert axes.get_title(loc="left") == analyst.question(analysis)
            assert axes.patches or axes.lines
    bars = [patch.get_width() for patch in defined["kinds"].axes[0].patches]
    assert bars == [pytest.approx(0.4)]
    assert [bar.get_height() for bar in defined["nights"].axes[0].patches] == [0.5]


def test_before_anything_was_made(drawn: Any) -> None:
    """Where there is nothing yet, or no Postgres, a sentence stands in the picture's place."""
    defined = drawn()
    for name in PICTURES:
        assert not isinstance(defined[name], Figure)
    assert "There is nothing to tell yet" in defined["nights"].text
    assert "DATABASE_URL" in defined["kinds"].text
