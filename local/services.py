"""`make services`: Postgres, a local Todoist and settings for an Airflow that is started separately.

They run until Ctrl-C. `.local/astro.env` holds the variables for
`astro dev start --standalone --env .local/astro.env`.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from contexts.settings import Settings, SettingsError, read_settings
from contexts.themes.universal_encoder import UNIVERSAL_DIM, UNIVERSAL_ENCODER
from local.clock import utc_now
from local.context_store import LocalContextStore, running_context_store
from local.environment_file import EnvironmentFile, forget_last_run, write_environment
from local.local_run import FolderInUse, LocalRun, local_run
from local.paths import PROGRAMS, ROOT
from local.scenario import Scenario, ScenarioError, TodoistPlace, scenario_from_environment

USERS_PER_SHARD = 250

_AIRFLOW_SETTINGS = {
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__CORE__PARALLELISM": "4",
    "AIRFLOW__API__HOST": "127.0.0.1",  # anyone who can reach it is admin
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "OMP_NUM_THREADS": "1",
}


def run_settings(scenario: Scenario, folder: Path) -> dict[str, str]:
    """The settings of a run with its files in a folder: defaults for one machine, overridden by the environment.

    DATA_ROOT is always inside the folder.
    """
    # The simulated nights are triggered directly; the scheduled run is twelve hours away from them.
    scheduled_hour = (utc_now().hour + 12) % 24
    defaults = {
        "DATA_ROOT": str(folder / "data"),
        "N_SHARDS": str(max(2, math.ceil(len(scenario.users) / USERS_PER_SHARD))),
        "MATERIALIZE_SCHEDULE": f"0 {scheduled_hour} * * *",
        "NIGHT_HOUR": str(scheduled_hour),
        "EMBEDDING_MODEL": UNIVERSAL_ENCODER,
        "EMBEDDING_PROMPT": "",
        "EMBEDDING_DIM": str(UNIVERSAL_DIM),
        "EMBEDDING_DEVICE": "auto",
    }
    # Some defaults fit only together with others.
    for variable, dependents in (("EMBEDDING_MODEL", "EMBEDDING_"), ("MATERIALIZE_SCHEDULE", "NIGHT_HOUR")):
        if variable in os.environ:
            defaults = {name: value for name, value in defaults.items() if not name.startswith(dependents)}
    names = {name.upper() for name in Settings.model_fields} - {"DATA_ROOT"}
    return defaults | {name: os.environ[name] for name in names & os.environ.keys()}


def settings_of(run: LocalRun, scenario: Scenario) -> dict[str, str]:
    """The settings of a run, with the number of shards that its data has."""
    settings = run_settings(scenario, run.folder)
    if run.state.n_shards is None:
        run.save(n_shards=int(settings["N_SHARDS"]))
    return settings | {"N_SHARDS": str(run.state.n_shards)}


@contextmanager
def scenario_of(run: LocalRun, environment: Mapping[str, str]) -> Iterator[Scenario]:
    """The scenario of the environment, with a local Todoist that continues the state of the last run."""
    place = TodoistPlace(file=run.todoist_file)
    with scenario_from_environment(environment, place, run.state.began_at.date()) as scenario:
        yield scenario


def handle_signals() -> None:
    """Make SIGTERM act like Ctrl-C, and ignore both after the first, because stopping must not be interrupted."""

    def interrupt(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)


def main() -> int:
    """Run the services until Ctrl-C; returns the exit status."""
    argparse.ArgumentParser(prog="python -m local.services", description=__doc__).parse_args()
    handle_signals()
    folder = ROOT / ".local"
    forget_last_run(folder / "environment", os.environ)
    try:
        with (
            local_run(folder, os.environ) as run,
            scenario_of(run, os.environ) as scenario,
            running_context_store(scenario, run, print) as store,
        ):
            print(run.describe())
            _write_environments(store, run)
            print("Running until Ctrl-C. In a second terminal, run:")
            print("  astro dev start --standalone --env .local/astro.env")
            print("Then trigger fetch_signals in Airflow's UI; it triggers the other DAGs.")
            if scenario.example:
                print(f"The tasks of {scenario.users[0].user_id} in the local Todoist:\n  {scenario.example}")
            threading.Event().wait()
    except KeyboardInterrupt:
        print("stopped")
    except (ScenarioError, SettingsError, FolderInUse) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _write_environments(store: LocalContextStore, run: LocalRun) -> None:
    variables = {
        **settings_of(run, store.scenario),
        **store.environment,
        **store.airflow_environment,
        **_AIRFLOW_SETTINGS,
    }
    os.environ.update(variables)
    read_settings(Settings)  # raises SettingsError now, not in a task
    write_environment(run.folder / "astro.env", variables)
    EnvironmentFile(run.folder / "environment", PROGRAMS).add(variables)


if __name__ == "__main__":
    sys.exit(main())
