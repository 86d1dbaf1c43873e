"""Errors of Postgres in one sentence: the database, what happened, and the remedy."""

from __future__ import annotations

import os
import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

from contexts.settings import LOCAL_RUN, DatabaseSettings, SettingsError, read_settings

_PREFIX = re.compile(r"^connection (failed|is bad): |^connection to server (at|on) .*? failed: |^FATAL:\s+")


class LockTimeout(psycopg.OperationalError):
    """A timeout of Postgres ended the wait for a lock; the message names the lock and the remedy."""


def describe_error(error: Exception) -> str:
    """Return an error's message; of an error of Postgres a sentence instead of the lines of its driver."""
    if not isinstance(error, psycopg.Error) or isinstance(error, LockTimeout):
        return str(error)
    try:
        place = describe_database(read_settings(DatabaseSettings).database_url)
    except SettingsError:
        place = "Postgres"
    return explain_error(error, place)


def describe_database(url: str) -> str:
    """Return the address of a database without the user and the password."""
    parts = conninfo_to_dict(url)
    host, name = parts.get("host") or parts.get("hostaddr") or "localhost", parts.get("dbname") or "postgres"
    return f"Postgres at {host}:{parts.get('port') or 5432}, database '{name}'"


def explain_error(error: psycopg.Error, place: str) -> str:
    """Return a sentence about an error. place: see `describe_database`."""
    reason = _reason(error)
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return (
            f"{place}: lock_timeout ended a statement that waited for a lock{_where(error)}. End the other session,"
            " or raise lock_timeout, and run again."
        )
    if isinstance(error, psycopg.errors.QueryCanceled):
        return (
            f"{place} ended a statement{_where(error)}: {reason}. Raise statement_timeout, or end the sessions that"
            " hold it up, and run again."
        )
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        start = "It runs as long as `make run`: start that" if LOCAL_RUN in os.environ else "Start it"
        return (
            f"{place} cannot be reached or ended the connection: {reason}. {start}, or correct DATABASE_URL, and run"
            " again: what is finished is kept."
        )
    return f"{place} refused a statement: {reason}."


def _reason(error: psycopg.Error) -> str:
    """Return the first line of an error without what the sentence says itself."""
    reason = (error.diag.message_primary or str(error) or type(error).__name__).split("\n")[0].strip()
    while (shorter := _PREFIX.sub("", reason)) != reason:
        reason = shorter
    return reason.rstrip(".")


def _where(error: psycopg.Error) -> str:
    return f" {error.diag.context.splitlines()[0]}" if error.diag.context else ""
