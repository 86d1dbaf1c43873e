"""Tips that the LLM writes ahead of probable requests, within a daily budget."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from assets.batches import BATCH_PRICE, TipBatches
from assets.engine.asset import Users
from assets.tip_sets import TipRequest, TipSets
from contexts.clock import Clock
from contexts.postgres.sql import queries, rows
from tips.served import read_tip
from tips.sets import LLM_AUTHORS, MIN_VALID_TIPS
from tips.validity import still_valid
from tips.worth import least_probability

if TYPE_CHECKING:
    from tips.generator import CandidateGenerator

log = logging.getLogger(__name__)

WORK = "tips_written"
"""The unit of the work: sets of candidates that the LLM wrote."""

_MAX_REFUSALS = 3
_LEAST_WAIT_S = 0.5
_PRICE_PERIOD = timedelta(days=30)


@dataclass(frozen=True)
class AheadSettings:
    """The bounds of writing ahead.

    price: of a call ahead of a request. value: of an answer from the LLM's tips instead of rule-based ones. Both are
    in prices of a call during a request.
    max_calls, max_cost_usd: calls of one day (UTC), and their cost.
    concurrency: calls under way in one task. timeout_s: seconds that one call may take.
    """

    price: float = 1.0
    value: float = 2.0
    max_calls: int = 10_000
    max_cost_usd: float = 10.0
    concurrency: int = 8
    timeout_s: float = 30.0

    @property
    def threshold(self) -> float:
        """The least probability of a request for which a set is worth its price: see docs/tips-ahead.md."""
        return least_probability(self.value, self.price)


class TipWriter:
    """Writes candidates ahead of probable requests.

    A set is stored as soon as the LLM has written it, so that no set is paid for again after a run that died.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        settings: AheadSettings,
        new_generator: Callable[[], CandidateGenerator] | None,
        *,
        clock: Clock,
        new_id: Callable[[], UUID],
        batches: TipBatches | None = None,
    ) -> None:
        """new_generator: makes the generator of one event loop; None if no tips are written ahead.

        batches: None if there is no batch to collect, and none is to be submitted.
        """
        self._connection = connection
        self._settings = settings
        self._new_generator = new_generator
        self._clock = clock
        self._batches = batches
        self._sets = TipSets(connection, clock=clock, new_id=new_id)
        self._sql = queries("tips_ahead")

    def demand(self, now: datetime, next_run: datetime, *, shards: Sequence[int] | None, n_shards: int) -> Users:
        """Return the users who get tips ahead of a request before the next run, with the instants of these requests.

        The statement `probable_requests` documents the rule. Users with a request in a batch under way are among
        them, because the answer may have arrived; they are the only ones if no tips are written ahead. With batches,
        users who will probably ask after the next run are among them, too. A first set that no request needs before
        the next run goes into a batch.
        """
        demand = dict(self._batches.demand(now, shards=shards, n_shards=n_shards)) if self._batches else {}
        if self._new_generator is None:
            return demand
        submitted = self._batches if self._batches and self._batches.submits else None
        if submitted:
            next_run, night = submitted.horizon(now)
            threshold = replace(self._settings, price=BATCH_PRICE).threshold
            if next_run < night:
                later = self._probable(next_run, night, threshold, shards, n_shards, with_first_sets=True)
                demand |= submitted.without_batched(later, now)
        threshold = self._settings.threshold
        return demand | self._probable(now, next_run, threshold, shards, n_shards, with_first_sets=submitted is None)

    def probabilities(self, now: datetime, next_run: datetime) -> Mapping[str, float]:
        """Return the probability of each user's request before the next run."""
        found = self._sql.request_forecasts(self._connection, now=now, next_run_at=next_run)
        return {user_id: probability for user_id, probability, _ in found}

    def prices(self, now: datetime) -> Mapping[str, float]:
        """Return the mean price of a set in US dollars under the name of the unit of work; empty if it is unknown."""
        if self._new_generator is None:
            return {}
        price = self._price_of_a_call(now)
        return {} if price is None else {WORK: price}

    def write(self, requests: Sequence[TipRequest], now: datetime) -> Mapping[str, int]:
        """Let the LLM write a set for each request at which fewer than two of its tips would still be valid.

        The answers of batches are collected first. With batches, requests after the next run go into a batch.
        Returns counts by name: sets written, collected and submitted; requests that need no set; and requests without
        a set, because the LLM failed or the day's budget is spent. docs/tips-ahead.md describes the names.
        """
        counts, later = Counter({WORK: 0}), list[TipRequest]()
        if self._batches:
            users = [request.user_id for request in requests]
            counts.update(self._batches.collect(users))
            under_way = self._batches.under_way(users)
            counts["tips_under_way"] = len(under_way)
            requests = [request for request in requests if request.user_id not in under_way]
            requests, later = self._batches.split(requests, now)
        if self._new_generator is None:
            return dict(counts)
        counts["tips_still_valid"] = len(requests) + len(later)
        requests, later = self._without_valid_tips(requests), self._without_valid_tips(later)
        counts["tips_still_valid"] -= len(requests) + len(later)
        if requests:
            counts.update(asyncio.run(self._write_all(requests, self._new_generator())))
        if later and self._batches:
            counts.update(self._batches.submit(later, self._batch_size()))
        return dict(counts)

    def finish_batches(self) -> None:
        """Clean up after batches that no request waits for: the provider keeps none of their files."""
        if self._batches:
            self._batches.finish()

    def sets(self, user_ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return each user's newest set that was written ahead, without its tips."""
        return rows(self._connection, self._sql.sets_ahead, {"user_ids": list(user_ids)})

    def _probable(
        self,
        now: datetime,
        next_run: datetime,
        threshold: float,
        shards: Sequence[int] | None,
        n_shards: int,
        *,
        with_first_sets: bool,
    ) -> dict[str, datetime]:
        users = self._sql.probable_requests(
            self._connection,
            now=now,
            next_run_at=next_run,
            threshold=threshold,
            with_first_sets=with_first_sets,
            shards=shards,
            n_shards=n_shards,
        )
        return dict(users)

    def _without_valid_tips(self, requests: Sequence[TipRequest]) -> list[TipRequest]:
        users = {"user_ids": [request.user_id for request in requests]}
        last = {row["user_id"]: row for row in rows(self._connection, self._sql.last_sets, users)}
        return [request for request in requests if _needs_set(last.get(request.user_id), request)]

    async def _write_all(self, requests: Sequence[TipRequest], generator: CandidateGenerator) -> Counter[str]:
        counts, left, pace = Counter[str](), list(requests), _Pace(self._settings.concurrency)
        while left:
            batch = left[: min(pace.concurrency, self._calls_left())]
            outcomes = await asyncio.gather(*(self._write(request, generator) for request in batch))
            counts.update(outcome.count for outcome in outcomes if outcome.is_final)
            waiting = [request for request, outcome in zip(batch, outcomes, strict=True) if not outcome.is_final]
            left = [*waiting, *left[len(batch) :]]
            wait_s = pace.wait_s(outcomes)
            if not batch or any(outcome.count == "not_called" for outcome in outcomes):
                return counts + _left_out(left, "the LLM does not answer" if batch else "the day's budget is spent")
            if wait_s is None or wait_s > self._settings.timeout_s:
                return counts + _left_out(left, "the LLM's provider refuses calls because of its limits")
            await asyncio.sleep(wait_s)
        return counts

    async def _write(self, request: TipRequest, generator: CandidateGenerator) -> _Outcome:
        """Write a set for one request."""
        called_at = self._clock()
        generation = await generator.generate(request.context, request.day, timeout_s=self._settings.timeout_s)
        if self._sets.store(request, generation, called_at):
            return _Outcome(WORK)
        if generation.wait_s is not None:
            return _Outcome("refused", generation.wait_s)
        return _Outcome("tips_failed" if generation.usage else "not_called")

    def _calls_left(self) -> int:
        """Return the number of calls that today's budget still allows; the last ones may exceed it by their cost."""
        n_calls, cost_usd = self._left(self._price_of_a_call(self._clock()))
        return n_calls if cost_usd > 0 else 0

    def _batch_size(self) -> int:
        """Return the number of requests in batches that today's budget still allows, at the mean price of past calls.

        The cost of a batch is known only at its end, so without a known price only the number of calls is bounded.
        """
        price = self._price_of_a_call(self._clock())
        n_calls, cost_usd = self._left(price)
        if cost_usd <= 0:
            return 0
        return int(min(n_calls, cost_usd / price)) if price else n_calls

    def _left(self, price: float | None) -> tuple[int, float]:
        """Return the calls and the US dollars left of today's budget; the dollars are negative if it is exceeded.

        price: of a request in a batch under way, whose cost is not known yet.
        """
        today = datetime.combine(self._clock().astimezone(UTC).date(), time(), UTC)
        n_calls, cost_usd = self._sql.spent_ahead(self._connection, since=today, price=price or 0.0)
        return max(0, self._settings.max_calls - n_calls), self._settings.max_cost_usd - cost_usd

    def _price_of_a_call(self, now: datetime) -> float | None:
        """Return the mean known cost of a call in US dollars; None if no cost is known."""
        price = self._sql.price_of_a_call(self._connection, since=now - _PRICE_PERIOD)
        return None if price is None else float(price)


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one call. count: the name of the count that it raises. wait_s: see `Generation`."""

    count: str
    wait_s: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether the request needs no other call in this run."""
        return self.count in (WORK, "tips_failed")


@dataclass
class _Pace:
    """The number of calls at a time, which is halved whenever the provider refuses calls because of its limits."""

    concurrency: int
    n_refusals: int = 0

    def wait_s(self, outcomes: Sequence[_Outcome]) -> float | None:
        """Return the seconds to wait after some calls: 0 if none was refused; None to give up."""
        given = [outcome.wait_s for outcome in outcomes if outcome.wait_s is not None]
        if not given:
            self.n_refusals = 0
            return 0.0
        has_progress = any(outcome.is_final for outcome in outcomes)
        self.concurrency, self.n_refusals = max(1, self.concurrency // 2), 1 if has_progress else self.n_refusals + 1
        return max(*given, _LEAST_WAIT_S * 2**self.n_refusals) if self.n_refusals < _MAX_REFUSALS else None


def _left_out(requests: Sequence[TipRequest], reason: str) -> Counter[str]:
    log.warning("%s: tips for %d users are not written ahead", reason, len(requests))
    return Counter({"tips_left_out": len(requests)})


def _needs_set(last: Mapping[str, Any] | None, request: TipRequest) -> bool:
    """Whether fewer than two of the LLM's tips in a user's last set are still valid at a request.

    A set that the LLM wrote for the same context and day is not written again, however few tips are in it.
    """
    if last is None or last["author"] not in LLM_AUTHORS or request.likely_at >= last["renew_at"]:
        return True
    try:
        tips = list(map(read_tip, last["tips"]))
        n_valid = len(still_valid(tips, last["subject_hashes"], request.context, request.day))
    except ValueError:  # a row that the service cannot read either: it makes new candidates
        return True
    is_of_day = timedelta(0) < last["expires_at"] - request.likely_at <= timedelta(days=1)
    is_same = last["author"] == "llm" and last["context_hash"] == request.context_hash and is_of_day
    return n_valid < MIN_VALID_TIPS and not is_same
