"""Metrics of the service for Prometheus: those of one process, or the sums of all processes of a group."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 8.0, 15.0)


class Pool(Protocol):
    """A connection pool."""

    def get_size(self) -> int:
        """The number of connections."""

    def get_idle_size(self) -> int:
        """The number of connections that are not in use."""


_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which the library finds the folder of shared metrics."""


def share_metrics(folder: Path, slot: int) -> None:
    """Keep the metrics that this process makes from now on in a folder, beside those of other processes.

    slot: the number of this process. A process in the slot of an ended one continues its counters.
    """
    os.environ[_FOLDER_VARIABLE] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def forget_process(folder: Path, slot: int) -> None:
    """Remove the gauges of an ended process from a folder; its counters stay in the sums."""
    mark_process_dead(slot, str(folder))  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one process in a registry of their own, or in a folder with those of its group."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._watched: list[tuple[Gauge, Callable[[], float]]] = []
        self._declare_tips()
        self._declare_llm()
        self._declare_todoist()
        self._declare_trust_in_events()
        self._declare_database()
        self._declare_requests()

    def _declare_tips(self) -> None:
        seconds = Histogram(
            "tip_seconds",
            "Seconds until a tip was answered.",
            ["source"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        by_llm = self._counter("tip_llm", "Tips by the LLM's part in them.", "llm")
        by_origin = self._counter("tip_origin", "Tips by the origin of their candidates.", "origin")
        self._by_source = {source: seconds.labels(source) for source in ("stored", "inline", "stale", "none")}
        self._by_llm = {status: by_llm.labels(status) for status in ("called", "skipped", "fallback")}
        self._by_origin = {
            origin: by_origin.labels(origin) for origin in ("ahead", "behind", "waited", "kept", "rules", "generic")
        }
        self.stale = self._counter("stale_served", "Tips from a context older than the SLA.")
        self.candidate_sets = self._counter("candidate_sets", "Sets of candidates stored, by origin.", "origin")
        self.undelivered = self._counter(
            "decisions_undelivered",
            "Logged decisions that reached nobody, by outcome: marked so in the log, or dropped.",
            "outcome",
        )
        self.reactions = self._counter("reactions", "Reactions stored, by reaction.", "reaction")

    def _declare_llm(self) -> None:
        self.llm_writings = self._counter(
            "llm_writings", "Sets that the LLM was to write, by outcome: stored, or the reason why not.", "outcome"
        )
        self.llm_calls = self._counter("llm_calls", "Calls of the LLM by outcome.", "outcome")
        self.llm_tokens = self._counter(
            "llm_tokens",
            "Tokens sent to and received from the LLM; cached: those of the input that its provider had in a cache.",
            "direction",
        )
        self.llm_cost = self._counter("llm_cost_usd", "Cost of the LLM in US dollars, as far as its price is known.")

    def _declare_todoist(self) -> None:
        self.todoist_calls = self._counter("todoist_calls", "Calls to Todoist by the service.")
        self.inline = self._counter(
            "inline_assemblies", "Assemblies of contexts by the service, by outcome.", "outcome"
        )
        self.users_prepared = self._counter(
            "users_prepared", "New users whose context was to be assembled before a request, by outcome.", "outcome"
        )
        self.todoist_events = self._counter(
            "todoist_events",
            "Deliveries of Todoist's webhooks by outcome: stored, older than a stored one, late and so only a hint,"
            " duplicate, foreign (of no active user), no_change (a new label), unknown, unreadable, refused (not"
            " signed), not_stored (a 503).",
            "outcome",
        )
        self.event_refreshes = self._counter(
            "event_refreshes",
            "Contexts to be refreshed because of an event before a likely request, by outcome: refreshed, failed, or"
            " superseded by another process or by a request. Each one is a full call to Todoist.",
            "outcome",
        )
        self.todoist_connects = self._counter(
            "todoist_connects", "Callbacks of users who connect their Todoist, by outcome.", "outcome"
        )

    def _declare_trust_in_events(self) -> None:
        self.events_trusted = self._gauge(
            "events_trusted",
            "1 if the silence of Todoist's events counts as freshness, otherwise 0.",
            of_group="livemostrecent",
        )
        self.events_miss_rate_bound = self._gauge(
            "events_miss_rate_bound",
            "Upper end of the 95 % interval of the share of changes that events miss.",
            of_group="livemostrecent",
        )
        self.event_changes = self._gauge(
            "event_changes",
            "Changes of the audits that count, by what was found: audited, or missed.",
            "found",
            of_group="livemostrecent",
        )
        self.event_delay_seconds = self._gauge(
            "event_delay_seconds",
            "Delay of the events of the last four weeks, by quantile.",
            "quantile",
            of_group="livemostrecent",
        )
        self.events_silent_seconds = self._gauge(
            "events_silent_seconds", "Seconds since the last event came.", of_group="livemostrecent"
        )

    def _declare_database(self) -> None:
        self.deleted_rows = self._counter("deleted_rows", "Rows deleted because of their age, by table.", "table")
        self.unreadable_rows = self._counter(
            "unreadable_rows", "Rows of Postgres that could not be read, by table.", "table"
        )
        self._pool = self._gauge(
            "database_connections", "Connections to Postgres by pool and state.", "pool", "state"
        )
        self.ready = self._gauge(
            "ready", "1 if the last check of /readyz succeeded, in each process, otherwise 0.", of_group="livemin"
        )

    def _declare_requests(self) -> None:
        self._responses = self._counter(
            "http_responses", "Responses by route; status 499: the client left before the response.",
            "route", "status", "reason",
        )  # fmt: skip
        self._response_children: dict[tuple[str, int, str], Counter] = {}
        self._refused_connections = self._counter(
            "connections_refused", "Connections that were refused or broken off without a request.", "reason"
        )
        self._requests = self._gauge("requests_under_way", "Requests that are being answered.")
        self._requests_limit = self._gauge("requests_limit", "The setting MAX_REQUESTS.")
        self._connections = self._gauge("connections_open", "Open HTTP connections.")
        self._connections_limit = self._gauge("connections_limit", "The setting MAX_CONNECTIONS.")
        self._queue = self._gauge("queue_length", "Items that wait for a batch, by queue.", "queue")

    def answered(self, source: str, llm: str, origin: str, seconds: float) -> None:
        """Count an answered tip. origin: of its candidates."""
        self._by_source[source].observe(seconds)
        self._by_llm[llm].inc()
        self._by_origin[origin].inc()
        if source == "stale":
            self.stale.inc()

    def responded(self, route: str, status: int, reason: str) -> None:
        """Count a response. route: a template; reason: one word."""
        key = (route, status, reason)
        child = self._response_children.get(key)
        if child is None:
            child = self._response_children[key] = self._responses.labels(route, str(status), reason)
        child.inc()

    def refused_connection(self, status: int, reason: str) -> None:
        """Count a connection that was ended without a request. status: of the response, 0 without one."""
        self._refused_connections.labels(reason).inc()
        if status:
            self.responded("none", status, reason)

    def watch_connections(self, n_open: Callable[[], int], limit: int) -> None:
        """Show the number of open connections, read by each update."""
        self._watch(self._connections, n_open)
        self._connections_limit.set(limit)

    def watch_requests(self, n_under_way: Callable[[], int], limit: int) -> None:
        """Show the number of requests under way, read by each update."""
        self._watch(self._requests, n_under_way)
        self._requests_limit.set(limit)

    def watch_queues(self, lengths: Mapping[str, Callable[[], int]]) -> None:
        """Show the lengths of queues, read by each update."""
        for queue, length in lengths.items():
            self._watch(self._queue.labels(queue), length)

    def watch_pools(self, pools: Mapping[str, Pool]) -> None:
        """Show the connections of pools, read by each update."""
        for name, pool in pools.items():
            self._watch(self._pool.labels(name, "idle"), pool.get_idle_size)
            self._watch(self._pool.labels(name, "in_use"), partial(_in_use, pool))

    async def update_watched(self) -> None:
        """Set the gauges of watched values, so that the other processes of the group show them, too."""
        self._read_watched()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format: of this process, or the sums of its group.

        The gauges of other processes have the values of their last update.
        """
        self._read_watched()
        registry = self.registry
        if (folder := os.environ.get(_FOLDER_VARIABLE)) is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _read_watched(self) -> None:
        for gauge, read in self._watched:
            gauge.set(read())

    def _watch(self, gauge: Gauge, read: Callable[[], float]) -> None:
        self._watched.append((gauge, read))

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(name, description, labels, registry=self.registry)

    def _gauge(
        self,
        name: str,
        description: str,
        *labels: str,
        of_group: Literal["livesum", "livemin", "livemostrecent"] = "livesum",
    ) -> Gauge:
        """Return a gauge. of_group: the value of a group of processes, from those of its processes that run."""
        return Gauge(name, description, labels, registry=self.registry, multiprocess_mode=of_group)


def _in_use(pool: Pool) -> int:
    return pool.get_size() - pool.get_idle_size()
