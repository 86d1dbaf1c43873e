"""Tips written ahead of requests: for whom, by the LLM within a budget, into the table of candidates."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg

from assets.engine.asset import Users
from contexts.assembly.model import UserContext
from contexts.clock import CLOCK_DIFFERENCE, Clock
from contexts.postgres.sql import queries, rows
from tips.served import read_tip
from tips.sets import MIN_VALID_TIPS, written_set
from tips.validity import still_valid

if TYPE_CHECKING:
    from tips.generator import CandidateGenerator, Generation

log = logging.getLogger(__name__)

WORK = "tips_written"
"""The unit of the work: sets of candidates that the LLM wrote."""

_SHARE_INVALID = 0.2
"""The share of the sets of which fewer than two tips are still valid at the request that they were written for."""

_WORTH_OF_NO_WAIT = 3.0
"""The worth of a request that does not wait for the LLM, in worths of tips by the LLM instead of by rules."""

_N_DAYS = 21
_DECAY = 0.9
_PRIOR_DAYS = 1.0
_PRICE_PERIOD = timedelta(days=30)


@dataclass(frozen=True)
class AheadSettings:
    """The bounds of writing ahead.

    price: of a call ahead of a request, in prices of a call during one. value: of an answer from the LLM's tips
    instead of rule-based ones, in prices of a call during a request. max_calls, max_cost_usd: of one day (UTC).
    concurrency: of calls in one task. timeout_s: of one call.
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
        return self.price / ((1 - _SHARE_INVALID) * (1 + self.value))

    @property
    def first_threshold(self) -> float:
        """The same for a user for whom the LLM never wrote: such a request waits for the LLM."""
        return self.price / ((1 - _SHARE_INVALID) * (1 + _WORTH_OF_NO_WAIT * self.value))


@dataclass(frozen=True)
class TipRequest:
    """A probable request for a tip, with the context as of the day of the request."""

    user_id: str
    connection_number: int
    context: UserContext
    context_hash: str
    likely_at: datetime

    @property
    def zone(self) -> ZoneInfo:
        """The user's time zone."""
        return ZoneInfo(self.context.profile.timezone)

    @property
    def day(self) -> date:
        """The user's date at the request."""
        return self.likely_at.astimezone(self.zone).date()


class TipWriter:
    """Writes candidates ahead of probable requests.

    A set is stored as soon as the LLM has written it: a run that dies pays for nothing twice.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        settings: AheadSettings,
        new_generator: Callable[[], CandidateGenerator] | None,
        *,
        clock: Clock,
        new_id: Callable[[], UUID],
    ) -> None:
        """new_generator: makes the generator of one event loop; None: nothing is written ahead."""
        self._connection = connection
        self._settings = settings
        self._new_generator = new_generator
        self._clock = clock
        self._new_id = new_id
        self._sql, self._serving = queries("tips_ahead"), queries("serving")

    def demand(self, now: datetime, next_run: datetime, *, shard: int | None, n_shards: int) -> Users:
        """Return the users who will probably ask before the next run, with the instants of these requests.

        Nobody if nothing is written ahead.
        """
        if self._new_generator is None:
            return {}
        thresholds = self._settings.threshold, self._settings.first_threshold
        probable = self._probable(now, next_run, thresholds, shard, n_shards)
        return {row["user_id"]: row["likely_at"] for row in probable}

    def probabilities(self, now: datetime, next_run: datetime) -> Mapping[str, float]:
        """Return the probability of each user's request before the next run."""
        return {row["user_id"]: row["probability"] for row in self._probable(now, next_run, (0.0, 0.0), None, 1)}

    def prices(self, now: datetime) -> Mapping[str, float]:
        """Return the mean price of a set in US dollars by the unit of work; empty if it is unknown."""
        if self._new_generator is None:
            return {}
        price = self._sql.price_of_a_call(self._connection, since=now - _PRICE_PERIOD)
        return {} if price is None else {WORK: float(price)}

    def write(self, requests: Sequence[TipRequest]) -> Mapping[str, int]:
        """Let the LLM write a set for each request at which fewer than two of its tips would still be valid.

        Returns counts: sets written, requests that need none, and those without a set because the LLM failed or the
        day's budget is spent.
        """
        if self._new_generator is None:
            return {}
        needed = self._without_valid_tips(requests)
        counts = Counter({"tips_still_valid": len(requests) - len(needed)})
        if needed:
            counts += asyncio.run(self._write_all(needed, self._new_generator()))
        return dict(counts)

    def sets(self, user_ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return each user's newest set that was written ahead, without its tips."""
        return rows(self._connection, self._sql.sets_ahead, {"user_ids": list(user_ids)})

    def _probable(
        self, now: datetime, next_run: datetime, thresholds: tuple[float, float], shard: int | None, n_shards: int
    ) -> list[dict[str, Any]]:
        """Read the probable requests. thresholds: of users for whom the LLM wrote before, and of all others."""
        values = {
            "now": now,
            "next_run_at": next_run,
            "threshold": thresholds[0],
            "first_threshold": thresholds[1],
            "n_days": _N_DAYS,
            "decay": _DECAY,
            "prior_days": _PRIOR_DAYS,
            "shard": shard,
            "n_shards": n_shards,
        }
        return rows(self._connection, self._sql.probable_requests, values)

    def _without_valid_tips(self, requests: Sequence[TipRequest]) -> list[TipRequest]:
        users = {"user_ids": [request.user_id for request in requests]}
        last = {row["user_id"]: row for row in rows(self._connection, self._sql.last_sets, users)}
        return [request for request in requests if _n_valid(last.get(request.user_id), request) < MIN_VALID_TIPS]

    async def _write_all(self, requests: Sequence[TipRequest], generator: CandidateGenerator) -> Counter[str]:
        counts, size = Counter[str](), self._settings.concurrency
        for begin in range(0, len(requests), size):
            batch = requests[begin : begin + min(size, self._calls_left())]
            outcomes = await asyncio.gather(*(self._write(request, generator) for request in batch))
            counts.update(outcomes)
            if "not_called" in outcomes or len(batch) < len(requests[begin : begin + size]):
                reason = "the LLM does not answer" if "not_called" in outcomes else "the day's budget is spent"
                n_left = len(requests) - begin - len(batch) + counts.pop("not_called", 0)
                log.warning("%s: tips for %d users are not written ahead", reason, n_left)
                return counts + Counter({"tips_left_out": n_left})
        return counts

    async def _write(self, request: TipRequest, generator: CandidateGenerator) -> str:
        """Write a set for one request; returns the outcome as a count's name."""
        called_at = self._clock()
        generation = await generator.generate(request.context, request.day, timeout_s=self._settings.timeout_s)
        set_id = self._store(request, generation) if generation.tips else None
        if generation.usage is not None:
            self._serving.write_llm_call(
                self._connection,
                called_at=called_at,
                user_id=request.user_id,
                candidate_set_id=set_id,
                place="ahead",
                **vars(generation.usage),
            )
        if set_id is not None:
            return WORK
        return "tips_failed" if generation.usage else "not_called"

    def _store(self, request: TipRequest, generation: Generation) -> UUID | None:
        """Store a set; None if the account was replaced or removed meanwhile, or Postgres refuses a value of it."""
        candidates = written_set(
            generation.tips,
            request.context,
            set_id=(set_id := self._new_id()),
            context_hash=request.context_hash,
            origin="ahead",
            zone=request.zone,
            now=request.likely_at,
            made_at=self._clock(),
        )
        try:
            is_written = self._serving.write_candidates(
                self._connection,
                user_id=request.user_id,
                connection_number=request.connection_number,
                clock_difference=CLOCK_DIFFERENCE,
                candidate_set_id=set_id,
                **{name: getattr(candidates, name) for name in _SET_COLUMNS},
            )
        except psycopg.DataError as error:  # its message can hold the user's texts
            log.warning("user %s: tips written ahead are not stored, %s", request.user_id, type(error).__name__)
            return None
        return set_id if is_written else None

    def _calls_left(self) -> int:
        """Return the number of calls that today's budget still allows; the last ones may exceed it by their cost."""
        today = datetime.combine(self._clock().astimezone(UTC).date(), time(), UTC)
        n_calls, cost_usd = self._sql.spent_ahead(self._connection, since=today)
        return 0 if cost_usd >= self._settings.max_cost_usd else max(0, self._settings.max_calls - n_calls)


_SET_COLUMNS = (
    "context_hash", "author", "origin", "kept_from", "made_at", "expires_at", "renew_at", "tips", "subject_hashes",
    "kinds", "themes", "features",
)  # fmt: skip


def _n_valid(last: Mapping[str, Any] | None, request: TipRequest) -> int:
    """Return the number of the LLM's tips in a user's last set that are still valid at a request."""
    if last is None or last["author"] not in ("llm", "kept") or request.likely_at >= last["renew_at"]:
        return 0
    try:
        tips = list(map(read_tip, last["tips"]))
        return len(still_valid(tips, last["subject_hashes"], request.context, request.day))
    except ValueError:  # a row that the service cannot read either: it makes new candidates
        return 0
