"""Tokens at rest."""

from __future__ import annotations

import traceback
from base64 import urlsafe_b64encode
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.todoist import Credentials
from contexts.vault import Vault, VaultError, new_key

OLD, NEW = (urlsafe_b64encode(letter * 32).decode() for letter in (b"o", b"n"))
CANARY = "canary-4711"
SECRET = Credentials(CANARY, f"refresh-{CANARY}")


@settings(max_examples=25, deadline=None)
@given(user_id=st.text(), access=st.text(), refresh=st.none() | st.text())
def test_round_trip(user_id: str, access: str, refresh: str | None) -> None:
    """Whatever is sealed for a user is what this user's row gives back."""
    vault = Vault([OLD])
    assert vault.unseal(user_id, vault.seal(user_id, Credentials(access, refresh))) == Credentials(access, refresh)


def test_nothing_is_readable() -> None:
    """What stands in the database shows neither token nor user, and is another text each time."""
    sealed = {Vault([OLD]).seal("user-0815-x", SECRET) for _ in range(2)}
    assert len(sealed) == 2
    assert not [each for each in sealed if CANARY in each or "user-0815-x" in each]


def test_moved_row() -> None:
    """Credentials that were copied into another user's row are refused, with both facts and no secret."""
    vault = Vault([OLD])
    with pytest.raises(VaultError, match="bob belong to another user") as raised:
        vault.unseal("bob", vault.seal("ann", SECRET))
    assert CANARY not in trace(raised.value)


@pytest.mark.parametrize(
    "damage", [lambda sealed: sealed[:-4], lambda sealed: "x" + sealed, lambda sealed: "", str.upper]
)
def test_damaged_row(damage: Callable[[str], str]) -> None:
    """A row that somebody changed is refused by the user's id."""
    vault = Vault([OLD])
    with pytest.raises(VaultError, match="credentials of ann"):
        vault.unseal("ann", damage(vault.seal("ann", SECRET)))


def test_other_key() -> None:
    """Without the right key nothing opens, and the message names user and setting."""
    sealed = Vault([OLD]).seal("ann", SECRET)
    with pytest.raises(VaultError, match="CREDENTIALS_KEYS opens the credentials of ann") as raised:
        Vault([NEW]).unseal("ann", sealed)
    assert OLD not in trace(raised.value)
    assert NEW not in trace(raised.value)


def test_change_of_keys() -> None:
    """A new first key opens what the old one sealed; after rotation the old one is not needed any more."""
    sealed = Vault([OLD]).seal("ann", SECRET)
    both = Vault([NEW, OLD])
    assert both.unseal("ann", sealed) == SECRET
    assert Vault([NEW]).unseal("ann", both.rotate(sealed)) == SECRET
    with pytest.raises(VaultError):
        Vault([OLD]).unseal("ann", both.seal("ann", SECRET))


def test_rotation_without_the_old_key() -> None:
    """Rotation refuses what no key opens."""
    with pytest.raises(VaultError, match="CREDENTIALS_KEYS"):
        Vault([NEW]).rotate(Vault([OLD]).seal("ann", SECRET))


@pytest.mark.parametrize("keys", [[], [""], ["secret"], [OLD, "x" * 44], ["ключ"], [OLD[:-1]]], ids=str)
def test_no_key(keys: list[str]) -> None:
    """Something that is no key is refused with how to make one, and is not repeated."""
    with pytest.raises(VaultError, match="new-key") as raised:
        Vault(keys)
    assert not [key for key in keys if key and key in str(raised.value)]


def test_new_keys() -> None:
    """Every new key is another one, and works."""
    assert new_key() != (key := new_key())
    assert Vault([key]).unseal("ann", Vault([key]).seal("ann", SECRET)) == SECRET


def test_credentials_are_not_shown() -> None:
    """Credentials in a log or a traceback show nothing."""
    assert CANARY not in f"{SECRET} {SECRET!r} {[SECRET]}"


def trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
