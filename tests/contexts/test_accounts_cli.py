"""`python -m contexts.accounts`, as an operator types it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from contexts.accounts import Accounts
from contexts.accounts_cli import main
from contexts.todoist import Credentials
from contexts.vault import Vault, new_key

ROOT = Path(__file__).parents[2]
KEY = new_key()
CANARY = "canary-4711"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with lines on standard input; gives exit status, output and error output."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CREDENTIALS_KEYS", KEY)

    def command(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = main(arguments)
        return status, *capsys.readouterr()

    return command


def credentials(connection: psycopg.Connection[Any], user: str, key: str = KEY) -> Credentials:
    [found] = Accounts(connection, Vault([key])).open([user])[0]
    return found.credentials


def test_new_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """new-key prints a key that works, and needs neither database nor settings."""
    for name in ("DATABASE_URL", "CREDENTIALS_KEYS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["new-key"]) == 0
    Fernet(capsys.readouterr().out.strip())


def test_add(run: Run, connection: psycopg.Connection[Any]) -> None:
    """add stores the token of the first line, encrypted, and repeats it nowhere."""
    status, out, err = run("add", "ann", "--email", "a@x.org", "--timezone", "Asia/Tokyo", stdin=f"{CANARY}\n")
    assert (status, out, err) == (0, "added ann\n", "")
    assert credentials(connection, "ann") == Credentials(CANARY, None)


def test_add_with_refresh_token(run: Run, connection: psycopg.Connection[Any]) -> None:
    """The second line is the refresh token when one is promised."""
    assert run("add", "ann", "--email", "a@x.org", "--with-refresh-token", stdin=" one \ntwo\n")[0] == 0
    assert credentials(connection, "ann") == Credentials("one", "two")


@pytest.mark.parametrize("arguments", [(), ("--with-refresh-token",)])
def test_add_without_a_token(run: Run, connection: psycopg.Connection[Any], arguments: tuple[str, ...]) -> None:
    """add refuses to store an empty token."""
    stdin = "token\n" if arguments else "\n"
    status, _, err = run("add", "ann", "--email", "a@x.org", *arguments, stdin=stdin)
    assert status == 1
    assert "token" in err
    assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)


def test_add_in_an_unknown_zone(run: Run) -> None:
    """add in a zone that does not exist says what to write."""
    status, out, err = run("add", "ann", "--email", "a@x.org", "--timezone", "Berlin", stdin=f"{CANARY}\n")
    assert (status, out) == (1, "")
    assert "Europe/Berlin" in err
    assert CANARY not in err


def test_list(run: Run) -> None:
    """list names every user with the state of the account, and no token."""
    assert run("list") == (0, "no users\n", "")
    for user in ("bob", "ann"):
        run("add", user, "--email", f"{user}@x.org", stdin=f"{CANARY}\n")
    status, out, _ = run("list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["ann", "bob"]
    assert out.splitlines()[0] == "ann  ann@x.org  UTC  active  connected  seen None"
    assert CANARY not in out


def test_list_shows_what_is_wrong(run: Run, connection: psycopg.Connection[Any]) -> None:
    """list says who is inactive and who has to reconnect."""
    run("add", "ann", "--email", "a@x.org", stdin="t\n")
    accounts = Accounts(connection, Vault([KEY]))
    accounts.set_active("ann", active=False)
    connection.execute("UPDATE todoist_accounts SET connected = FALSE")
    assert "inactive  reconnect needed" in run("list")[1]


def test_remove(run: Run) -> None:
    """remove takes a user out, and says so when there is none."""
    run("add", "ann", "--email", "a@x.org", stdin="t\n")
    assert run("remove", "ann")[0] == 0
    status, _, err = run("remove", "ann")
    assert status == 1
    assert "'ann'" in err
    assert run("list")[1] == "no users\n"


def test_rotate(run: Run, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """rotate encrypts everything with the first key, after which the second can go."""
    run("add", "ann", "--email", "a@x.org", stdin="t\n")
    key = new_key()
    monkeypatch.setenv("CREDENTIALS_KEYS", f"{key},{KEY}")
    assert run("rotate") == (0, "1 accounts encrypted with the first key\n", "")
    assert credentials(connection, "ann", key) == Credentials("t", None)


def test_rotate_without_the_old_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """rotate without the key that was used so far changes nothing and says why."""
    run("add", "ann", "--email", "a@x.org", stdin="t\n")
    monkeypatch.setenv("CREDENTIALS_KEYS", new_key())
    status, _, err = run("rotate")
    assert status == 1
    assert "CREDENTIALS_KEYS" in err


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATABASE_URL", None, "DATABASE_URL: "),
        ("DATABASE_URL", f"mysql://u:{CANARY}@host/db", "DATABASE_URL: "),
        ("DATABASE_URL", f"postgresql://u:{CANARY}@127.0.0.1:1/db", "refused"),
        ("CREDENTIALS_KEYS", None, "CREDENTIALS_KEYS: "),
        ("CREDENTIALS_KEYS", CANARY, "new-key"),
    ],
)
def test_wrong_environment(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, says: str
) -> None:
    """A setting that is missing or wrong is a sentence and exit status 1, without the secrets in it."""
    monkeypatch.delenv(name)
    if value is not None:
        monkeypatch.setenv(name, value)
    status, out, err = run("list")
    assert (status, out) == (1, "")
    assert says in err
    assert CANARY not in err


def test_password_that_libpq_quotes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password with a stray % in DATABASE_URL is not repeated in the message."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{CANARY}%zz@127.0.0.1:1/db")
    status, _, err = run("list")
    assert status == 1
    assert CANARY not in err


@pytest.mark.parametrize("arguments", [(), ("frobnicate",), ("add", "ann"), ("remove",)])
def test_wrong_command(run: Run, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A command that is none, or lacks something, shows how to call it."""
    with pytest.raises(SystemExit) as raised:
        run(*arguments)
    assert raised.value.code == 2
    assert "python -m contexts.accounts" in capsys.readouterr().err


def test_as_a_program(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """The whole command works from a shell, with the token on standard input and not among the arguments."""
    done = subprocess.run(
        [sys.executable, "-m", "contexts.accounts", "add", "ann", "--email", "a@x.org"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database_url, "CREDENTIALS_KEYS": KEY},
        input=f"{CANARY}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "added ann\n", "")
    assert credentials(connection, "ann") == Credentials(CANARY, None)
