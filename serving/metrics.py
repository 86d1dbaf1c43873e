"""What Prometheus gets to see."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 8.0, 15.0)


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        seconds = Histogram(
            "tip_seconds", "Seconds until a tip was answered.", ["source"], buckets=_SECONDS, registry=self.registry
        )
        spoken = self._counter("tip_llm", "Tips by what the LLM had to do for them.", "llm")
        self._by_source = {source: seconds.labels(source) for source in ("stored", "inline", "stale", "none")}
        self._by_llm = {llm: spoken.labels(llm) for llm in ("called", "skipped", "fallback")}
        self.llm_calls = self._counter("llm_calls", "Calls of the LLM by how they ended.", "outcome")
        self.llm_tokens = self._counter("llm_tokens", "Tokens of the LLM.", "direction")
        self.llm_cost = self._counter("llm_cost_usd", "Cost of the LLM in US dollars, where its price is known.")
        self.inline = self._counter("inline_assemblies", "Contexts assembled during a request.", "outcome")
        self.stale = self._counter("stale_served", "Tips from a context older than the SLA.")
        self.todoist_calls = self._counter("todoist_calls", "Calls of Todoist during requests.")
        self.reactions = self._counter("reactions", "Reactions learned from.", "reaction")

    def answered(self, source: str, llm: str, seconds: float) -> None:
        """Count an answered tip."""
        self._by_source[source].observe(seconds)
        self._by_llm[llm].inc()
        if source == "stale":
            self.stale.inc()

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(name, words, labels, registry=self.registry)
