"""The measurements of one simulated week and the figures derived from them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TimedAnswer:
    """A request and its answer.

    seconds: time until the answer.
    source, llm: as in the answer of the service.
    """

    at: datetime
    user_id: str
    seconds: float
    source: str
    llm: str


@dataclass(frozen=True)
class WeekResult:
    """The measurements of one system.

    answers: the timed ones of all `n_requests` answers.
    todoist, llm: calls for all requests by cause.
    saved: requests without an LLM call, by the reason that saved the call.
    authors: shown tips by author.
    by_user: Todoist calls of each user.
    """

    name: str
    n_requests: int
    answers: Sequence[TimedAnswer]
    todoist: Mapping[str, int]
    llm: Mapping[str, int]
    saved: Mapping[str, int]
    authors: Mapping[str, int]
    by_user: Mapping[str, int]

    @property
    def n_todoist(self) -> int:
        """The number of Todoist calls."""
        return sum(self.todoist.values())

    @property
    def n_llm(self) -> int:
        """The number of LLM calls."""
        return sum(self.llm.values())

    @property
    def saved_share(self) -> float:
        """The share of requests without an LLM call."""
        return 1 - self.n_llm / self.n_requests

    def shares(self, field: str) -> dict[str, float]:
        """The share of answers with each value of a field."""
        counts = Counter(getattr(answer, field) for answer in self.answers)
        return {value: n / len(self.answers) for value, n in counts.most_common()}

    @property
    def answers_without_llm(self) -> list[TimedAnswer]:
        """The answers without an LLM call."""
        return [answer for answer in self.answers if answer.llm != "called"]

    @property
    def answers_with_llm(self) -> list[TimedAnswer]:
        """The answers with an LLM call."""
        return [answer for answer in self.answers if answer.llm == "called"]


def percentiles(answers: Iterable[TimedAnswer]) -> dict[str, float]:
    """p50, p95 and p99 of the seconds; empty without answers."""
    seconds = [answer.seconds for answer in answers]
    return {f"p{p}": float(np.percentile(seconds, p)) for p in (50, 95, 99)} if seconds else {}


def to_json(week: WeekResult) -> dict[str, Any]:
    """All figures of a week, without the single answers."""
    pairs = sorted({(answer.source, answer.llm) for answer in week.answers})
    return {
        "name": week.name,
        "n_requests": week.n_requests,
        "n_timed": len(week.answers),
        "todoist_calls": week.n_todoist,
        "todoist_calls_by_cause": dict(week.todoist),
        "todoist_calls_by_its_own_log": sum(week.by_user.values()),
        "llm_calls": week.n_llm,
        "llm_calls_by_cause": dict(week.llm),
        "llm_saved_by_cause": dict(week.saved),
        "llm_skipped": week.saved_share,
        "tips_by_author": dict(week.authors),
        "seconds": {
            "all": percentiles(week.answers),
            "no LLM": percentiles(week.answers_without_llm),
            "LLM": percentiles(week.answers_with_llm),
        },
        "sources": week.shares("source"),
        "llm": week.shares("llm"),
        "seconds_by_source_and_llm": {
            f"{source}, {llm}": _group([each for each in week.answers if (each.source, each.llm) == (source, llm)])
            for source, llm in pairs
        },
    }


def _group(answers: Sequence[TimedAnswer]) -> dict[str, float]:
    return {"n": len(answers), **percentiles(answers)}
