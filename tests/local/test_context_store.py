"""A local context store for the users of a scenario."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.context_store import ContextStoreInUse, running_context_store
from local.scenario import scenario_from_environment


def test_one_run_per_folder(tmp_path: Path) -> None:
    """While a run uses a folder, a second run is refused before it changes any file."""
    with (
        scenario_from_environment({"USERS": "1"}) as scenario,
        running_context_store(scenario, tmp_path, print) as first,
    ):
        (tmp_path / "data").mkdir()
        with pytest.raises(ContextStoreInUse, match="End it first"), running_context_store(scenario, tmp_path, print):
            pass
        assert (tmp_path / "data").is_dir()
        assert first.connection.execute("SELECT count(*) FROM todoist_accounts").fetchone() == (1,)
    with (
        scenario_from_environment({"USERS": "2"}) as scenario,
        running_context_store(scenario, tmp_path, print) as second,
    ):
        assert not (tmp_path / "data").exists()
        assert second.connection.execute("SELECT count(*) FROM todoist_accounts").fetchone() == (2,)
