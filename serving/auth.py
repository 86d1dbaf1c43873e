"""Authentication of callers by bearer tokens."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from serving.problems import Problem


class BearerAuth:
    """Accepts requests with one of the service's bearer tokens, which are kept and compared as hashes."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._digests = [_digest(token) for token in tokens]

    def check(self, authorization: str) -> None:
        """Raise Problem 401 unless an Authorization header holds one of the tokens."""
        scheme, _, token = authorization.partition(" ")
        digest = _digest(token.strip())
        if scheme.lower() != "bearer" or not any(secrets.compare_digest(digest, known) for known in self._digests):
            raise Problem(
                401,
                "a service token is required: send Authorization: Bearer TOKEN with one of SERVICE_TOKENS",
                {"WWW-Authenticate": "Bearer"},
            )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
