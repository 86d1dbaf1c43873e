"""Encrypted tokens."""

from __future__ import annotations

import traceback
from base64 import urlsafe_b64encode
from collections.abc import Callable

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.todoist.credentials import CredentialCipher, Credentials, CredentialsError, new_key

OLD, NEW = (urlsafe_b64encode(letter * 32).decode() for letter in (b"o", b"n"))
CANARY = "canary-4711"
SECRET = Credentials(CANARY, f"refresh-{CANARY}")


@settings(max_examples=25, deadline=None)
@given(user_id=st.text(), access=st.text(), refresh=st.none() | st.text())
def test_round_trip(user_id: str, access: str, refresh: str | None) -> None:
    """Unsealing returns the credentials that were sealed for the user."""
    cipher = CredentialCipher([OLD])
    assert cipher.unseal(user_id, cipher.seal(user_id, Credentials(access, refresh))) == Credentials(access, refresh)


def test_nothing_is_readable() -> None:
    """Sealed credentials show neither the token nor the user, and differ each time."""
    sealed = {CredentialCipher([OLD]).seal("user-0815-x", SECRET) for _ in range(2)}
    assert len(sealed) == 2
    assert not [each for each in sealed if CANARY in each or "user-0815-x" in each]


def test_moved_row() -> None:
    """Credentials copied into a different user's row are rejected; the message contains no secret."""
    cipher = CredentialCipher([OLD])
    with pytest.raises(CredentialsError, match="bob belong to a different user") as raised:
        cipher.unseal("bob", cipher.seal("ann", SECRET))
    assert CANARY not in trace(raised.value)


@pytest.mark.parametrize(
    "damage", [lambda sealed: sealed[:-4], lambda sealed: "x" + sealed, lambda sealed: "", str.upper]
)
def test_damaged_row(damage: Callable[[str], str]) -> None:
    """A modified row is rejected; the message names the user."""
    cipher = CredentialCipher([OLD])
    with pytest.raises(CredentialsError, match="credentials of ann"):
        cipher.unseal("ann", damage(cipher.seal("ann", SECRET)))


def test_other_key() -> None:
    """Without the right key decryption fails; the message names the user and the setting, and contains no key."""
    sealed = CredentialCipher([OLD]).seal("ann", SECRET)
    with pytest.raises(CredentialsError, match="CREDENTIALS_KEYS decrypts the credentials of ann") as raised:
        CredentialCipher([NEW]).unseal("ann", sealed)
    assert OLD not in trace(raised.value)
    assert NEW not in trace(raised.value)


@pytest.mark.parametrize("sealed", ["", "gAAAA", "\N{SNOWMAN}", "x y", "\n"])
def test_not_encrypted(sealed: str) -> None:
    """A text that no key ever encrypted is an error like a missing key."""
    cipher = CredentialCipher([OLD])
    for decrypt in (lambda: cipher.unseal("ann", sealed), lambda: cipher.rotate(sealed)):
        with pytest.raises(CredentialsError, match="no key in CREDENTIALS_KEYS decrypts"):
            decrypt()


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"user_id": "ann"}', '"ann"', "{"])
def test_another_content(content: str) -> None:
    """Credentials that another version encrypted are an error that names the user."""
    sealed = Fernet(OLD).encrypt(content.encode()).decode()
    with pytest.raises(CredentialsError, match="the credentials of ann"):
        CredentialCipher([OLD]).unseal("ann", sealed)


def test_change_of_keys() -> None:
    """A second key still decrypts; after a rotation it is no longer needed."""
    sealed = CredentialCipher([OLD]).seal("ann", SECRET)
    both = CredentialCipher([NEW, OLD])
    assert both.unseal("ann", sealed) == SECRET
    assert CredentialCipher([NEW]).unseal("ann", both.rotate(sealed)) == SECRET
    with pytest.raises(CredentialsError):
        CredentialCipher([OLD]).unseal("ann", both.seal("ann", SECRET))


def test_rotation_without_the_old_key() -> None:
    """A rotation without the right key fails."""
    with pytest.raises(CredentialsError, match="CREDENTIALS_KEYS"):
        CredentialCipher([NEW]).rotate(CredentialCipher([OLD]).seal("ann", SECRET))


@pytest.mark.parametrize("keys", [[], [""], ["secret"], [OLD, "x" * 44], ["ключ"], [OLD[:-1]]], ids=str)
def test_no_key(keys: list[str]) -> None:
    """An invalid key is rejected; the message names the command that creates one, and does not repeat the value."""
    with pytest.raises(CredentialsError, match="new-key") as raised:
        CredentialCipher(keys)
    assert not [key for key in keys if key and key in str(raised.value)]


def test_new_keys() -> None:
    """Every new key is different and valid."""
    assert new_key() != (key := new_key())
    assert CredentialCipher([key]).unseal("ann", CredentialCipher([key]).seal("ann", SECRET)) == SECRET


def test_credentials_are_not_shown() -> None:
    """The representation of credentials contains no token."""
    assert CANARY not in f"{SECRET} {SECRET!r} {[SECRET]}"


def trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_derived_secret() -> None:
    """A derived secret is that of the first key and the label: equal in every process, and not the key."""
    keys = [new_key(), new_key()]
    secret = CredentialCipher(keys).derived_secret("a")
    assert secret == CredentialCipher(keys[:1]).derived_secret("a")
    assert (
        len({secret, CredentialCipher(keys).derived_secret("b"), CredentialCipher(keys[1:]).derived_secret("a")}) == 3
    )
    assert len(secret) == 32
    assert keys[0].encode() not in secret
