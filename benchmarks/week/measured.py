"""What is measured of a week, and the figures that are made of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answered:
    """A request and its answer. source, llm: as the service says; seconds: until the answer was there."""

    at: datetime
    user_id: str
    seconds: float
    source: str
    llm: str


@dataclass(frozen=True)
class Week:
    """What one competitor did in the week. answers: of those requests that were timed; todoist, llm: calls by cause,
    of all; spared: requests without a call of the LLM, by what spared it; authors: of the tips that were shown;
    by_user: Todoist calls of each user.
    """

    name: str
    n_requests: int
    answers: Sequence[Answered]
    todoist: Mapping[str, int]
    llm: Mapping[str, int]
    spared: Mapping[str, int]
    authors: Mapping[str, int]
    by_user: Mapping[str, int]

    @property
    def n_todoist(self) -> int:
        return sum(self.todoist.values())

    @property
    def n_llm(self) -> int:
        return sum(self.llm.values())

    @property
    def skipped(self) -> float:
        """Share of the requests for which no LLM was called."""
        return 1 - self.n_llm / self.n_requests

    def shares(self, field: str) -> dict[str, float]:
        """How the answers are spread over the values of a field."""
        counted = Counter(getattr(each, field) for each in self.answers)
        return {name: n / len(self.answers) for name, n in counted.most_common()}

    @property
    def quick(self) -> list[Answered]:
        """Answers that needed no LLM."""
        return [each for each in self.answers if each.llm != "called"]

    @property
    def slow(self) -> list[Answered]:
        """Answers that the LLM was called for."""
        return [each for each in self.answers if each.llm == "called"]


def percentiles(answers: Iterable[Answered]) -> dict[str, float]:
    """p50, p95 and p99 of the seconds; empty where there are no answers."""
    seconds = [each.seconds for each in answers]
    return {f"p{p}": float(np.percentile(seconds, p)) for p in (50, 95, 99)} if seconds else {}


def to_json(week: Week) -> dict[str, Any]:
    """All figures of a week, without the answers themselves."""
    pairs = sorted({(each.source, each.llm) for each in week.answers})
    return {
        "name": week.name,
        "n_requests": week.n_requests,
        "n_timed": len(week.answers),
        "todoist_calls": week.n_todoist,
        "todoist_calls_by_cause": dict(week.todoist),
        "todoist_calls_by_its_own_log": sum(week.by_user.values()),
        "llm_calls": week.n_llm,
        "llm_calls_by_cause": dict(week.llm),
        "llm_spared_by_cause": dict(week.spared),
        "llm_skipped": week.skipped,
        "tips_by_author": dict(week.authors),
        "seconds": {
            "all": percentiles(week.answers),
            "no LLM": percentiles(week.quick),
            "LLM": percentiles(week.slow),
        },
        "sources": week.shares("source"),
        "llm": week.shares("llm"),
        "seconds_by_source_and_llm": {
            f"{source}, {llm}": _group([each for each in week.answers if (each.source, each.llm) == (source, llm)])
            for source, llm in pairs
        },
    }


def _group(answers: Sequence[Answered]) -> dict[str, float]:
    return {"n": len(answers), **percentiles(answers)}
