"""The folder of a local run, and the run that continues the last one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from local.context_store import running_context_store
from local.local_run import FolderInUse, LocalRun, local_run
from local.scenario import ScenarioError
from local.services import scenario_of, settings_of


def begin(folder: Path, environment: Mapping[str, str]) -> LocalRun:
    """A run that got so far that the next one can continue it."""
    with local_run(folder, environment) as run:
        run.save(n_shards=2)
        (folder / "data").mkdir(exist_ok=True)
    return run


def test_one_run_per_folder(tmp_path: Path) -> None:
    """While a run uses a folder, a second run is refused before it changes any file."""
    with local_run(tmp_path, {"USERS": "1"}):
        (tmp_path / "data").mkdir()
        with pytest.raises(FolderInUse, match="End it first"), local_run(tmp_path, {"USERS": "1", "FRESH": "1"}):
            pass
        assert (tmp_path / "data").is_dir()


def test_rows_that_were_moved(tmp_path: Path) -> None:
    """After `reshard` the next run has the number of shards that the data have."""
    begin(tmp_path, {"USERS": "2"})
    (tmp_path / "data" / "shards.json").write_text('{"n_shards": 5}')
    with local_run(tmp_path, {"USERS": "2"}) as run, scenario_of(run, {"USERS": "2"}) as scenario:
        assert settings_of(run, scenario)["N_SHARDS"] == "5"


def test_the_store_goes_on(tmp_path: Path) -> None:
    """The next run has the accounts, the key and the data of the last one; with FRESH=1 it has none of them."""
    keys, numbers = [], []
    for environment in ({"USERS": "2"}, {"USERS": "2"}, {"USERS": "3", "FRESH": "1"}):
        with (
            local_run(tmp_path, environment) as run,
            scenario_of(run, environment) as scenario,
            running_context_store(scenario, run, print) as store,
        ):
            (tmp_path / "data").mkdir(exist_ok=True)
            keys.append(store.key)
            query = "SELECT connection_number FROM todoist_accounts ORDER BY user_id"
            numbers.append(store.connection.execute(query).fetchall())
            assert settings_of(run, scenario)["N_SHARDS"] == "2"
            assert (tmp_path / "run.json").stat().st_mode & 0o077 == 0
    assert keys[0] == keys[1] != keys[2]
    assert numbers[0] == numbers[1]
    assert len(numbers[2]) == 3


def test_a_new_run_that_is_killed_early(tmp_path: Path) -> None:
    """A run that ended before it had a context store is not continued."""
    begin(tmp_path, {})
    with local_run(tmp_path, {"FRESH": "1"}):
        assert not (tmp_path / "data").exists()
    with local_run(tmp_path, {}) as run:
        assert not run.is_continued


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"USERS": "26"}, "USERS=26: the last run in .* has USERS=25. FRESH=1 removes that run"),
        ({"TODOIST_API_TOKEN": "mine"}, "TODOIST_API_TOKEN: the last run in .* has USERS=25"),
        ({"N_SHARDS": "4"}, "N_SHARDS=4: the data of the last run in .* has 2"),
    ],
    ids=str,
)
def test_different_users(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    """A run with different users or shards is refused, and removes nothing unless FRESH is set."""
    begin(tmp_path, {"USERS": "25"})
    with pytest.raises(ScenarioError, match=said), local_run(tmp_path, environment):
        pass
    assert (tmp_path / "data").exists()
    with local_run(tmp_path, {**environment, "FRESH": "1"}) as run:
        assert not run.is_continued
        assert not (tmp_path / "data").exists()


def test_a_different_token(tmp_path: Path) -> None:
    """A different token may belong to a different account, so it is refused; no file has the token."""
    begin(tmp_path, {"TODOIST_API_TOKEN": "secret-1"})
    with (
        pytest.raises(ScenarioError, match="different users"),
        local_run(tmp_path, {"TODOIST_API_TOKEN": "secret-2"}),
    ):
        pass
    assert "secret" not in (tmp_path / "run.json").read_text()


def test_changed_files(tmp_path: Path) -> None:
    """The last run is continued with the same files, and refused once the list of users has changed."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "users.json").write_text(json.dumps([{"user_id": "ann", "api_token": "a"}]))
    environment = {"SAMPLE_USERS": str(files)}
    begin(tmp_path / "local", environment)
    with local_run(tmp_path / "local", environment) as run:
        assert run.is_continued
        assert run.describe(2).endswith(f" UTC (SAMPLE_USERS={files}) with night 2; FRESH=1 begins again")
    (files / "users.json").write_text("[]")
    with pytest.raises(ScenarioError, match="different users"), local_run(tmp_path / "local", environment):
        pass


def test_unreadable_state(tmp_path: Path) -> None:
    """A state that cannot be read is refused with the remedy, and removes nothing."""
    begin(tmp_path, {})
    (tmp_path / "run.json").write_text("{}")
    with (
        pytest.raises(ScenarioError, match=r"run\.json cannot be read.* FRESH=1 begins again"),
        local_run(tmp_path, {}),
    ):
        pass
    assert (tmp_path / "data").exists()
