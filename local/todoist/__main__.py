"""`python -m local.todoist`: the stand-in, and an account in the store of DATABASE_URL for each sample user."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser
from threading import Event

import psycopg

from contexts.settings import DatabaseSettings, SettingsError, VaultSettings, read_settings
from contexts.sql import connect
from local.cast import CastError, chosen, settle


def main() -> int:
    parser = ArgumentParser(prog="python -m local.todoist", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8200)
    options = parser.parse_args()
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        if not os.environ.get("TODOIST_API_URL"):
            raise CastError("TODOIST_API_URL is not set: the sample users would be looked for at Todoist itself.")
        url, keys = read_settings(DatabaseSettings).database_url, read_settings(VaultSettings).keys
        with chosen(os.environ, options.host, options.port) as cast:
            with connect(url) as connection:
                settle(connection, keys[0], cast)
            print(f"{cast.title}; they have accounts in the context store", flush=True)
            ended.wait()
    except (CastError, SettingsError, psycopg.Error, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
