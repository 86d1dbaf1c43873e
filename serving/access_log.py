"""The access log: one line of key=value for each request, without texts, paths and user ids."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass

log = logging.getLogger(__name__)

_MAX_LINES = 1000


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


class AccessLog:
    """Collects lines and logs many at once, which costs a tenth of logging each by itself.

    `flush` is to be called a few times a second; a process that is killed loses the lines since the last call.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._second = 0
        self._time = ""

    def add(self, entry: AccessEntry, seconds: float) -> None:
        """Add the line of a request that took so many seconds."""
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._time = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        self._lines.append(
            f"time={self._time}.{int(now % 1 * 1000):03d}Z id={entry.request_id} method={entry.method}"
            f" route={entry.route} status={entry.status} reason={entry.reason} ms={1000 * seconds:.1f}"
            f" bytes={entry.n_bytes} client={entry.client}"
        )
        if len(self._lines) >= _MAX_LINES:
            self.flush()

    def flush(self) -> None:
        """Log all lines, as one record."""
        if self._lines:
            lines, self._lines = self._lines, []
            log.info("%s", "\n".join(lines))


def log_lines_alone() -> None:
    """Write the lines to stderr as they are: they have their own time, and each is a record of its own to readers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.propagate = False
