"""`python -m contexts.accounts`: add, list, remove, activate, deactivate, rotate, new-key."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from getpass import getpass

import psycopg

from contexts.accounts import Accounts
from contexts.settings import DatabaseSettings, SettingsError, VaultSettings, read_settings
from contexts.sql import connect
from contexts.todoist import Credentials
from contexts.vault import Vault, VaultError, new_key


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it was done, 1 with a sentence on stderr when not."""
    options = _parser().parse_args(arguments)
    if options.command == "new-key":
        print(new_key())
        return 0
    try:
        vault = Vault(read_settings(VaultSettings).keys)
        with connect(read_settings(DatabaseSettings).database_url) as connection:
            print(_run(options, Accounts(connection, vault)))
    except (SettingsError, VaultError, ValueError, psycopg.Error) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, accounts: Accounts) -> str:
    if options.command == "add":
        token = _secret("Todoist API token")
        refresh = _secret("refresh token") if options.with_refresh_token else None
        accounts.add(
            options.user_id, email=options.email, timezone=options.timezone, credentials=Credentials(token, refresh)
        )
        return f"added {options.user_id}"
    if options.command == "remove":
        if not accounts.remove(options.user_id):
            raise ValueError(f"there is no user '{options.user_id}'. See: python -m contexts.accounts list")
        return (
            f"removed {options.user_id} from Postgres; the next run of fetch_signals and what it wakes remove the"
            f" Parquet rows, as this does at once: python -m assets forget {options.user_id}"
        )
    if options.command in ("activate", "deactivate"):
        if not accounts.set_active(options.user_id, active=options.command == "activate"):
            raise ValueError(f"there is no user '{options.user_id}'. See: python -m contexts.accounts list")
        return f"{options.command}d {options.user_id}"
    if options.command == "rotate":
        return f"{accounts.rotate()} accounts encrypted with the first key"
    return "\n".join(_line(user) for user in accounts.all()) or "no users"


def _line(user: dict[str, object]) -> str:
    state = "active" if user["active"] else "inactive"
    link = "connected" if user["connected"] else "reconnect needed"
    return f"{user['user_id']}  {user['email']}  {user['timezone']}  {state}  {link}  seen {user['observed_at']}"


def _secret(what: str) -> str:
    """A secret from the terminal, or a line of standard input: never an argument, which others could see."""
    given = getpass(f"{what}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not given.strip():
        raise ValueError(f"no {what} was given; write it on a line of standard input")
    return given.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m contexts.accounts", description="Users and their Todoist tokens."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="add a user, or new tokens; the tokens are read from standard input")
    add.add_argument("user_id")
    add.add_argument("--email", required=True)
    add.add_argument("--timezone", default="UTC", help="IANA name; Todoist's own answer replaces it")
    add.add_argument("--with-refresh-token", action="store_true", help="a second line holds the refresh token")
    commands.add_parser("list", help="every user and the state of the account")
    commands.add_parser("remove", help="take a user out").add_argument("user_id")
    commands.add_parser("activate", help="fetch a user again").add_argument("user_id")
    commands.add_parser("deactivate", help="fetch a user no more; what is stored stays").add_argument("user_id")
    commands.add_parser("rotate", help="encrypt everything with the first of CREDENTIALS_KEYS")
    commands.add_parser("new-key", help="print a fresh key for CREDENTIALS_KEYS")
    return parser
