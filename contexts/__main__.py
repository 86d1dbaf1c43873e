"""`python -m contexts`: Todoist accounts and the schema of the context store."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from getpass import getpass
from typing import Annotated, Any

import psycopg
import typer

from contexts import cli
from contexts.postgres.errors import describe_error
from contexts.postgres.migrate import MigrationsMissing, TablesLocked, check_migrated, migrate
from contexts.postgres.sql import connect
from contexts.settings import (
    CredentialSettings,
    DatabaseSettings,
    SettingsError,
    check_settings,
    misspelt_names,
    read_settings,
)
from contexts.text import counted
from contexts.todoist.accounts import Accounts, batch_notice
from contexts.todoist.credentials import CredentialCipher, Credentials, CredentialsError, new_key

app = cli.new_app("Todoist accounts and the schema of the context store.")
accounts_app = cli.new_app("Users and their Todoist tokens.")
app.add_typer(accounts_app, name="accounts")

UserId = Annotated[str, typer.Argument(metavar="USER", help="The user's id.", show_default=False)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status."""
    for sentence in misspelt_names(os.environ):
        print(sentence, file=sys.stderr)
    errors = (SettingsError, CredentialsError, MigrationsMissing, TablesLocked, ValueError, psycopg.Error, OSError)
    return cli.run(app, "python -m contexts", errors=errors, describe=describe_error, arguments=arguments)


@app.command("migrate")
def apply_migrations() -> None:
    """Apply the migrations that the database lacks."""
    with connect(read_settings(DatabaseSettings).database_url) as connection:
        applied = migrate(connection)
    print(f"applied: {', '.join(applied)}" if applied else "nothing to apply")


@accounts_app.command()
def add(
    user_id: UserId,
    email: Annotated[str, typer.Option(help="The user's email address.", show_default=False)],
    timezone: Annotated[str, typer.Option(help="IANA name, until Todoist reports one.")] = "UTC",
    with_refresh_token: Annotated[
        bool, typer.Option("--with-refresh-token", help="Read the refresh token from a second line.")
    ] = False,
) -> None:
    """Add a user, or replace a user's tokens. The token is read from the terminal or from standard input."""
    with _open_accounts() as accounts:
        access_token = _read_secret("Todoist API token")
        refresh_token = _read_secret("refresh token") if with_refresh_token else None
        credentials = Credentials(access_token, refresh_token)
        accounts.add(user_id, email=email, timezone=timezone, credentials=credentials)
    print(f"added {user_id}")


@accounts_app.command("list")
def list_users() -> None:
    """List every user with the state of the account."""
    with _open_accounts() as accounts:
        users, undecryptable = accounts.all(), accounts.undecryptable()
    for user in users:
        print(_describe(user, is_decryptable=user["user_id"] not in undecryptable))
    if not users:
        print("no users")


@accounts_app.command()
def remove(user_id: UserId) -> None:
    """Delete a user from Postgres. The next run of the pipeline deletes the user's Parquet rows."""
    with _open_accounts() as accounts:
        held_until = accounts.held_at_provider_until(user_id)
        _check_exists(user_id, accounts.remove(user_id))
    if held_until is not None:
        print(batch_notice(user_id, held_until))
    print(
        f"removed {user_id} from Postgres; the next run of fetch_signals and the steps after it remove the Parquet"
        f" rows. To remove them now: python -m assets erase {user_id}"
    )


@accounts_app.command()
def activate(user_id: UserId) -> None:
    """Fetch a user again."""
    _set_active(user_id, active=True)


@accounts_app.command()
def deactivate(user_id: UserId) -> None:
    """Stop fetching a user. Stored data are kept."""
    _set_active(user_id, active=False)


@accounts_app.command()
def reconnect(
    user_id: Annotated[str | None, typer.Argument(metavar="USER", help="The user's id.", show_default=False)] = None,
    all_users: Annotated[bool, typer.Option("--all", help="Connect all disconnected accounts.")] = False,
) -> None:
    """Connect disconnected accounts again: Todoist refused their tokens, and will be asked with the same ones."""
    if (user_id is None) != all_users:
        raise typer.BadParameter("name either a USER or --all")
    with _open_accounts() as accounts:
        reconnected = accounts.reconnect(user_id)
        if user_id is not None and not reconnected:
            _check_exists(user_id, bool(accounts.existing([user_id])))
    print("\n".join(f"reconnected {user}" for user in reconnected) or "nothing to reconnect")


@accounts_app.command()
def rotate() -> None:
    """Encrypt all tokens with the first key."""
    with _open_accounts() as accounts:
        n_accounts = accounts.rotate()
    print(f"{counted(n_accounts, 'account')} encrypted with the first key")


@accounts_app.command("new-key")
def print_new_key() -> None:
    """Print a new key for CREDENTIALS_KEYS."""
    print(new_key())


@contextmanager
def _open_accounts() -> Iterator[Accounts]:
    check_settings(DatabaseSettings, CredentialSettings)
    cipher = CredentialCipher(read_settings(CredentialSettings).keys)
    with connect(read_settings(DatabaseSettings).database_url) as connection:
        check_migrated(connection)
        yield Accounts(connection, cipher, clock=partial(datetime.now, UTC))


def _set_active(user_id: str, *, active: bool) -> None:
    with _open_accounts() as accounts:
        _check_exists(user_id, accounts.set_active(user_id, active=active))
    print(f"{'activated' if active else 'deactivated'} {user_id}")


def _check_exists(user_id: str, exists: bool) -> None:
    if not exists:
        raise ValueError(f"there is no user '{user_id}'. See: python -m contexts accounts list")


def _describe(user: Mapping[str, Any], *, is_decryptable: bool) -> str:
    state = "active" if user["active"] else "inactive"
    connection = "connected" if user["connected"] else "reconnect needed"
    if user["connected"] and user["auth_failures"]:
        connection = f"connected, but refused on {user['refused_at']:%Y-%m-%d}"
    if not is_decryptable:
        connection = "no key decrypts its tokens: add it again"
    observed_at = user["observed_at"]
    fetched = f"fetched {observed_at}" if observed_at else "not fetched by the pipeline yet"
    return f"{user['user_id']}  {user['email']}  {user['timezone']}  {state}  {connection}  {fetched}"


def _read_secret(name: str) -> str:
    """Read a secret from the terminal or a line of standard input; arguments would show it to other processes."""
    try:
        secret = getpass(f"{name}: ") if sys.stdin.isatty() else sys.stdin.readline()
    except EOFError:  # Ctrl-D at the prompt
        secret = ""
    if not secret.strip():
        raise ValueError(f"the {name} is empty; write it on a line of standard input")
    return secret.strip()


if __name__ == "__main__":
    sys.exit(main())
