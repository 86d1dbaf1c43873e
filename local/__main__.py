"""`make run`: Postgres, Todoist and Airflow on this machine, some nights through them, and what they made."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from assets.bill import lines
from assets.definitions import GRAPH
from assets.doors import Doors
from assets.night import Night
from contexts.ledger import Ledger
from contexts.model import UserContext
from contexts.settings import Settings, SettingsError, read_settings
from contexts.vault import Vault
from contexts.why import explain_user
from local import airflow, nights, postgres, service, services, tips
from local.airflow import AirflowError
from local.cast import Cast, CastError, chosen
from local.page import show_context
from local.service import ServiceError
from local.services import FolderTaken, Services, short

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Run all nights; 0 when every DAG run succeeded."""
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument("--folder", type=Path, default=airflow.ROOT / ".local", help="where all files go")
    folder = parser.parse_args().folder.resolve()
    services.heed_signals()
    once = os.environ.get("ONCE", "") not in ("", "0")
    try:
        with ExitStack() as stack:
            cast = stack.enter_context(chosen(os.environ))
            try:
                return _run(stack, cast, folder, once=once)
            except KeyboardInterrupt:
                say("Stopping what is up; Airflow takes up to a minute")
                raise
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except (CastError, SettingsError, AirflowError, ServiceError, FolderTaken) as error:
        console.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
        return 1


def _run(stack: ExitStack, cast: Cast, folder: Path, *, once: bool) -> int:
    have = stack.enter_context(services.running(cast, folder, say))
    variables = services.settings(cast, folder)
    os.environ.update(variables)
    chosen_settings = read_settings(Settings)
    services.write_environment(folder / "environment", {**variables, **have.environment})
    metadata = postgres.create_database(have.server, "airflow", anew=True)
    environment = {
        **have.connections,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata.replace("postgresql://", "postgresql+psycopg2://", 1),
    }
    connection = have.connection
    say(f"Embedding model: {chosen_settings.embedding_model} on {chosen_settings.embedding_device}")
    doors = Doors.of(chosen_settings, Vault([have.key]), connection, cast.todoist_url)
    say("Starting Airflow (api-server, scheduler, dag-processor, triggerer): half a minute to two minutes")
    running = stack.enter_context(airflow.running(folder / "airflow", environment, tuple(GRAPH.steps), say))
    say(f"  its UI: {running.url}   its log: {short(running.log_file)}")
    done: list[nights.Night] = []
    for number in range(1, cast.n_nights + 1):
        say(f"Night {number} of {cast.n_nights}" + (f": {cast.change(number)}" if number > 1 else ""))
        say("  The plan (python -m assets plan), before anything is fetched:")
        night = Night(doors, airflow.now())
        for line in lines(night.bill(*night.forecast(), GRAPH)):
            say(f"    {line}")
        done.append(nights.run_night(running, Ledger(connection), airflow.now(), say))
        nights.save(done, folder / "nights.json")
    nights.show(done, console)
    user_id = _show_one_context(connection)
    if user_id is not None:
        _show_why(doors)
        _give_tips(stack, have, folder, user_id)
    say(f"The figures: {short(folder / 'nights.json')}, {short(folder / 'tips.json')}")
    say(f"The Parquet: {short(folder / 'data')}/<asset>/shard=*/data.parquet")
    if not once:
        say(f"Airflow stays up at {running.url} (any user is admin, on this machine only). Ctrl-C ends it.")
        threading.Event().wait()
    failed = [number for number, night in enumerate(done, 1) if not night.succeeded]
    if failed:
        say(f"Not every DAG run succeeded: see night {', '.join(map(str, failed))} at {running.url} or in the logs")
    say("Stopping the service, Airflow and Postgres")
    return 1 if failed else 0


def _give_tips(stack: ExitStack, have: Services, folder: Path, user_id: str) -> None:
    """Start the service and ask for tips; it stays up until the stack ends."""
    llm, sentence = stack.enter_context(tips.llm_environment(os.environ))
    console.print()
    say(f"Starting the service. {sentence}")
    environment = {**have.environment, **llm}
    running = stack.enter_context(service.running(environment, folder / "service.log"))
    shown = tips.show_tips(running, tips.without_todoist(environment), user_id, have.connection)
    tips.print_tips(shown, console)
    tips.save(shown, folder / "tips.json")
    say("By hand, while it runs:")
    say("  make sql                             # all that was made, and the tips, in DuckDB")
    say(f"  set -a; . {short(folder / 'environment')}; set +a")
    say(f"  {short(Path(sys.executable))} -m assets ledger    # or: plan, why {user_id}")
    for line in tips.curl_lines(running, user_id):
        say(f"  {line}")


def _show_one_context(connection: Any) -> str | None:
    """Print the context of one user, of English if there is one; gives the user."""
    row = connection.execute(
        "SELECT user_id, materialized_at, context_json, context_hash FROM context_store"
        " ORDER BY context_json::JSON -> 'profile' ->> 'language' = 'en' DESC, user_id LIMIT 1"
    ).fetchone()
    if row is None:
        say("context_store is empty: nobody could be fetched")
        return None
    user_id, at, text, context_hash = row
    console.print(
        f"\n[bold]context_store, {user_id}[/bold]  fetched {at:%Y-%m-%d %H:%M:%S %Z}  hash {context_hash[:12]}…"
    )
    show_context(UserContext.model_validate(json.loads(text)), console)
    return str(user_id)


def _show_why(doors: Doors) -> None:
    """Say of the user whose context changed most what changed in it."""
    found = doors.history.connection.execute("SELECT user_id FROM context_store ORDER BY user_id").fetchall()
    told = max((explain_user(doors.history, user_id, 2) for (user_id,) in found), key=len, default=[])
    console.print("\n[bold]Why did a context change[/bold] (python -m assets why USER)")
    for line in told:
        say(f"  {line}")


def say(text: str) -> None:
    """One line of progress, at once."""
    console.print(escape(text), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
