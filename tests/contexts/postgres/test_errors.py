"""Errors of Postgres in one sentence."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from contexts.__main__ import main
from contexts.postgres.errors import LockTimeout, describe_database, describe_error, explain_error
from contexts.postgres.locks import locked
from contexts.postgres.sql import connect
from contexts.todoist.credentials import new_key

PLACE = "Postgres at db:5432, database 'contexts'"
SECRET = "a-secret-password"


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def sentence(error: psycopg.Error) -> str:
    """Explain an error, and check that the explanation is a single line that ends as a sentence."""
    text = explain_error(error, PLACE)
    assert text.startswith(PLACE)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_a_database_is_named_without_the_password() -> None:
    """The name of a database has its host, port and name, and neither user nor password."""
    url = f"postgresql://ann:{SECRET}@db.example.org:6000/contexts"
    assert describe_database(url) == "Postgres at db.example.org:6000, database 'contexts'"
    assert describe_database("postgresql:///contexts?host=/run/pg") == "Postgres at /run/pg:5432, database 'contexts'"


def test_nothing_listens(free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A command over a database that cannot be reached exits with 1 and one line with the address and the remedy."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://ann:{SECRET}@127.0.0.1:{free_port}/contexts")
    monkeypatch.setenv("CREDENTIALS_KEYS", new_key())
    assert main(["accounts", "list"]) == 1
    assert capsys.readouterr().err == (
        f"Postgres at 127.0.0.1:{free_port}, database 'contexts' cannot be reached or ended the connection:"
        " Connection refused. Start it, or correct DATABASE_URL, and run again: what is finished is kept.\n"
    )


def test_after_the_local_run(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shell with the environment of `make run`, the remedy is to start that."""
    monkeypatch.setenv("LOCAL_RUN", "/project/.local/environment")
    with pytest.raises(psycopg.OperationalError) as error:
        connect(f"postgresql://127.0.0.1:{free_port}/contexts")
    assert "It runs as long as `make run`: start that, or correct DATABASE_URL" in explain_error(error.value, PLACE)


def test_a_missing_database(database_url: str) -> None:
    """A database that does not exist is named by Postgres's own words, in one line."""
    with pytest.raises(psycopg.OperationalError) as error:
        connect(make_conninfo(database_url, dbname="nowhere"))
    assert 'database "nowhere" does not exist. Start it, or correct DATABASE_URL' in sentence(error.value)


def test_a_restart(database_url: str) -> None:
    """A connection that Postgres ended is reported as such, at the statement and after it."""
    with connect(database_url) as other, connect(database_url) as connection:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError) as error:
                connection.execute("SELECT 1")
            assert "ended the connection: " in sentence(error.value)


def test_statement_timeout(database_url: str) -> None:
    """A statement that statement_timeout ended is reported with that setting."""
    with connect(database_url) as connection:
        connection.execute("SET statement_timeout = '10ms'")
        with pytest.raises(psycopg.errors.QueryCanceled) as error:
            connection.execute("SELECT pg_sleep(20)")
    assert "due to statement timeout. Raise statement_timeout" in sentence(error.value)


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
def test_a_lock_that_is_held(database_url: str, setting: str) -> None:
    """A timeout at a lock names the lock, the setting and the remedy."""
    with connect(database_url) as holder, connect(database_url) as waiter, locked(holder, "task_embeddings/3"):
        waiter.execute(f"SET {setting} = '10ms'")
        with pytest.raises(LockTimeout) as error, locked(waiter, "task_embeddings/3"):
            pass
    assert describe_error(error.value) == (
        f"the lock 'task_embeddings/3' is held by another run, and {setting} ended the wait for it."
        f" Run again after that run, or raise {setting} for this role."
    )


def test_a_locked_row(database_url: str) -> None:
    """A statement that lock_timeout ended at a row names the table."""
    with connect(database_url) as holder, connect(database_url) as waiter:
        holder.execute("INSERT INTO users (user_id, email, timezone) VALUES ('ann', 'a@example.org', 'UTC')")
        waiter.execute("SET lock_timeout = '10ms'")
        with holder.transaction(), pytest.raises(psycopg.errors.LockNotAvailable) as error:
            holder.execute("UPDATE users SET active = FALSE")
            waiter.execute("UPDATE users SET active = FALSE")
        holder.execute("TRUNCATE users CASCADE")
    assert "lock_timeout ended a statement that waited for a lock while updating tuple" in sentence(error.value)
    assert 'in relation "users". End the other session' in sentence(error.value)


def test_other_errors() -> None:
    """A refused statement is one line; errors that are not from Postgres keep their message."""
    error = psycopg.errors.UndefinedTable('relation "nothing" does not exist\nLINE 1: SELECT\n')
    assert sentence(error) == f'{PLACE} refused a statement: relation "nothing" does not exist.'
    assert describe_error(ValueError("a\nb")) == "a\nb"
