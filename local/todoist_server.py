"""`python -m local.todoist_server`: serve the stand-in, and add its users to the context store of DATABASE_URL."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser
from threading import Event

import psycopg

from contexts.postgres.sql import connect
from contexts.settings import CredentialSettings, DatabaseSettings, SettingsError, check_settings, read_settings
from local.scenario import ScenarioError, TodoistPlace, install, scenario_from_environment


def main() -> int:
    """Serve until SIGINT or SIGTERM; returns the exit status."""
    parser = ArgumentParser(prog="python -m local.todoist_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8200)
    options = parser.parse_args()
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        if not os.environ.get("TODOIST_API_URL"):
            raise ScenarioError(
                "TODOIST_API_URL is not set: pipeline runs would look for these users at todoist.com."
            )
        check_settings(DatabaseSettings, CredentialSettings)
        url, keys = read_settings(DatabaseSettings).database_url, read_settings(CredentialSettings).keys
        with scenario_from_environment(os.environ, TodoistPlace(options.host, options.port)) as scenario:
            with connect(url) as connection:
                install(connection, keys[0], scenario)
            print(f"{scenario.description}; added to the context store", flush=True)
            stopped.wait()
    except (ScenarioError, SettingsError, psycopg.Error, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
