"""Tips ahead of requests from batches, which a run submits to the LLM's provider and later runs collect."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from assets.engine.asset import Users
from assets.engine.errors import AssetError
from assets.tip_sets import TipRequest, TipSets
from contexts.assembly.model import UserContext
from contexts.clock import Clock
from contexts.postgres.locks import locked
from contexts.postgres.sql import queries, rows
from tips.batch_handles import (
    BATCH_WINDOW,
    MAX_BATCH_REQUESTS,
    BatchedRequest,
    BatchError,
    BatchHandle,
    BatchLost,
    has_ended,
    is_canceling,
    outcome_of,
)

if TYPE_CHECKING:
    from tips.batches import CandidateBatches
    from tips.generator import Generation

log = logging.getLogger(__name__)

BATCH_PRICE = 0.5
"""The price of a request in a batch, in prices of a call at once."""

BATCH_LEAD = timedelta(hours=2)
"""The least time before a probable request at which a batch is submitted for it: half of all batches take longer."""

_LISTED_AFTER = timedelta(minutes=10)
"""The age at which a batch that the provider does not list counts as never created."""

_GIVEN_UP_AFTER = timedelta(hours=12)
"""The time after its expiry at which a batch that cannot be collected is given up."""

_KEPT = timedelta(days=7)
"""The time for which the records of batches that ended are kept."""


class Schedule(Protocol):
    """The times of runs, which the settings of the pipeline have."""

    def next_run(self, at: datetime) -> datetime:
        """Return the instant of the first scheduled run after `at`."""
        ...

    def last_night(self, at: datetime) -> datetime:
        """Return the last instant up to `at` at which a night began."""
        ...


@dataclass(frozen=True)
class _UnderWay:
    """A request in a batch whose answer has not been read.

    is_superseded: whether the LLM has written for the user since the batch was submitted.
    """

    request: TipRequest
    custom_id: str
    is_superseded: bool


class TipBatches:
    """The batches of requests to the LLM ahead of requests for tips.

    A batch is recorded before it is submitted, and carries the id of the record. If a run dies in between, the next
    run finds the batch by this id: nothing is paid for twice, and no file stays at the provider.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        new_client: Callable[[str], CandidateBatches],
        schedule: Schedule,
        *,
        model: str | None,
        clock: Clock,
        new_id: Callable[[], UUID],
    ) -> None:
        """new_client: makes the client of one event loop for a model; raises AssetError if that is not possible.

        model: of new batches; None: no batch is submitted, and those under way are collected.
        """
        self._connection = connection
        self._new_client = new_client
        self._schedule = schedule
        self._model = model
        self._clock = clock
        self._new_id = new_id
        self._sets = TipSets(connection, clock=clock, new_id=new_id)
        self._sql = queries("tip_batches")

    @property
    def submits(self) -> bool:
        """Whether batches are submitted."""
        return self._model is not None

    def horizon(self, now: datetime) -> tuple[datetime, datetime]:
        """Return the begin and the end of the time whose probable requests go into a batch; it ends at a night."""
        soon = max(self._schedule.next_run(now), now + BATCH_LEAD if self.submits else now)
        return soon, max(soon, self._schedule.last_night(now) + timedelta(days=1))

    def demand(self, now: datetime, *, shards: Sequence[int] | None, n_shards: int) -> Users:
        """Return the users with a request in a batch under way, each with the end of `horizon`."""
        found = self._sql.users_under_way(self._connection, shards=shards, n_shards=n_shards)
        _, end = self.horizon(now)
        return {user: end for (user,) in found}

    def without_batched(self, users: Users, now: datetime) -> Users:
        """Return those of the users who have had no request in a batch since the last night."""
        since = self._schedule.last_night(now)
        batched = {user for (user,) in self._sql.users_batched(self._connection, user_ids=list(users), since=since)}
        return {user: at for user, at in users.items() if user not in batched}

    def under_way(self, user_ids: Collection[str]) -> frozenset[str]:
        """Return those of the users who have a request in a batch under way."""
        found = self._sql.among_under_way(self._connection, user_ids=list(user_ids))
        return frozenset(user for (user,) in found)

    def split(self, requests: Sequence[TipRequest], now: datetime) -> tuple[Sequence[TipRequest], list[TipRequest]]:
        """Return the requests to write for at once, and those to submit in a batch.

        Requests after the horizon are in neither: their users are here only because of a batch that has ended by now.
        """
        soon, end = self.horizon(now)
        at_once = [request for request in requests if request.likely_at < soon]
        later = {request.user_id: request for request in requests if self.submits and soon <= request.likely_at < end}
        return at_once, [later[user] for user in self.without_batched(dict.fromkeys(later, now), now)]

    def submit(self, requests: Sequence[TipRequest], calls_left: int) -> Counter[str]:
        """Submit at most `calls_left` requests, in as few batches as possible; return counts by name."""
        allowed = requests[:calls_left]
        counts = Counter({"tips_left_out": len(requests) - len(allowed)})
        if counts["tips_left_out"]:
            log.warning("the day's budget is spent: tips for %d users are not written ahead", counts["tips_left_out"])
        for begin in range(0, len(allowed), MAX_BATCH_REQUESTS):
            counts += self._submit(allowed[begin : begin + MAX_BATCH_REQUESTS])
        return counts

    def collect(self, user_ids: Collection[str]) -> Counter[str]:
        """Store the answers of the ended batches with requests of these users; return counts by name."""
        counts = Counter[str]()
        for batch_id, _ in list(self._sql.batches_of_users(self._connection, user_ids=list(user_ids))):
            counts += self._advance(batch_id)
        return counts

    def finish(self) -> None:
        """Cancel batches whose users were all removed, give up lost ones, and delete the files of ended ones."""
        now = self._clock()
        overdue = now - BATCH_WINDOW - _GIVEN_UP_AFTER
        for (batch_id,) in list(self._sql.batches_to_finish(self._connection, overdue=overdue)):
            self._advance(batch_id)
        self._sql.forget_batches(self._connection, before=now - _KEPT)

    def _submit(self, requests: Sequence[TipRequest]) -> Counter[str]:
        assert self._model is not None
        batch_id, client = self._new_id(), self._new_client(self._model)
        named = {f"{batch_id.hex}-{n}": request for n, request in enumerate(requests)}
        with self._locked(batch_id):
            recorded = self._record_intent(batch_id, named)
            counts = Counter({"tips_left_out": len(requests) - len(recorded)})
            if not recorded:
                self._close(batch_id, "not submitted")
                return counts
            try:
                handle = asyncio.run(client.submit(batch_id, recorded))
            except (BatchError, BatchLost) as error:
                log.warning("the batch of tips for %d users is not submitted: %s", len(recorded), error)
                return counts + Counter({"tips_left_out": len(recorded)})
            self._record_submission(batch_id, handle)
        return counts + Counter({"tips_submitted": len(recorded)})

    def _record_intent(self, batch_id: UUID, requests: Mapping[str, TipRequest]) -> list[BatchedRequest]:
        """Record a batch; return its requests, without those of accounts that were replaced or removed meanwhile."""
        now, recorded = self._clock(), list[BatchedRequest]()
        with self._connection.transaction():
            self._sql.add_batch(
                self._connection,
                batch_id=batch_id,
                model=self._model,
                created_at=now,
                expires_at=now + BATCH_WINDOW,
            )
            for custom_id, request in requests.items():
                is_recorded = self._sql.add_batch_request(
                    self._connection,
                    batch_id=batch_id,
                    custom_id=custom_id,
                    user_id=request.user_id,
                    connection_number=request.connection_number,
                    context_hash=request.context_hash,
                    context_json=request.context.model_dump_json(),
                    likely_at=request.likely_at,
                )
                if is_recorded:
                    recorded.append(BatchedRequest(custom_id, request.context, request.day))
        return recorded

    def _record_submission(self, batch_id: UUID, handle: BatchHandle) -> None:
        created_at = datetime.fromisoformat(handle["created_at"])
        self._sql.record_submission(
            self._connection,
            batch_id=batch_id,
            handle=Jsonb(dict(handle)),
            submitted_at=created_at,
            expires_at=created_at + BATCH_WINDOW,
        )

    def _advance(self, batch_id: UUID) -> Counter[str]:
        """Take a batch to the next state that the provider allows; return the counts of the answers read."""
        with self._locked(batch_id):
            [batch] = rows(self._connection, self._sql.batch, {"batch_id": batch_id})
            if batch["files_deleted_at"] is not None:
                return Counter()
            counts = Counter[str]()
            try:
                client = self._new_client(batch["model"])
                asyncio.run(self._advance_with(client, batch, counts))
            except (BatchError, BatchLost, AssetError) as error:
                log.warning("batch %s cannot be collected yet: %s", batch_id, error)
                if self._clock() >= batch["expires_at"] + _GIVEN_UP_AFTER:
                    self._close(batch_id, "lost")
            return counts

    async def _advance_with(self, client: CandidateBatches, batch: Mapping[str, Any], counts: Counter[str]) -> None:
        batch_id, handle = batch["batch_id"], batch["handle"]
        if handle is None and (handle := await self._found(client, batch)) is None:
            return
        if batch["ended_at"] is None:
            try:
                handle = await self._refreshed(client, batch_id, handle)
                if not has_ended(handle):
                    return
                await self._read(client, batch, handle, counts)
                self._end(batch_id, outcome_of(handle))
            except BatchLost as error:
                log.warning("batch %s is lost: %s", batch_id, error)
                self._end(batch_id, "lost")
        await client.delete_files(handle)
        self._sql.record_deletion(self._connection, batch_id=batch_id, deleted_at=self._clock())

    async def _found(self, client: CandidateBatches, batch: Mapping[str, Any]) -> BatchHandle | None:
        """Return the batch that was submitted by a run which died before it recorded that; None if there is none."""
        batch_id = batch["batch_id"]
        if (handle := await client.find(batch_id, batch["created_at"])) is not None:
            log.warning("batch %s was submitted by a run that died; it is collected", batch_id)
            self._record_submission(batch_id, handle)
        elif self._clock() - batch["created_at"] >= _LISTED_AFTER:
            self._close(batch_id, "not submitted")
        return handle

    async def _refreshed(self, client: CandidateBatches, batch_id: UUID, handle: BatchHandle) -> BatchHandle:
        """Return the present state of a batch, after its cancellation if none of its users is left."""
        handle = await client.refresh(handle)
        if not has_ended(handle) and not is_canceling(handle) and not self._requests(batch_id):
            handle = await client.cancel(handle)
        self._sql.update_handle(self._connection, batch_id=batch_id, handle=Jsonb(dict(handle)))
        return handle

    async def _read(
        self, client: CandidateBatches, batch: Mapping[str, Any], handle: BatchHandle, counts: Counter[str]
    ) -> None:
        """Store the answers of an ended batch, each together with the end of its request."""
        requests = self._requests(batch["batch_id"])
        batched = [BatchedRequest(each.custom_id, each.request.context, each.request.day) for each in requests]
        results = await client.results(handle, batched)
        for each in requests:
            with self._connection.transaction():
                counts[self._stored(each, results[each.custom_id], handle)] += 1
                self._sql.end_request(
                    self._connection,
                    batch_id=batch["batch_id"],
                    user_id=each.request.user_id,
                    ended_at=self._clock(),
                )

    def _stored(self, each: _UnderWay, generation: Generation | None, handle: BatchHandle) -> str:
        """Store one answer; return the name of the count that it raises."""
        if generation is None:
            return "tips_left_out"
        submitted_at = datetime.fromisoformat(handle["created_at"])
        if generation.usage is not None:
            seconds = max(0.0, (self._clock() - submitted_at).total_seconds())
            generation = replace(generation, usage=replace(generation.usage, seconds=seconds))
        if each.is_superseded:
            generation = replace(generation, tips=())
        is_stored = self._sets.store(each.request, generation, submitted_at)
        return "tips_collected" if is_stored else "tips_superseded" if each.is_superseded else "tips_failed"

    def _requests(self, batch_id: UUID) -> list[_UnderWay]:
        """Return the requests under way, without those whose context this version of the code cannot read."""
        found = rows(self._connection, self._sql.requests_under_way, {"batch_id": batch_id})
        requests = [each for row in found if (each := _under_way(row))]
        if len(requests) < len(found):
            n_unreadable = len(found) - len(requests)
            log.warning("batch %s: %d requests have a context of another version", batch_id, n_unreadable)
        return requests

    def _close(self, batch_id: UUID, outcome: str) -> None:
        """End a batch of which the provider holds nothing that is still needed."""
        self._end(batch_id, outcome)
        self._sql.record_deletion(self._connection, batch_id=batch_id, deleted_at=self._clock())

    def _end(self, batch_id: UUID, outcome: str) -> None:
        self._sql.end_batch(self._connection, batch_id=batch_id, outcome=outcome, ended_at=self._clock())

    @contextmanager
    def _locked(self, batch_id: UUID) -> Iterator[None]:
        with locked(self._connection, f"llm_batch/{batch_id}"):
            yield


def _under_way(row: Mapping[str, Any]) -> _UnderWay | None:
    """Return a request under way; None if its context cannot be read."""
    try:
        context = UserContext.model_validate_json(row["context_json"])
    except ValueError:
        return None
    request = TipRequest(row["user_id"], row["connection_number"], context, row["context_hash"], row["likely_at"])
    return _UnderWay(request, row["custom_id"], row["is_superseded"])
