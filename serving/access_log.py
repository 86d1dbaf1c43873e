"""The access log: one line of key=value for each request, without texts, paths and user ids."""

from __future__ import annotations

import logging
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(slots=True)
class AccessEntry:
    """One request and its response.

    route: a template. status: 499 if the client left before the response. reason: one word.
    n_bytes: of the response's body. client: the address of the connection's other end.
    """

    request_id: str
    method: str
    route: str
    client: str
    status: int = 499
    reason: str = "client_left"
    n_bytes: int = 0

    def write(self, seconds: float) -> None:
        """Log the line."""
        log.info(
            "id=%s method=%s route=%s status=%d reason=%s ms=%.1f bytes=%d client=%s",
            self.request_id,
            self.method,
            self.route,
            self.status,
            self.reason,
            1000 * seconds,
            self.n_bytes,
            self.client,
        )
