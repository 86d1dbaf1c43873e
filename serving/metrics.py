"""Metrics of the service for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

_LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 8.0, 15.0)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        seconds = Histogram(
            "tip_seconds",
            "Seconds until a tip was answered.",
            ["source"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        by_llm = self._counter("tip_llm", "Tips by the LLM's part in them.", "llm")
        self._by_source = {source: seconds.labels(source) for source in ("stored", "inline", "stale", "none")}
        self._by_llm = {llm: by_llm.labels(llm) for llm in ("called", "skipped", "fallback")}
        self.llm_calls = self._counter("llm_calls", "Calls of the LLM by outcome.", "outcome")
        self.llm_tokens = self._counter("llm_tokens", "Tokens sent to and received from the LLM.", "direction")
        self.llm_cost = self._counter("llm_cost_usd", "Cost of the LLM in US dollars, as far as its price is known.")
        self.inline = self._counter(
            "inline_assemblies", "Assemblies of contexts during requests, by outcome.", "outcome"
        )
        self.stale = self._counter("stale_served", "Tips from a context older than the SLA.")
        self.todoist_calls = self._counter("todoist_calls", "Calls to Todoist during requests.")
        self.reactions = self._counter("reactions", "Reactions stored, by reaction.", "reaction")

    def answered(self, source: str, llm: str, seconds: float) -> None:
        """Count an answered tip."""
        self._by_source[source].observe(seconds)
        self._by_llm[llm].inc()
        if source == "stale":
            self.stale.inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(name, description, labels, registry=self.registry)
