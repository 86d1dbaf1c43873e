"""The watch over Todoist's events: trust in them ends within a minute of a silence or an outage."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import asyncpg

from contexts.postgres.sql import queries
from contexts.todoist.event_store import CHANNEL_LOST, watch_values
from serving.metrics import Metrics

log = logging.getLogger(__name__)

_SQL = queries("event_trust", "asyncpg")


class ChannelWatch:
    """Tells Postgres that the endpoint of events is there, and shows how far events are trusted."""

    def __init__(self, pool: asyncpg.Pool, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self._pool = pool
        self._metrics = metrics
        self._clock = clock

    async def check(self) -> None:
        """End the trust in events if they are silent or the endpoint was away; read the state into the metrics."""
        now, metrics = self._clock(), self._metrics
        watched = await _SQL.watch_channel(self._pool, **watch_values(now, sees_endpoint=True))
        if watched["has_ended"]:
            log.warning(CHANNEL_LOST)
        channel = await _SQL.read_channel(self._pool)
        metrics.events_trusted.set(channel["is_trusted"])
        metrics.events_miss_rate_bound.set(channel["miss_rate_bound"])
        metrics.event_changes.labels("audited").set(channel["n_changes"])
        metrics.event_changes.labels("missed").set(channel["n_missed"])
        for quantile, delay in (("0.5", channel["delay_p50"]), ("0.99", channel["delay_p99"])):
            if delay is not None:
                metrics.event_delay_seconds.labels(quantile).set(delay.total_seconds())
        if channel["last_delivery_at"] is not None:
            metrics.events_silent_seconds.set((now - channel["last_delivery_at"]).total_seconds())
