"""Users and their Todoist accounts, in Postgres."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from contexts.mirror import Directory, zone_or_none
from contexts.sql import queries
from contexts.todoist import Credentials
from contexts.vault import Vault, VaultError

_NEVER = datetime.min.replace(tzinfo=UTC)
_ALWAYS = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Account:
    """What a fetch needs of one user. sync_token: None asks for everything."""

    user_id: str
    credentials: Credentials
    sync_token: str | None
    directory: Directory
    timezone: str


@dataclass(frozen=True)
class Progress:
    """Where the next fetch of a user goes on, once this one's data is stored."""

    user_id: str
    sync_token: str | None
    directory: Directory


class Look(StrEnum):
    """Whom a run fetches. EVERYBODY: all active users. NIGHT: those not looked at for a while, and the likely ones.
    LIKELY: those who will probably ask before the next run, and would find a stale context.
    """

    EVERYBODY = "everybody"
    NIGHT = "night"
    LIKELY = "likely"


RESTED = timedelta(hours=20)
"""The night leaves out whom another run has looked at within so long."""

IDLE = timedelta(days=14)
"""Whoever did not ask for so long is looked at once in `IDLE_RESTED` only."""

IDLE_RESTED = timedelta(days=6, hours=20)


class Accounts:
    """All accounts behind one connection."""

    def __init__(self, connection: psycopg.Connection[Any], vault: Vault) -> None:
        self._connection = connection
        self._vault = vault
        self._sql = queries("accounts")

    def add(self, user_id: str, *, email: str, timezone: str, credentials: Credentials) -> None:
        """A user with a Todoist account, or new credentials of a known one. ValueError: no such time zone."""
        if zone_or_none(timezone) is None:
            raise ValueError(f"'{timezone}' is no IANA time zone. Write one such as Europe/Berlin.")
        with self._connection.transaction():
            self._sql.add_user(self._connection, user_id=user_id, email=email, timezone=timezone)
            sealed = self._vault.seal(user_id, credentials)
            self._sql.add_account(self._connection, user_id=user_id, credentials=sealed)

    def remove(self, user_id: str) -> bool:
        """Take a user out of Postgres; the next run takes them out of the Parquet. False: unknown."""
        with self._connection.transaction():
            self._sql.remove_context(self._connection, user_id=user_id)
            return bool(self._sql.remove_user(self._connection, user_id=user_id))

    def all(self) -> list[dict[str, Any]]:
        """Every user with the state of the account, without credentials."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return list(cursor.execute(self._sql.list_users.sql.encode()))

    def set_active(self, user_id: str, *, active: bool) -> bool:
        """Whether a user is fetched at all. False: unknown."""
        return bool(self._sql.set_active(self._connection, user_id=user_id, active=active))

    def due(
        self,
        now: datetime,
        until: datetime,
        *,
        look: Look = Look.EVERYBODY,
        sla: timedelta = timedelta(hours=6),
        shard: int | None = None,
        n_shards: int = 1,
    ) -> Mapping[str, datetime]:
        """Users to fetch now, with the instant of their last fetch, of one shard or of all.

        until: the next run; sla: how old a context may be when it is asked for. See `users_due` for the rule.
        """
        rested = {
            Look.EVERYBODY: (_ALWAYS, _ALWAYS),
            Look.NIGHT: (now - RESTED, now - IDLE_RESTED),
            Look.LIKELY: (None, None),
        }[look]
        rows = self._sql.users_due(
            self._connection,
            now=now,
            until=until,
            sla=sla,
            rested_since=rested[0],
            idle_rested_since=rested[1],
            idle_since=now - IDLE,
            shard=shard,
            n_shards=n_shards,
        )
        return {user_id: observed_at or _NEVER for user_id, observed_at in rows}

    def observed(self, *, shard: int | None = None, n_shards: int = 1) -> Mapping[str, datetime]:
        """Users ever fetched, with the instant of the last fetch, of one shard or of all."""
        rows = self._sql.users_observed(self._connection, shard=shard, n_shards=n_shards)
        return {user_id: at for user_id, at, _ in rows}

    def observed_since_stored(self) -> set[str]:
        """Users whose last fetch is newer than their row of the store."""
        rows = self._sql.users_observed(self._connection, shard=None, n_shards=1)
        return {user_id for user_id, _, is_news in rows if is_news}

    def known(self, user_ids: Collection[str]) -> set[str]:
        """Those of the users who exist."""
        return {user_id for (user_id,) in self._sql.known_users(self._connection, user_ids=list(user_ids))}

    def open(self, user_ids: Iterable[str]) -> tuple[list[Account], dict[str, str]]:
        """The accounts of these users, and for those whose credentials cannot be read the reason."""
        accounts, refused = list[Account](), dict[str, str]()
        for user_id, sealed, sync_token, directory, timezone in self._sql.sync_states(
            self._connection, user_ids=list(user_ids)
        ):
            try:
                credentials = self._vault.unseal(user_id, sealed)
            except VaultError as error:
                refused[user_id] = str(error)
                continue
            accounts.append(Account(user_id, credentials, sync_token, Directory.from_json(directory), timezone))
        return accounts, refused

    def renewed(self, user_id: str, credentials: Credentials) -> None:
        """Store renewed credentials at once: the old refresh token is used up."""
        sealed = self._vault.seal(user_id, credentials)
        self._sql.save_credentials(self._connection, user_id=user_id, credentials=sealed)

    def save(self, progress: Iterable[Progress], refused: Iterable[str], observed_at: datetime) -> None:
        """After the data is stored: how far each fetch came, and whose token was refused."""
        done = [_progress_row(each, observed_at) for each in progress]
        with self._connection.transaction():
            if done:
                self._sql.save_observation(self._connection, done)
                self._sql.save_timezone(self._connection, list(_timezones(done)))
            if refusals := [{"user_id": user_id, "refused_at": observed_at} for user_id in refused]:
                self._sql.save_refusal(self._connection, refusals)

    def rotate(self) -> int:
        """Encrypt every account's credentials with the first key; gives how many."""
        with self._connection.transaction():
            rows = list(self._sql.all_credentials(self._connection))
            for user_id, sealed in rows:
                self._sql.save_credentials(self._connection, user_id=user_id, credentials=self._vault.rotate(sealed))
        return len(rows)


def _progress_row(each: Progress, observed_at: datetime) -> dict[str, Any]:
    return {
        "user_id": each.user_id,
        "sync_token": each.sync_token,
        "directory": Jsonb(each.directory.to_json()),
        "observed_at": observed_at,
        "timezone": each.directory.timezone,
    }


def _timezones(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (row for row in rows if row["timezone"])


if __name__ == "__main__":
    from contexts.accounts_cli import main

    sys.exit(main())
