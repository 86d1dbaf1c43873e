"""Users who connect their Todoist by OAuth: the address where they agree, and the callback with Todoist's code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import urlencode

import asyncpg

from contexts.clock import latest_instant
from contexts.postgres.sql import queries
from contexts.settings import OAuthApp
from contexts.todoist.client import AccountOwner, TodoistError, TodoistSession, TokenRefused
from contexts.todoist.credentials import CredentialCipher, Credentials
from serving.connect_state import STATE_PERIOD, BadState, ConnectState, StateExpired, StateSigner
from serving.metrics import Metrics
from serving.problems import Problem

log = logging.getLogger(__name__)

CALLBACK_ROUTE = "/v1/todoist/callback"

ConnectOutcome = Literal["connected", "denied", "refused", "changed", "unavailable"]
"""The outcome of a callback: an account is connected; the user did not agree; Todoist refused the code; the user was
removed or connected another account meanwhile; or Todoist did not answer."""

_SCOPE = "data:read"
_ACCOUNTS = queries("accounts", "asyncpg")

_FAILURES: dict[ConnectOutcome, tuple[int, str]] = {
    "denied": (403, "the user did not agree at Todoist; nothing was connected"),
    "refused": (400, "Todoist refused its own code, perhaps because it was used before: begin again"),
    "changed": (409, "the user was removed, or connected an account, since this began: begin again"),
    "unavailable": (503, "Todoist does not answer, so nothing was connected: begin again in a few minutes"),
}


class UserChanged(Exception):
    """The user was removed, or the account replaced, since the flow began."""


@dataclass(frozen=True)
class Connector:
    """The OAuth flow of the product's app at Todoist.

    app: None if the flow is not set up. authorize_url: the page at Todoist on which users agree.
    """

    app: OAuthApp | None
    authorize_url: str
    signer: StateSigner
    session: TodoistSession
    pool: asyncpg.Pool
    cipher: CredentialCipher
    metrics: Metrics
    clock: Callable[[], datetime]

    async def start(self, user_id: str) -> tuple[str, datetime]:
        """The address at Todoist to which the product sends its user, and until when it can be used.

        Raises Problem 404 without an OAuth app.
        """
        if self.app is None:
            raise Problem(
                404,
                "there is no OAuth app: set TODOIST_CLIENT_ID and TODOIST_CLIENT_SECRET",
                reason="not_configured",
            )
        expires_at = self.clock() + STATE_PERIOD
        number = await _ACCOUNTS.read_connection_number(self.pool, user_id=user_id)
        state = self.signer.sign(ConnectState(user_id, number, expires_at))
        query = urlencode({"client_id": self.app.client_id, "scope": _SCOPE, "state": state})
        return f"{self.authorize_url}?{query}", expires_at

    def check(self, state: str) -> ConnectState:
        """The state of a callback; raises Problem 400 unless this service signed it a short time ago."""
        try:
            return self.signer.read(state, self.clock())
        except StateExpired:
            raise Problem(400, "this link has expired: begin again", reason="expired_state") from None
        except BadState:
            raise Problem(400, "this link is not from this service: begin again", reason="wrong_state") from None

    async def complete(self, state: ConnectState, code: str | None) -> ConnectOutcome:
        """Connect the account of the user who agreed. code: None if the user did not agree."""
        outcome = await self._outcome(state, code)
        self.metrics.todoist_connects.labels(outcome).inc()
        return outcome

    async def _outcome(self, state: ConnectState, code: str | None) -> ConnectOutcome:
        if code is None:
            return "denied"
        try:
            await self._check_unchanged(self.pool, state)
            credentials = await self.session.exchange(code)
            owner = await self.session.owner(credentials.access_token)
            await self._store(state, credentials, owner)
        except UserChanged:
            return "changed"
        except TokenRefused:
            return "refused"
        except TodoistError as error:
            log.warning("user %s: not connected, %s: %s", state.user_id, type(error).__name__, error)
            return "unavailable"
        return "connected"

    async def _store(self, state: ConnectState, credentials: Credentials, owner: AccountOwner) -> None:
        """Add the user and the account, or replace the account; raises UserChanged."""
        sealed, at, user = self.cipher.seal(state.user_id, credentials), self.clock(), {"user_id": state.user_id}
        async with self.pool.acquire() as connection, connection.transaction():
            await _ACCOUNTS.lock_user(connection, **user)
            await self._check_unchanged(connection, state)
            await _ACCOUNTS.connect_user(
                connection, **user, email=owner.email, timezone=owner.timezone, default_timezone="UTC"
            )
            await _ACCOUNTS.add_account(
                connection,
                **user,
                credentials=sealed,
                connected_at=at,
                latest=latest_instant(self.clock),
                todoist_user_id=owner.todoist_user_id,
                oauth_connected_at=at,
            )
            await _ACCOUNTS.remove_context(connection, **user)
            await _ACCOUNTS.remove_events(connection, **user)

    async def _check_unchanged(self, connection: asyncpg.Pool | asyncpg.Connection, state: ConnectState) -> None:
        number = await _ACCOUNTS.read_connection_number(connection, user_id=state.user_id)
        if number != state.connection_number:
            raise UserChanged


def failure(outcome: ConnectOutcome) -> Problem:
    """The answer to a callback that connected nothing."""
    status, detail = _FAILURES[outcome]
    return Problem(status, detail, reason=f"connect_{outcome}")
