"""Todoist tokens, encrypted together with the user's id, so that a row moved to a different user is rejected."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from json import dumps, loads

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


@dataclass(frozen=True)
class Credentials:
    """A user's tokens; older apps and personal tokens have no refresh token."""

    access_token: str
    refresh_token: str | None = None

    def __repr__(self) -> str:
        return "Credentials(...)"


class CredentialsError(Exception):
    """Credentials cannot be decrypted; the message names the user by id and never contains a token."""


class CredentialCipher:
    """Encrypts and decrypts credentials. keys: Fernet keys; the first encrypts, all decrypt."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Raise CredentialsError if there is no key, or a value that is not a Fernet key."""
        self._first_key = keys[0].encode() if keys else b""
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise CredentialsError(
                "CREDENTIALS_KEYS contains a value that is not a Fernet key (32 bytes, url-safe base64)."
                " Create a key: python -m contexts accounts new-key"
            ) from None

    def seal(self, user_id: str, credentials: Credentials) -> str:
        """Encrypt one user's credentials as text for the database."""
        content = {"user_id": user_id, "access": credentials.access_token, "refresh": credentials.refresh_token}
        return self._fernet.encrypt(dumps(content).encode()).decode()

    def unseal(self, user_id: str, sealed: str) -> Credentials:
        """Decrypt the result of `seal`; raise CredentialsError if no key fits or the user is a different one."""
        try:
            content = loads(self._fernet.decrypt(sealed))
        except (InvalidToken, ValueError):  # ValueError: characters that no encrypted text has
            raise CredentialsError(f"no key in CREDENTIALS_KEYS decrypts the credentials of {user_id}") from None
        try:
            owner, access_token, refresh_token = content["user_id"], content["access"], content["refresh"]
        except (TypeError, KeyError):
            raise CredentialsError(f"the credentials of {user_id} are of another version") from None
        if owner != user_id:
            raise CredentialsError(f"the credentials stored for {user_id} belong to a different user")
        return Credentials(access_token, refresh_token)

    def derived_secret(self, label: str) -> bytes:
        """A secret for another purpose, made of the first key: equal in all processes with the same keys."""
        return hmac.new(self._first_key, label.encode(), sha256).digest()

    def rotate(self, sealed: str) -> str:
        """Encrypt sealed credentials again, with the first key; raise CredentialsError if no key fits."""
        try:
            return self._fernet.rotate(sealed.encode()).decode()
        except (InvalidToken, ValueError):
            raise CredentialsError("no key in CREDENTIALS_KEYS decrypts one of the stored credentials") from None


def new_key() -> str:
    """Create a Fernet key."""
    return Fernet.generate_key().decode()
