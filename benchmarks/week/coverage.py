"""The share of requests that found tips of the LLM, and the sets that nobody saw, from the tables of the service."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import psycopg
from genai_prices import Usage, calc_price

from assets.batches import BATCH_PRICE
from benchmarks.week.workload import MONDAY

PRICED_MODEL = "gpt-5-mini"
"""The model at whose list price calls are valued; the stand-in counts tokens as that model roughly would."""

_REQUESTS = """
    SELECT d.user_id, d.decided_at,
           CASE WHEN s.author IN ('llm', 'kept')
                THEN (SELECT count(*) FROM unnest(s.subject_hashes) AS each WHERE each <> '')
                ELSE 0 END AS n_llm_tips,
           coalesce(s.author IN ('llm', 'kept') AND s.subject_hashes[d.chosen + 1] <> '', FALSE) AS is_by_llm
    FROM decisions d LEFT JOIN candidate_sets s USING (candidate_set_id)
    WHERE d.decided_at >= %s AND d.chosen IS NOT NULL AND d.delivered
    ORDER BY d.decided_at
"""

_CALLS = """
    SELECT CASE WHEN EXISTS (
               SELECT FROM llm_batch_requests r JOIN llm_batches b USING (batch_id)
               WHERE r.user_id = c.user_id AND b.submitted_at = c.called_at
           ) THEN 'batch' ELSE coalesce(place, 'request') END,
           count(*), coalesce(sum(input_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(output_tokens), 0)
    FROM llm_calls c WHERE called_at >= %s GROUP BY 1
"""

_SETS = """
    SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (
        SELECT FROM decisions d LEFT JOIN candidate_sets k USING (candidate_set_id)
        WHERE d.user_id = s.user_id AND s.candidate_set_id IN (d.candidate_set_id, k.kept_from)
    ))
    FROM candidate_sets s WHERE s.author = 'llm' AND s.made_at >= %s
"""

_MIN_TIPS = 2
_FIRST_TIPS = 3


@dataclass(frozen=True)
class Coverage:
    """What the requests of the week found.

    covered: the share of requests with at least two valid tips of the LLM, of users who were there before the week;
    covered_joiners: of those who joined. first_by_llm: the share of the LLM's tips among each joiner's first three.
    calls: of the LLM by place: in the request, behind an answer, ahead, in a batch. n_tokens: of all calls.
    cost_usd: at the list price of PRICED_MODEL, requests in batches at half of it. n_sets: sets that the LLM wrote;
    n_never_shown: those of which no tip was shown.
    """

    covered: float
    covered_joiners: float
    first_by_llm: float
    calls: Mapping[str, int]
    n_tokens: int
    cost_usd: float
    n_sets: int
    n_never_shown: int

    @property
    def n_calls(self) -> int:
        """The number of calls of the LLM."""
        return sum(self.calls.values())


def measure_coverage(connection: psycopg.Connection[Any], joiners: Collection[str]) -> Coverage:
    """Read the coverage of the week from the tables of the service. joiners: users who joined during the week."""
    requests = connection.execute(_REQUESTS, [MONDAY]).fetchall()
    first: dict[str, list[bool]] = {}
    for user, _, _, is_by_llm in requests:
        if user in joiners:
            first.setdefault(user, []).append(is_by_llm)
    calls = connection.execute(_CALLS, [MONDAY]).fetchall()
    [(n_sets, n_never_shown)] = connection.execute(_SETS, [MONDAY]).fetchall()
    return Coverage(
        covered=_share([n >= _MIN_TIPS for user, _, n, _ in requests if user not in joiners]),
        covered_joiners=_share([n >= _MIN_TIPS for user, _, n, _ in requests if user in joiners]),
        first_by_llm=_share([is_by_llm for tips in first.values() for is_by_llm in tips[:_FIRST_TIPS]]),
        calls={place: n for place, n, *_ in calls},
        n_tokens=int(sum(n_input + n_output for _, _, n_input, _, n_output in calls)),
        cost_usd=sum(_cost_usd(place, *map(int, n_tokens)) for place, _, *n_tokens in calls),
        n_sets=n_sets,
        n_never_shown=n_never_shown,
    )


def _cost_usd(place: str, n_input: int, n_cached: int, n_output: int) -> float:
    usage = Usage(input_tokens=n_input, cache_read_tokens=n_cached, output_tokens=n_output)
    return float(calc_price(usage, PRICED_MODEL).total_price) * (BATCH_PRICE if place == "batch" else 1.0)


@dataclass(frozen=True)
class Forecast:
    """The probabilities of requests between two runs, by user."""

    at: datetime
    until: datetime
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class CalibrationBin:
    """Forecasts with similar probabilities: their number, their mean probability, and the share that came true."""

    n: int
    forecast: float
    came_true: float


_BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0001)


def calibration(forecasts: Sequence[Forecast], requests: Sequence[tuple[str, datetime]]) -> list[CalibrationBin]:
    """Compare forecasts with what happened. requests: user and instant of each request."""
    by_user: dict[str, list[datetime]] = {}
    for user, at in requests:
        by_user.setdefault(user, []).append(at)
    pairs = [
        (probability, any(each.at <= at < each.until for at in by_user.get(user, ())))
        for each in forecasts
        for user, probability in each.probabilities.items()
    ]
    bins = []
    for low, high in pairwise(_BINS):
        inside = [(probability, is_true) for probability, is_true in pairs if low <= probability < high]
        if inside:
            mean = sum(probability for probability, _ in inside) / len(inside)
            bins.append(CalibrationBin(len(inside), mean, _share([is_true for _, is_true in inside])))
    return bins


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")
