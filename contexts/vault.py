"""Todoist tokens at rest: encrypted with the user's id inside, so that a row moved to another user is refused."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps, loads

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from contexts.todoist import Credentials


class VaultError(Exception):
    """Credentials cannot be read; the message names the user by id and never the content."""


class Vault:
    """Encrypts and decrypts credentials. keys: Fernet keys; the first encrypts, all decrypt."""

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise VaultError(
                "CREDENTIALS_KEYS holds something that is no Fernet key (32 bytes, url-safe base64)."
                " Make one: python -m contexts.accounts new-key"
            ) from None

    def seal(self, user_id: str, credentials: Credentials) -> str:
        """The credentials of one user as text for the database."""
        content = {"user_id": user_id, "access": credentials.access_token, "refresh": credentials.refresh_token}
        return self._fernet.encrypt(dumps(content).encode()).decode()

    def unseal(self, user_id: str, sealed: str) -> Credentials:
        """What `seal` was given; VaultError when no key fits, or it was sealed for another user."""
        try:
            content = loads(self._fernet.decrypt(sealed))
        except InvalidToken:
            raise VaultError(f"no key of CREDENTIALS_KEYS opens the credentials of {user_id}") from None
        if content["user_id"] != user_id:
            raise VaultError(f"the credentials stored for {user_id} belong to another user")
        return Credentials(content["access"], content["refresh"])

    def rotate(self, sealed: str) -> str:
        """The same, encrypted with the first key; VaultError when no key fits."""
        try:
            return self._fernet.rotate(sealed.encode()).decode()
        except InvalidToken:
            raise VaultError("no key of CREDENTIALS_KEYS opens one of the stored credentials") from None


def new_key() -> str:
    """A fresh Fernet key."""
    return Fernet.generate_key().decode()
