"""The state of an OAuth flow: signed, for one user, for ten minutes, and for the account that the user had."""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson

STATE_LABEL = "state of an OAuth flow"
"""The label of the secret that signs states."""

STATE_PERIOD = timedelta(minutes=10)

NO_ACCOUNT = -1
"""The connection number of a user without an account."""

_MAX_STATE_CHARS = 2048


class BadState(ValueError):
    """A state that this service did not sign."""


class StateExpired(ValueError):
    """A state that was signed more than `STATE_PERIOD` ago."""


@dataclass(frozen=True)
class ConnectState:
    """The user who is connecting an account, and until when.

    connection_number: of the account that the user has now, NO_ACCOUNT without one, or None if there is no such user.
    The state is worthless once that has changed: it can connect one account only.
    """

    user_id: str
    connection_number: int | None
    expires_at: datetime


class StateSigner:
    """Turns states into texts for an address, and back. secret: equal in all processes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, state: ConnectState) -> str:
        """A text that only this service can make."""
        content = orjson.dumps([state.user_id, state.connection_number, state.expires_at.timestamp()])
        return urlsafe_b64encode(self._digest(content) + content).decode()

    def read(self, text: str, now: datetime) -> ConnectState:
        """The state in a result of `sign`; raises BadState or StateExpired."""
        if len(text) > _MAX_STATE_CHARS:
            raise BadState
        try:
            signed = urlsafe_b64decode(text.encode("ascii"))
        except (UnicodeEncodeError, binascii.Error):
            raise BadState from None
        digest, content = signed[:32], signed[32:]
        if not hmac.compare_digest(digest, self._digest(content)):
            raise BadState
        user_id, connection_number, expires_at = orjson.loads(content)
        state = ConnectState(user_id, connection_number, datetime.fromtimestamp(expires_at, UTC))
        if now >= state.expires_at:
            raise StateExpired
        return state

    def _digest(self, content: bytes) -> bytes:
        return hmac.digest(self._secret, content, hashlib.sha256)
