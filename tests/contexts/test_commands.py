"""`python -m contexts`, as operators call it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from contexts.__main__ import main
from contexts.postgres.sql import ROOT
from contexts.todoist.accounts import Accounts
from contexts.todoist.credentials import CredentialCipher, Credentials, new_key
from local import postgres

REPOSITORY = Path(__file__).parents[2]
KEY = new_key()
CANARY = "canary-4711"
MIGRATIONS = sorted(path.stem for path in (ROOT / "migrations").glob("*.sql"))
_database_numbers = count()

Result = tuple[int, str, str]
Run = Callable[..., Result]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; returns the exit status, stdout and stderr."""

    def command(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = main(arguments)
        return status, *capsys.readouterr()

    return command


@pytest.fixture
def accounts(
    call: Run, database_url: str, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs a command of `accounts` with an emptied database and a key."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CREDENTIALS_KEYS", KEY)
    return lambda *arguments, **options: call("accounts", *arguments, **options)


@pytest.fixture
def empty_database(server: str) -> str:
    """The URL of a database without tables."""
    return postgres.create_database(server, f"empty_commands_{next(_database_numbers)}")


def as_program(*arguments: str, stdin: str = "", **environment: str) -> Result:
    """Run a command in a process of its own, without this process's DATABASE_URL."""
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "contexts", *arguments],
        cwd=REPOSITORY,
        env=inherited | environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def credentials(connection: psycopg.Connection[Any], user: str, key: str = KEY) -> Credentials:
    [account] = Accounts(connection, CredentialCipher([key])).load([user])[0]
    return account.credentials


class TestAdd:
    @pytest.mark.parametrize("user", ["ann/bob", "", "..", "a" * 257, "\udcff"], ids=lambda value: ascii(value)[:8])
    def test_id_that_no_address_can_hold(self, accounts: Run, user: str) -> None:
        """An id that the service could not be asked for is refused when the user is added."""
        status, _, err = accounts("add", user, "--email", "a@x.org", stdin=f"{CANARY}\n")
        assert status == 1
        assert "user_id: expected 1 to 256 printable characters without '/'" in err
        assert accounts("list")[1] == "no users\n"

    def test_token(self, accounts: Run, connection: psycopg.Connection[Any]) -> None:
        """The first line of stdin is the token; it is stored encrypted and never printed."""
        status, out, err = accounts(
            "add", "ann", "--email", "a@x.org", "--timezone", "Asia/Tokyo", stdin=f"{CANARY}\n"
        )
        assert (status, out, err) == (0, "added ann\n", "")
        assert credentials(connection, "ann") == Credentials(CANARY, None)

    def test_refresh_token(self, accounts: Run, connection: psycopg.Connection[Any]) -> None:
        """With --with-refresh-token the second line is the refresh token."""
        assert accounts("add", "ann", "--email", "a@x.org", "--with-refresh-token", stdin=" one \ntwo\n")[0] == 0
        assert credentials(connection, "ann") == Credentials("one", "two")

    @pytest.mark.parametrize("arguments", [(), ("--with-refresh-token",)])
    def test_empty_token(
        self, accounts: Run, connection: psycopg.Connection[Any], arguments: tuple[str, ...]
    ) -> None:
        """An empty token is rejected, and no user is added."""
        stdin = "token\n" if arguments else "\n"
        status, _, err = accounts("add", "ann", "--email", "a@x.org", *arguments, stdin=stdin)
        assert status == 1
        assert "token" in err
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)

    def test_unknown_zone(self, accounts: Run) -> None:
        """An unknown time zone is rejected with an example of a valid one, and without the token."""
        status, out, err = accounts("add", "ann", "--email", "a@x.org", "--timezone", "Berlin", stdin=f"{CANARY}\n")
        assert (status, out) == (1, "")
        assert "Europe/Berlin" in err
        assert CANARY not in err

    def test_as_program(self, database_url: str, connection: psycopg.Connection[Any]) -> None:
        """The command works from a shell, with the token on stdin."""
        arguments = ("accounts", "add", "ann", "--email", "a@x.org")
        result = as_program(*arguments, stdin=f"{CANARY}\n", DATABASE_URL=database_url, CREDENTIALS_KEYS=KEY)
        assert result == (0, "added ann\n", "")
        assert credentials(connection, "ann") == Credentials(CANARY, None)


class TestList:
    def test_users(self, accounts: Run) -> None:
        """Every user is listed with the state of the account, and without a token."""
        assert accounts("list") == (0, "no users\n", "")
        for user in ("bob", "ann"):
            accounts("add", user, "--email", f"{user}@x.org", stdin=f"{CANARY}\n")
        status, out, _ = accounts("list")
        assert status == 0
        assert [line.split()[0] for line in out.splitlines()] == ["ann", "bob"]
        assert out.splitlines()[0] == "ann  ann@x.org  UTC  active  connected  not fetched by the pipeline yet"
        assert CANARY not in out

    def test_refused_once(self, accounts: Run, connection: psycopg.Connection[Any]) -> None:
        """An account that Todoist refused on one day is marked with the day."""
        accounts("add", "ann", "--email", "a@x.org", stdin="t\n")
        connection.execute("UPDATE todoist_accounts SET auth_failures = 1, refused_at = '2026-11-23 02:00+00'")
        assert "  active  connected, but refused on 2026-11-23  not fetched" in accounts("list")[1]

    def test_states(self, accounts: Run, connection: psycopg.Connection[Any]) -> None:
        """Inactive users and accounts to reconnect are marked."""
        accounts("add", "ann", "--email", "a@x.org", stdin="t\n")
        Accounts(connection, CredentialCipher([KEY])).set_active("ann", active=False)
        connection.execute("UPDATE todoist_accounts SET connected = FALSE")
        assert "inactive  reconnect needed" in accounts("list")[1]


class TestChanges:
    def test_remove(self, accounts: Run) -> None:
        """A removed user is gone; removing the user again is an error."""
        accounts("add", "ann", "--email", "a@x.org", stdin="t\n")
        status, out, _ = accounts("remove", "ann")
        assert status == 0
        assert out.startswith("removed ann ")
        status, _, err = accounts("remove", "ann")
        assert status == 1
        assert "'ann'" in err
        assert accounts("list")[1] == "no users\n"

    def test_remove_with_a_batch(self, accounts: Run, connection: psycopg.Connection[Any]) -> None:
        """The removal of a user with a request in a batch says until when the LLM's provider may hold the context."""
        accounts("add", "ann", "--email", "a@x.org", stdin="t\n")
        connection.execute(
            """WITH batch AS (
                   INSERT INTO llm_batches (batch_id, model, created_at, expires_at)
                   VALUES (gen_random_uuid(), 'openai:m', '2026-11-23 02:00Z', '2026-11-24 02:00Z') RETURNING batch_id
               )
               INSERT INTO llm_batch_requests
                   (batch_id, user_id, custom_id, connection_number, context_hash, likely_at)
               SELECT batch_id, 'ann', '0', 1, '', '2026-11-23 09:00Z' FROM batch"""
        )
        assert "in a batch until 2026-11-24 02:00 UTC" in accounts("remove", "ann")[1]
        assert connection.execute("SELECT count(*) FROM llm_batch_requests").fetchone() == (0,)

    def test_activity(self, accounts: Run) -> None:
        """A user is deactivated and activated again; an unknown user is an error."""
        accounts("add", "ann", "--email", "a@x.org", stdin="t\n")
        assert accounts("deactivate", "ann") == (0, "deactivated ann\n", "")
        assert "  inactive  " in accounts("list")[1]
        assert accounts("activate", "ann") == (0, "activated ann\n", "")
        assert "  active  " in accounts("list")[1]
        status, out, err = accounts("activate", "bob")
        assert (status, out) == (1, "")
        assert err == "there is no user 'bob'. See: python -m contexts accounts list\n"


class TestReconnect:
    @pytest.fixture
    def disconnected(self, accounts: Run, connection: psycopg.Connection[Any]) -> None:
        """Three users, two of them with accounts to reconnect."""
        for user in ("ann", "bob", "cem"):
            accounts("add", user, "--email", f"{user}@x.org", stdin=f"{CANARY}-{user}\n")
        connection.execute(
            "UPDATE todoist_accounts SET auth_failures = 2, connected = FALSE, refused_at = '2026-11-23'"
            " WHERE user_id <> 'cem'"
        )

    @pytest.mark.usefixtures("disconnected")
    def test_one(self, accounts: Run, connection: psycopg.Connection[Any]) -> None:
        """One account is connected again with its token; others stay as they are."""
        assert accounts("reconnect", "ann") == (0, "reconnected ann\n", "")
        assert ["reconnect needed" in line for line in accounts("list")[1].splitlines()] == [False, True, False]
        assert credentials(connection, "ann") == Credentials(f"{CANARY}-ann")
        assert accounts("reconnect", "ann") == (0, "nothing to reconnect\n", "")

    @pytest.mark.usefixtures("disconnected")
    def test_all(self, accounts: Run) -> None:
        """All disconnected accounts are connected again and named."""
        assert accounts("reconnect", "--all") == (0, "reconnected ann\nreconnected bob\n", "")
        assert "reconnect needed" not in accounts("list")[1]
        assert accounts("reconnect", "--all") == (0, "nothing to reconnect\n", "")

    def test_unknown_user(self, accounts: Run) -> None:
        """An unknown user is an error."""
        status, out, err = accounts("reconnect", "bob")
        assert (status, out) == (1, "")
        assert err == "there is no user 'bob'. See: python -m contexts accounts list\n"

    @pytest.mark.parametrize("arguments", [(), ("ann", "--all")])
    def test_usage(self, accounts: Run, arguments: tuple[str, ...]) -> None:
        """Either a user or --all has to be named."""
        status, out, err = accounts("reconnect", *arguments)
        assert (status, out) == (2, "")
        assert "name either a USER or --all" in err


class TestKeys:
    def test_new_key(self, call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """A new key is valid, and printing it needs neither database nor settings."""
        for name in ("DATABASE_URL", "CREDENTIALS_KEYS"):
            monkeypatch.delenv(name, raising=False)
        status, out, _ = call("accounts", "new-key")
        assert status == 0
        Fernet(out.strip())

    def test_rotate(
        self, accounts: Run, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a rotation the first key decrypts everything."""
        accounts("add", "ann", "--email", "a@x.org", stdin="t\n")
        key = new_key()
        monkeypatch.setenv("CREDENTIALS_KEYS", f"{key},{KEY}")
        assert accounts("rotate") == (0, "1 account encrypted with the first key\n", "")
        assert credentials(connection, "ann", key) == Credentials("t", None)

    def test_undecryptable(self, accounts: Run, connection: psycopg.Connection[Any]) -> None:
        """The list says of an account that no key decrypts its tokens; a rotation names it, and is an error."""
        for user in ("ann", "bob"):
            accounts("add", user, "--email", "a@x.org", stdin="t\n")
        connection.execute("UPDATE todoist_accounts SET credentials = 'x' WHERE user_id = 'bob'")
        _, out, _ = accounts("list")
        assert [line.split()[0] for line in out.splitlines() if "no key decrypts its tokens" in line] == ["bob"]
        status, _, err = accounts("rotate")
        assert status == 1
        assert "the credentials of bob" in err

    def test_rotate_without_the_old_key(self, accounts: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """A rotation without the previous key is an error."""
        accounts("add", "ann", "--email", "a@x.org", stdin="t\n")
        monkeypatch.setenv("CREDENTIALS_KEYS", new_key())
        status, _, err = accounts("rotate")
        assert status == 1
        assert "CREDENTIALS_KEYS" in err


class TestMigrate:
    def test_applied_once(self, call: Run, empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The command prints the applied migrations, and the second time that there are none."""
        monkeypatch.setenv("DATABASE_URL", empty_database)
        assert call("migrate") == (0, f"applied: {', '.join(MIGRATIONS)}\n", "")
        assert call("migrate") == (0, "nothing to apply\n", "")

    def test_without_a_database_url(self) -> None:
        """Without DATABASE_URL the command exits with 1 and an example of a valid URL, without a traceback."""
        status, out, err = as_program("migrate")
        assert (status, out) == (1, "")
        assert "postgresql://user:password@host/name" in err
        assert "Traceback" not in err


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("DATABASE_URL", None, "DATABASE_URL: "),
            ("DATABASE_URL", f"mysql://u:{CANARY}@host/db", "DATABASE_URL: "),
            ("DATABASE_URL", f"postgresql://u:{CANARY}@127.0.0.1:1/db", "refused"),
            ("CREDENTIALS_KEYS", None, "CREDENTIALS_KEYS: "),
            ("CREDENTIALS_KEYS", CANARY, "new-key"),
        ],
    )
    def test_wrong_environment(
        self, accounts: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, message: str
    ) -> None:
        """A missing or invalid setting is reported without its secrets, with exit status 1."""
        monkeypatch.delenv(name)
        if value is not None:
            monkeypatch.setenv(name, value)
        status, out, err = accounts("list")
        assert (status, out) == (1, "")
        assert message in err
        assert CANARY not in err

    def test_password_that_libpq_quotes(self, accounts: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """A password with a stray % in DATABASE_URL is not part of the message."""
        monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{CANARY}%zz@127.0.0.1:1/db")
        status, _, err = accounts("list")
        assert status == 1
        assert CANARY not in err

    @pytest.mark.parametrize(
        "arguments",
        [(), ("frobnicate",), ("accounts",), ("accounts", "add", "ann"), ("accounts", "remove"), ("migrate", "now")],
    )
    def test_usage(self, call: Run, arguments: tuple[str, ...]) -> None:
        """An unknown or incomplete command exits with 2 and shows its usage on stderr."""
        status, out, err = call(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("Usage: python -m contexts ")

    @pytest.mark.parametrize("arguments", [("--help",), ("accounts", "--help"), ("accounts", "add", "--help")])
    def test_help(self, call: Run, arguments: tuple[str, ...]) -> None:
        """Help is plain text on stdout, with exit status 0 and without options for shell completion."""
        status, out, err = call(*arguments)
        assert (status, err) == (0, "")
        assert out.startswith("Usage: python -m contexts ")
        assert not re.search("completion|[╭│\x1b]", out)
