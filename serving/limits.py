"""The bounds of connections, requests and the shutdown; `serving.settings` describes each of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConnectionLimits:
    """The bounds of connections."""

    max_connections: int
    max_header_bytes: int
    max_body_bytes: int
    headers_timeout_s: float
    keep_alive_s: float
    write_timeout_s: float


@dataclass(frozen=True)
class GateLimits:
    """The bounds of requests, with the names of the settings that messages about them tell."""

    max_requests: int
    max_body_bytes: int
    body_timeout_s: float
    requests_setting: str = "MAX_REQUESTS"
    body_setting: str = "MAX_BODY_BYTES"


@dataclass(frozen=True)
class ShutdownTimes:
    """The times of a shutdown.

    drain_delay_s: time between `/readyz` turning 503 and the end of the listening socket.
    grace_period_s: time from the signal to the end of the process, at most.
    """

    drain_delay_s: float
    grace_period_s: float
