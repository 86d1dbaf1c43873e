"""The form of user ids, checked wherever one enters the system."""

from __future__ import annotations

MAX_USER_ID_CHARS = 256

_RULE = (
    f"expected 1 to {MAX_USER_ID_CHARS} printable characters without '/', valid as UTF-8, and neither '.' nor '..',"
    " because the id is one segment of the service's addresses"
)
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Decoders put it in the place of bytes that are not UTF-8, so different ids would become the same."""


def check_user_id(user_id: str) -> None:
    """Raise ValueError, without repeating the id, unless it can be used in the service's addresses."""
    is_text = user_id.isprintable() and _REPLACEMENT not in user_id and "/" not in user_id
    if not is_text or not 1 <= len(user_id) <= MAX_USER_ID_CHARS or user_id in (".", ".."):
        raise ValueError(f"user_id: {_RULE}")
