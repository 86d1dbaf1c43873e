"""Users and their Todoist accounts, in Postgres."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from contexts.clock import CLOCK_DIFFERENCE, Clock, latest_instant
from contexts.postgres.sql import queries, rows
from contexts.settings import EventsMode
from contexts.todoist.credentials import CredentialCipher, Credentials, CredentialsError
from contexts.todoist.mirror import Directory
from contexts.todoist.zones import valid_zone
from contexts.user_ids import check_user_id

REFETCH_AFTER = timedelta(hours=20)
"""The nightly run skips users who were fetched more recently than this."""

REFETCH_IDLE_AFTER = timedelta(days=6, hours=20)
"""The nightly run skips idle users who were fetched more recently than this."""

IDLE_AFTER = timedelta(days=14)
"""A user without a request for this long is idle."""

_WORTH_OF_NO_FETCH = 19.0
"""The worth of a request that does not wait for Todoist, in calls of Todoist."""

FETCH_THRESHOLD = 1 / (1 + _WORTH_OF_NO_FETCH)
"""The least probability of a request with a stale context for which a fetch is worth its call.

If the request comes, the fetch replaces the call for which it would wait: p * (1 + worth) > 1.
"""

_NEVER = datetime.min.replace(tzinfo=UTC)
_FAR_FUTURE = datetime.max.replace(tzinfo=UTC)


class FetchScope(StrEnum):
    """The users that a run fetches.

    ALL: all active users.
    NIGHTLY: users who were not fetched recently, and those of LIKELY.
    LIKELY: users who are likely to ask for a tip before the next run and would get a stale context.
    """

    ALL = "all"
    NIGHTLY = "nightly"
    LIKELY = "likely"


@dataclass(frozen=True)
class Account:
    """One user's account, as a fetch needs it.

    connection_number: tells the account from earlier ones of the user. sync_token: None requests a full sync.
    rows_digest: of the stored rows that the sync token continues, None if unknown.
    """

    user_id: str
    connection_number: int
    credentials: Credentials
    sync_token: str | None
    directory: Directory
    timezone: str
    rows_digest: bytes | None = None


@dataclass(frozen=True)
class SyncState:
    """The starting point of an account's next fetch, saved after the fetched data, with their digest."""

    user_id: str
    connection_number: int
    sync_token: str | None
    directory: Directory
    rows_digest: bytes | None = None


@dataclass(frozen=True)
class Observations:
    """The instants of the last fetches, by user.

    outdated: the users whose row of the context store is to be written or refreshed, by the rule of the statement
    `users_observed`. A fetch that found no change made the row as fresh as itself, so the user is not among them.
    """

    at: Mapping[str, datetime]
    outdated: frozenset[str]


class Accounts:
    """All accounts, over one connection."""

    def __init__(
        self, connection: psycopg.Connection[Any], cipher: CredentialCipher, *, clock: Clock | None = None
    ) -> None:
        """clock: instants that lie ahead of it are from before it was set back; without a clock there are none."""
        self._connection = connection
        self._cipher = cipher
        self._clock = clock
        self._sql = queries("accounts")

    def add(self, user_id: str, *, email: str, timezone: str, credentials: Credentials) -> None:
        """Add a user with a Todoist account, or replace an existing user's account, even with the same one.

        The context made from a replaced account is deleted, and its pending events. Results of fetches, requests and
        runs that are still under way carry the connection number of the replaced account, and are not used. The
        account counts as one with a personal token, for which Todoist reports no events.

        Raises ValueError if the id has another form than `contexts.user_ids` describes, or the time zone does not
        exist.
        """
        check_user_id(user_id)
        if valid_zone(timezone) is None:
            raise ValueError(f"'{timezone}' is not an IANA time zone. Write one such as Europe/Berlin.")
        with self._connection.transaction():
            self._sql.lock_user(self._connection, user_id=user_id)
            self._sql.add_user(self._connection, user_id=user_id, email=email, timezone=timezone)
            sealed = self._cipher.seal(user_id, credentials)
            self._sql.add_account(
                self._connection,
                user_id=user_id,
                credentials=sealed,
                connected_at=self._clock() if self._clock else None,
                latest=latest_instant(self._clock),
                todoist_user_id=None,
                oauth_connected_at=None,
            )
            self._sql.remove_events(self._connection, user_id=user_id)
            self._sql.remove_context(self._connection, user_id=user_id)

    def remove(self, user_id: str) -> bool:
        """Delete a user from Postgres; the next run deletes the Parquet rows. Return False if the user is unknown."""
        with self._connection.transaction():
            self._sql.lock_user(self._connection, user_id=user_id)
            self._sql.remove_context(self._connection, user_id=user_id)
            is_removed = bool(self._sql.remove_user(self._connection, user_id=user_id))
            # Once more, because a run may have written it while the user still existed.
            self._sql.remove_context(self._connection, user_id=user_id)
            return is_removed

    def held_at_provider_until(self, user_id: str) -> datetime | None:
        """Return until when the LLM's provider may hold a context of a user in a batch; None if it holds none."""
        until: datetime | None = queries("tip_batches").held_until(self._connection, user_id=user_id)
        return until

    def all(self) -> list[dict[str, Any]]:
        """Return every user with the state of the account, without credentials."""
        return rows(self._connection, self._sql.list_users)

    def set_active(self, user_id: str, *, active: bool) -> bool:
        """Include a user in fetches, or exclude the user from them. Return False if the user is unknown."""
        return bool(self._sql.set_active(self._connection, user_id=user_id, active=active))

    def due(
        self,
        now: datetime,
        next_run_at: datetime,
        *,
        scope: FetchScope = FetchScope.ALL,
        sla: timedelta = timedelta(hours=6),
        events: EventsMode = "off",
        shards: Sequence[int] | None = None,
        n_shards: int = 1,
    ) -> Mapping[str, datetime]:
        """Return the users to fetch now, with the instant of their last fetch.

        The rule is documented at the statement `users_due`.

        sla: maximum age of a context at the user's next request. events: what is believed of Todoist's events.
        shards: restricts the result to some of `n_shards`; None means all.
        """
        refetch_before, idle_refetch_before = {
            FetchScope.ALL: (_FAR_FUTURE, _FAR_FUTURE),
            FetchScope.NIGHTLY: (now - REFETCH_AFTER, now - REFETCH_IDLE_AFTER),
            FetchScope.LIKELY: (None, None),
        }[scope]
        users = self._sql.users_due(
            self._connection,
            now=now,
            latest=now + CLOCK_DIFFERENCE,
            next_run_at=next_run_at,
            sla=sla,
            threshold=FETCH_THRESHOLD,
            refetch_before=refetch_before,
            idle_refetch_before=idle_refetch_before,
            idle_since=now - IDLE_AFTER,
            believes_events=events != "off",
            heeds_hints=events == "hints",
            spares_covered=events != "off" and scope is FetchScope.NIGHTLY,
            shards=shards,
            n_shards=n_shards,
        )
        return {user_id: observed_at or _NEVER for user_id, observed_at in users}

    def observations(self, now: datetime, *, shards: Sequence[int] | None = None, n_shards: int = 1) -> Observations:
        """Return what is known of the last fetch of every user that was ever fetched, of some shards or of all."""
        latest = now + CLOCK_DIFFERENCE
        users = list(self._sql.users_observed(self._connection, latest=latest, shards=shards, n_shards=n_shards))
        return Observations(
            at={user_id: observed_at for user_id, observed_at, _ in users},
            outdated=frozenset(user_id for user_id, _, is_outdated in users if is_outdated),
        )

    def rows_digests(self, *, shards: Sequence[int] | None = None, n_shards: int = 1) -> Mapping[str, bytes]:
        """Return the digest of the stored rows that each user's sync token continues, of some shards or of all."""
        return dict(self._sql.rows_digests(self._connection, shards=shards, n_shards=n_shards))

    def existing(self, user_ids: Collection[str]) -> set[str]:
        """Return the ids that belong to an existing user."""
        return {user_id for (user_id,) in self._sql.existing_users(self._connection, user_ids=list(user_ids))}

    def load(self, user_ids: Iterable[str]) -> tuple[list[Account], dict[str, str]]:
        """Return the accounts of some users, and an error message for each user with undecryptable credentials."""
        accounts, errors = list[Account](), dict[str, str]()
        for user_id, number, sealed, sync_token, directory, timezone, rows_digest in self._sql.sync_states(
            self._connection, user_ids=list(user_ids)
        ):
            try:
                credentials = self._cipher.unseal(user_id, sealed)
            except CredentialsError as error:
                errors[user_id] = str(error)
                continue
            start = _starting_point(sync_token, directory)
            accounts.append(Account(user_id, number, credentials, *start, timezone, rows_digest))
        return accounts, errors

    def save_credentials(self, account: Account, credentials: Credentials) -> None:
        """Store an account's renewed credentials; call it at once, because the old refresh token is used up."""
        self._save_sealed(account.user_id, account.connection_number, self._cipher.seal(account.user_id, credentials))

    def save_sync_states(
        self, sync_states: Iterable[SyncState], refused: Iterable[Account], observed_at: datetime
    ) -> None:
        """Store the results of a run's fetches, all or none; call it after the fetched data are stored.

        Results of an account that was replaced during the fetch are passed over.

        refused: accounts with an access token that Todoist refused. That has no consequences before the end of the
        run, `confirm_refusals` or `discard_refusals` with the same instant.
        """
        latest = latest_instant(self._clock)
        synced_at = max(observed_at, self._clock()) if self._clock else observed_at
        fetched = [
            {**_to_row(sync_state, observed_at), "latest": latest, "synced_at": synced_at}
            for sync_state in sync_states
        ]
        with self._connection.transaction():
            if fetched:
                self._sql.save_observation(self._connection, fetched)
                self._sql.save_timezone(self._connection, [row for row in fetched if row["timezone"]])
            if refusals := [{**_key(account), "refused_at": observed_at} for account in refused]:
                self._sql.save_refusal(self._connection, refusals)

    def confirm_refusals(self, refused_at: datetime) -> list[str]:
        """Count the refusals of the run at this instant, and return the users whose accounts were disconnected.

        An account is disconnected by refusals on two days without a successful fetch in between.
        """
        return [user_id for (user_id,) in self._sql.confirm_refusals(self._connection, refused_at=refused_at)]

    def discard_refusals(self, refused_at: datetime) -> None:
        """Forget the refusals of the run at this instant."""
        self._sql.discard_refusals(self._connection, refused_at=refused_at)

    def reconnect(self, user_id: str | None = None) -> list[str]:
        """Connect a user's disconnected account, or all of them, and return the users."""
        return sorted(user for (user,) in self._sql.reconnect(self._connection, user_id=user_id))

    def rotate(self) -> int:
        """Encrypt all credentials with the first key, and return the number of accounts.

        Credentials that no key decrypts stay as they are; then CredentialsError is raised after all others were
        encrypted.
        """
        n_rotated, undecryptable = 0, list[str]()
        with self._connection.transaction():
            for user_id, number, sealed in list(self._sql.all_credentials(self._connection)):
                try:
                    rotated = self._cipher.rotate(sealed)
                except CredentialsError:
                    undecryptable.append(user_id)
                    continue
                self._save_sealed(user_id, number, rotated)
                n_rotated += 1
        if undecryptable:
            raise CredentialsError(
                f"no key in CREDENTIALS_KEYS decrypts the credentials of {', '.join(undecryptable)}: they stay as"
                f" they are ({n_rotated} others are encrypted with the first key). Add the missing key and rotate"
                " again, or connect these accounts again with new tokens: python -m contexts accounts add"
            )
        return n_rotated

    def undecryptable(self) -> set[str]:
        """Return the users with credentials that no key decrypts, or that belong to a different user."""
        accounts = list(self._sql.read_credentials(self._connection))
        return {user_id for user_id, sealed in accounts if not self._is_decryptable(user_id, sealed)}

    def _is_decryptable(self, user_id: str, sealed: str) -> bool:
        try:
            self._cipher.unseal(user_id, sealed)
        except CredentialsError:
            return False
        return True

    def _save_sealed(self, user_id: str, connection_number: int, sealed: str) -> None:
        values = {"user_id": user_id, "connection_number": connection_number, "credentials": sealed}
        self._sql.save_credentials(self._connection, **values)


def _starting_point(sync_token: str | None, directory: Mapping[str, Any]) -> tuple[str | None, Directory]:
    """Return the start of the next fetch; a directory that another version of the code wrote leads to a full sync."""
    try:
        return sync_token, Directory.from_json(directory)
    except (TypeError, ValueError, AttributeError, KeyError):
        return None, Directory()


def _to_row(sync_state: SyncState, observed_at: datetime) -> dict[str, Any]:
    return {
        **_key(sync_state),
        "sync_token": sync_state.sync_token,
        "directory": Jsonb(sync_state.directory.to_json()),
        "rows_digest": sync_state.rows_digest,
        "observed_at": observed_at,
        "timezone": sync_state.directory.timezone,
        "todoist_user_id": sync_state.directory.todoist_user_id,
    }


def _key(account: Account | SyncState) -> dict[str, Any]:
    return {"user_id": account.user_id, "connection_number": account.connection_number}


def batch_notice(user_id: str, held_until: datetime) -> str:
    """Return what a removed user's batch means: until when the LLM's provider may hold a context."""
    return (
        f"The LLM's provider may hold a context of {user_id} in a batch until {held_until:%Y-%m-%d %H:%M} UTC at the"
        " latest; the first run of write_tips after its end deletes it there. Its answer is not read."
    )
