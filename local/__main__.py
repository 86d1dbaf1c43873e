"""`make run`: run Postgres, Todoist and Airflow on this machine, simulate nights, and ask for tips.

A run continues the last one in its folder, with its data; FRESH=1 begins again. `make cluster` does the same with
Celery: two workers, a Redis, and all data in an S3 server; it always begins again, in a folder of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from assets.definitions import GRAPH
from assets.reports import estimate_table
from assets.runtime import Runtime
from assets.steps import StepRunner
from contexts.postgres.run_log import RunLog
from contexts.settings import Settings, SettingsError, read_settings
from contexts.todoist.credentials import CredentialCipher
from local import context_view, services, tip_requests
from local.airflow import running_airflow
from local.airflow_api import Airflow, AirflowError
from local.airflow_database import airflow_database
from local.clock import utc_now
from local.cluster import data_settings, running_cluster, running_object_store
from local.context_store import LocalContextStore, running_context_store
from local.environment_file import EnvironmentFile, forget_last_run
from local.local_run import FolderInUse, LocalRun, is_set, local_run
from local.nights import NightFigures, print_nights, run_night, save_nights, saved_nights
from local.object_store import ObjectStore
from local.paths import PROGRAMS, ROOT, display_path
from local.played_past import play_past
from local.played_requests import has_played_requests, play_requests
from local.postgres import airflow_url
from local.preflight import check_environment
from local.scenario import Scenario, ScenarioError
from local.service import ServiceError, running_service
from local.task_places import TaskPlace, places_since, print_places
from local.webhook_demo import WebhookDemo

_SERVICE_PORT = 8100
"""The port of the examples in the documents."""

_CLUSTER_FOLDER = ROOT / ".local" / "cluster"

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Run the scenario of the environment; returns 0 if every DAG run succeeded."""
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="the folder of all files; default .local, with --cluster .local/cluster"
    )
    parser.add_argument("--cluster", action="store_true", help="run the tasks in two workers of Celery, over S3")
    options = parser.parse_args()
    folder = (options.folder or (_CLUSTER_FOLDER if options.cluster else ROOT / ".local")).resolve()
    services.handle_signals()
    once = is_set(os.environ, "ONCE")
    try:
        with ExitStack() as stack:
            forget_last_run(folder / "environment", os.environ)
            check_environment(folder)
            run = stack.enter_context(local_run(folder, os.environ, is_lasting=not options.cluster))
            nights = _earlier_nights(run)
            scenario = stack.enter_context(services.scenario_of(run, os.environ))
            try:
                return _run(stack, scenario, run, nights, once=once, is_cluster=options.cluster)
            except KeyboardInterrupt:
                print_line("Stopping; Airflow takes up to a minute")
                raise
    except KeyboardInterrupt:
        print_line("stopped")
        return 130
    except (ScenarioError, SettingsError, AirflowError, ServiceError, FolderInUse) as error:
        console.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
        return 1


def _earlier_nights(run: LocalRun) -> list[NightFigures]:
    """Print whether the last run is continued, and return the nights of a run that is.

    Raises ScenarioError if the file with the nights cannot be read.
    """
    path = run.folder / "nights.json"
    try:
        nights = saved_nights(path)
    except ValueError as error:
        raise ScenarioError(
            f"{display_path(path)} is of a different version ({error}), so the last run cannot be continued."
            " FRESH=1 begins again."
        ) from None
    print_line(run.describe(len(nights) + 1))
    return nights


def _run(
    stack: ExitStack,
    scenario: Scenario,
    run: LocalRun,
    nights: list[NightFigures],
    *,
    once: bool,
    is_cluster: bool,
) -> int:
    """Run the nights, ask for tips, and stay up unless `once`; return the exit status."""
    folder = run.folder
    store = stack.enter_context(running_context_store(scenario, run, print_line))
    file = EnvironmentFile(folder / "environment", PROGRAMS)
    object_store = stack.enter_context(running_object_store(folder)) if is_cluster else None
    settings = _set_environment(stack, store, run, object_store, file)
    if scenario.asks_daily and not has_played_requests(store.connection):
        n_played = play_requests(store.connection, scenario.user_ids, utc_now())
        print_line(
            f"Played {n_played:,} requests and reactions: for two weeks each user asked daily, an hour from now"
        )
    runtime = Runtime.connect(settings, CredentialCipher([store.key]), store.connection, scenario.todoist_url)
    airflow = _start_airflow(stack, store, run, object_store)
    file.add({**airflow.variables, "AIRFLOW_URL": airflow.url})
    n_earlier = len(nights)
    places = _run_nights(airflow, runtime, store, run, nights)
    print_nights(nights, console)
    if is_cluster:
        print_places(places, airflow.dag_ids, console)
    user_id = context_view.print_stored_context(store.connection, console)
    if user_id is None:
        print_line("context_store is empty: no user could be fetched")
    else:
        context_view.print_changes(runtime.history, console)
        _play_past(runtime, store, run)
        _give_tips(stack, store, folder, user_id, file, once=once)
    print_line(f"Figures: {display_path(folder / 'nights.json')}, {display_path(folder / 'tips.json')}")
    root = settings.data_root if is_cluster else display_path(folder / "data")
    print_line(f"Parquet: {root}/<asset>/shard=*/data.parquet")
    if not once:
        print_line(f"Airflow keeps running at {airflow.url} (every visitor is admin, on this machine only).")
        print_line("Press Ctrl-C to stop.")
        threading.Event().wait()
    failed = [str(number) for number, night in enumerate(nights, 1) if number > n_earlier and not night.succeeded]
    if failed:
        print_line(f"DAG runs failed in night {', '.join(failed)}; see {airflow.url} or the logs")
    print_line("Stopping the service, Airflow and Postgres")
    return 1 if failed else 0


def _set_environment(
    stack: ExitStack, store: LocalContextStore, run: LocalRun, object_store: ObjectStore | None, file: EnvironmentFile
) -> Settings:
    """Set the variables of the run in this process and in a file, and return the settings; starts the LLM, too."""
    llm_variables, sentence = stack.enter_context(tip_requests.llm_environment(os.environ))
    variables = {**services.settings_of(run, store.scenario), **llm_variables}
    if object_store is not None:
        variables |= data_settings(object_store)
    os.environ.update(variables)
    settings = read_settings(Settings)
    file.add({**variables, **store.environment})
    print_line(f"Embedding model: {settings.embedding_model} on {settings.embedding_device}")
    print_line(sentence)
    return settings


def _play_past(runtime: Runtime, store: LocalContextStore, run: LocalRun) -> None:
    """Play the past of the sample users for analysts, once in a run and in those that continue it."""
    if store.scenario.asks_daily and not run.state.has_past:
        run.save(has_past=True)  # if the process is killed meanwhile, no past is played twice
        play_past(runtime, store.connection, store.scenario.user_ids, run.state.began_at)
        print_line("Played two weeks of nights, contexts and calls of the LLM for analysts (make sql, make notebook)")


def _start_airflow(
    stack: ExitStack, store: LocalContextStore, run: LocalRun, object_store: ObjectStore | None
) -> Airflow:
    """Start Airflow; with Celery and two workers if the data are in an object store."""
    metadata_url = airflow_database(store.server_url, is_continued=run.is_continued)
    environment = {
        **store.airflow_environment,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_url(metadata_url),
        "AIRFLOW_CONN_AIRFLOW_METADATA": metadata_url,
    }
    steps = tuple(GRAPH.steps)
    parts = "api-server, scheduler, dag-processor, triggerer"
    if object_store is None:
        print_line(f"Starting Airflow ({parts}): takes 30 s to 2 min")
        airflow = stack.enter_context(running_airflow(run.folder / "airflow", environment, steps, print_line))
    else:
        print_line(f"Starting Redis, Airflow ({parts}) and two workers: takes 1 to 3 min")
        airflow = stack.enter_context(
            running_cluster(run.folder, object_store, environment, steps, print_line)
        ).airflow
    print_line(f"  UI: {airflow.url}   log: {display_path(airflow.log_file)}")
    return airflow


def _run_nights(
    airflow: Airflow, runtime: Runtime, store: LocalContextStore, run: LocalRun, nights: list[NightFigures]
) -> list[list[TaskPlace]]:
    """Run the nights of the scenario that are left, or one more; add their figures to `nights` and save them.

    Returns the places where the tasks of each night ran.
    """
    last, places = max(store.scenario.n_nights, len(nights) + 1), list[list[TaskPlace]]()
    for number in range(len(nights) + 1, last + 1):
        print_line(f"Night {number} of {last}{_changes_before(number, store.scenario, run)}")
        print_line("  The plan before the fetch (python -m assets plan):")
        runner = StepRunner(GRAPH, runtime, runtime.load_resources(), utc_now())
        for line in estimate_table(runner.estimate(*runner.forecast(), GRAPH)):
            print_line(f"    {line}")
        started_at = utc_now()
        nights.append(run_night(airflow, RunLog(store.connection), started_at, print_line))
        places.append(places_since(airflow, started_at))
        save_nights(nights, run.folder / "nights.json")
    return places


def _changes_before(number: int, scenario: Scenario, run: LocalRun) -> str:
    """Change the accounts before a night, once, and return a part of a sentence about it."""
    if number == 1:
        return ""
    if number <= run.state.n_changes:
        return ": the changes before it were made before the interruption"
    changes = scenario.change(number)
    run.save(n_changes=number)
    return f": {changes}"


def _give_tips(
    stack: ExitStack, store: LocalContextStore, folder: Path, user_id: str, file: EnvironmentFile, *, once: bool
) -> None:
    """Start the service and request tips; the service runs until the stack is closed."""
    console.print()
    print_line("Starting the service")
    log_file = folder / "service.log"
    demo = WebhookDemo(store.scenario.todoist) if store.scenario.todoist else None
    environment = {**store.environment, **(demo.environment if demo else {})}
    service = stack.enter_context(running_service(environment, log_file, preferred_port=_SERVICE_PORT))
    file.add({**service.variables, "SERVICE_URL": service.url})
    requests = tip_requests.send_tip_requests(
        service, tip_requests.without_todoist(store.environment), user_id, store.connection, demo
    )
    tip_requests.print_tip_requests(requests, console)
    tip_requests.save_tip_requests(requests, folder / "tips.json")
    if once:
        print_line('Try it yourself: make sql Q="FROM analysis.overdue". Without ONCE the service keeps running.')
        return
    print_line("Try it yourself while it is running:")
    print_line("  make sql                             # tables of the pipeline, and the tips, in DuckDB")
    print_line(f"  set -a; . {display_path(folder / 'environment')}; set +a")
    print_line(f"  python -m assets runs                # or: plan, why {user_id}")
    print_line("  airflow dags list                    # and every other command of Airflow")
    for line in tip_requests.curl_lines(service, user_id):
        print_line(f"  {line}")


def print_line(text: str) -> None:
    """Print one line of progress, unwrapped."""
    console.print(escape(text), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
