"""The form of user ids."""

from __future__ import annotations

import pytest

from contexts.user_ids import check_user_id


@pytest.mark.parametrize("user_id", ["ann", "a b", "anna@exämple.org +жук", "a" * 256, "...", "😀"])
def test_allowed(user_id: str) -> None:
    """Any printable characters are allowed, up to 256."""
    check_user_id(user_id)


@pytest.mark.parametrize(
    "user_id",
    ["", "a/b", "/", ".", "..", "a\nb", "\0", "\u202e", "\udcff", "\ufffd", "a" * 257],
    ids=lambda value: ascii(value)[:12],
)
def test_refused(user_id: str) -> None:
    """An id that cannot be one segment of an address, or that decoders confuse with others, is refused."""
    with pytest.raises(ValueError, match="user_id: expected 1 to 256 printable characters"):
        check_user_id(user_id)
